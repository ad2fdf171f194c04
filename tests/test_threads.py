"""Threads, forks and memory: nothing hangs, nothing leaks, nobody's step disturbs another's."""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import multiprocessing
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from runs.children import forked, killed_at_the_end
from tables.models import Array, arrays, assert_same_bits

LARGE = (70_000, 3, 33_000)  # together above the size where a step goes to several threads
STEPS = 30


def quiet_fork(test: Any) -> Any:
    """Python warns of a fork with threads running, and so does JAX if an earlier test loaded it."""
    for warning in (
        "ignore:.*multi-threaded.*:DeprecationWarning",
        "ignore:os.fork:RuntimeWarning",
    ):
        test = pytest.mark.filterwarnings(warning)(test)
    return test


# the locks of AddressSanitizer's allocator and list of threads stay locked in a child that is
# forked while another thread has them; the allocators of the systems and of Python are safe
beside_threads = pytest.mark.unsanitized


def run(seed: int, threads: int) -> list[Array]:
    fs.set_num_threads(threads)
    params = arrays(LARGE, np.float32, seed)
    opt = fs.AdamW(params, lr=0.1, clip_norm=1.0)
    grads = arrays(LARGE, np.float32, seed + 100)
    for _ in range(STEPS):
        opt.step(grads)
    return params


def test_eight_python_threads_stepping_their_own_models_get_the_serial_bits() -> None:
    expected = [run(seed, threads=1) for seed in range(8)]
    found: list[list[Array]] = [[] for _ in range(8)]
    barrier = threading.Barrier(8)

    def work(seed: int) -> None:
        barrier.wait()
        found[seed] = run(seed, threads=4)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for a, b in zip(found, expected, strict=True):
        assert_same_bits(a, b)


def test_a_second_thread_in_the_same_optimizer_is_refused() -> None:
    opt = fs.AdamW(np.zeros(3_000_000))
    grads = np.ones(3_000_000)
    outcomes: list[str] = []
    barrier = threading.Barrier(2)

    def work() -> None:
        for _ in range(30):
            barrier.wait()
            try:
                opt.step(grads)
            except fs.StateError as error:
                outcomes.append(str(error))
            else:
                outcomes.append("stepped")

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert set(outcomes) == {
        "stepped",
        "this optimizer is already inside a call of another thread",
    }
    assert opt.steps_applied == outcomes.count("stepped")


def _digest(params: list[Array]) -> str:
    return hashlib.sha256(b"".join(p.tobytes() for p in params)).hexdigest()


def _child(queue: Any) -> None:
    queue.put(_digest(run(5, threads=4)))


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@quiet_fork
def test_a_child_started_after_a_parallel_step_steps_in_parallel_too(method: str) -> None:
    expected = _digest(run(5, threads=4))
    context = multiprocessing.get_context(method)
    for _ in range(20 if method == "fork" else 2):
        run(6, threads=4)
        queue = context.SimpleQueue()
        child = context.Process(target=_child, args=(queue,))
        child.start()
        with killed_at_the_end(child):
            child.join(timeout=60)
            assert child.exitcode == 0, "the child hangs or has died"
        assert queue.get() == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@beside_threads
@quiet_fork
def test_a_fork_in_the_middle_of_another_threads_step_does_not_hang() -> None:
    stop = threading.Event()
    busy = threading.Thread(target=lambda: [run(1, threads=4) for _ in iter(stop.is_set, True)])
    busy.start()
    try:
        for _ in range(20):
            with forked(lambda: run(2, threads=4)):
                pass
    finally:
        stop.set()
        busy.join()


def assert_rows(batches: Any, expected: list[bytes]) -> None:
    assert [batch.data.tobytes() for batch in batches] == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize(
    "native",
    [
        pytest.param(True, id="gathered natively"),
        pytest.param(False, id="read in Python", marks=beside_threads),
    ],
)
@quiet_fork
def test_a_fork_in_the_middle_of_a_loop_does_not_hang_and_loses_no_sample(native: bool) -> None:
    class Rows:
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, indices: Array) -> Array:
            return x[indices]

    fs.set_num_threads(4)
    x = np.random.default_rng(0).random((20_000, 50))
    expected = [batch.data.tobytes() for batch in fs.Loader(x, 700)]
    for first in range(0, len(expected), 3):
        batches = iter(fs.Loader(x if native else Rows(), 700))
        for _ in range(first):
            next(batches)
        rest = functools.partial(assert_rows, batches, expected[first:])
        with forked(rest):
            rest()


def test_threads_may_be_raised_and_lowered_between_steps() -> None:
    expected = run(3, threads=1)
    params = arrays(LARGE, np.float32, 3)
    opt = fs.AdamW(params, lr=0.1, clip_norm=1.0)
    grads = arrays(LARGE, np.float32, 103)
    for step in range(STEPS):
        fs.set_num_threads(1 + step % 5)
        opt.step(grads)
    assert_same_bits(params, expected)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def assert_leaks_nothing(steps: Callable[[int], None], count: int) -> None:
    """What leaks grows every time; what else the process allocates does not."""
    steps(1000)
    grown = []
    for _ in range(3):
        before = resident()
        steps(count)
        grown.append(resident() - before)
    assert min(grown) < 1 << 20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
@pytest.mark.unsanitized
def test_ten_thousand_steps_leak_nothing() -> None:
    params = {"w": np.zeros((100, 100), np.float32), "b": [np.zeros(50), np.zeros(3)]}
    opt = fs.AdamW(params, clip_norm=1.0, nonfinite="skip")
    w, b, c = np.ones((100, 100), np.float32), np.ones(50), np.ones(3)

    def steps(count: int) -> None:
        for k in range(count):
            opt.step({"w": w, "b": [b, None if k % 2 else c]})
            with contextlib.suppress(TypeError):
                opt.step({"w": b, "b": [b, c]})
        gc.collect()

    references = sys.getrefcount(w)
    assert_leaks_nothing(steps, 10_000)
    assert sys.getrefcount(w) == references


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
@pytest.mark.unsanitized
def test_eight_thousand_accumulated_steps_leak_nothing() -> None:
    params = {"w": np.zeros((100, 100), np.float32), "b": np.zeros(50)}
    opt = fs.AdamW(params, nonfinite="skip")
    statistics = fs.gradients.GradientStatistics()
    w, b = np.ones((100, 100), np.float32), np.ones(50)

    def steps(count: int) -> None:
        for k in range(count):
            opt.accumulate({"w": w, "b": b}, 3)
            opt.accumulate({"w": w, "b": None if k % 2 else b}, 2)
            opt.step(statistics=statistics)
        gc.collect()

    references = sys.getrefcount(w)
    assert_leaks_nothing(steps, 8000)
    assert sys.getrefcount(w) == references


def test_gradients_dropped_by_another_thread_during_a_step_stay_alive() -> None:
    params = [np.zeros(2_000_000)]
    opt = fs.SGD(params, lr=1.0)
    for _ in range(5):
        grads = [np.full(2_000_000, 0.5)]
        dropper = threading.Thread(target=grads.clear)
        stepper = threading.Thread(target=lambda given=grads: opt.step(given))
        stepper.start()
        dropper.start()
        stepper.join()
        dropper.join()
    assert set(np.unique(params[0])) == {-0.5 * opt.steps_applied}


@pytest.mark.parametrize("how", ["step", "accumulate"])
def test_gradients_live_as_long_as_the_step_that_reads_them(how: str) -> None:
    opt = fs.SGD([np.zeros(6_000_000)], lr=1.0, clip_norm=1e30)

    def call(grads: list[Array]) -> None:
        with contextlib.suppress(fs.StateError):  # refused while is_inside() looks
            opt.step(grads) if how == "step" else opt.accumulate(grads, 1)

    def is_inside() -> bool:
        try:
            with opt._plan.held():
                return False
        except fs.StateError:
            return True

    seen = 0
    for _ in range(100):
        grads = [np.ones(6_000_000)]
        alive = weakref.ref(grads[0])
        stepper = threading.Thread(target=call, args=(grads,))
        stepper.start()
        while stepper.is_alive() and not is_inside():
            pass
        grads.clear()
        lives = alive() is not None
        if is_inside():  # still: it was so when the list was emptied
            assert lives
            seen += 1
        stepper.join()
        assert alive() is None
        if seen == 3:
            return
    pytest.fail("no step was met in the middle")


CHILD = """
import {interpreters} as interpreters
child = interpreters.create()
interpreters.run_string(child, '''
try:
    import fusestep
except ImportError as error:
    assert "main interpreter" in str(error), error
else:
    raise AssertionError("imported")
''')
import numpy as np
import fusestep as fs
w = np.ones(2)
fs.SGD(w, lr=1.0).step(np.ones(2))
assert (w == 0).all()
"""


def test_a_child_interpreter_that_imports_fusestep_is_told_and_does_not_hang() -> None:
    name = "_xxsubinterpreters" if sys.version_info < (3, 13) else "_interpreters"
    pytest.importorskip(name, reason="no child interpreters")
    program = CHILD.format(interpreters=name)
    if sys.version_info >= (3, 12):  # NumPy refuses those with a GIL of their own by itself
        program = program.replace(
            "create()", "create(isolated=False)" if name[1] == "x" else "create('legacy')"
        )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, timeout=60, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


FLUSH = """
import sys
import numpy as np
import torch
import fusestep as fs

def flushes():
    return bool((tiny * one == 0).all())

one, tiny = np.ones(8, np.float32), np.full(8, 1e-40, np.float32)
w, g = np.full({size}, 1e-40, np.float32), np.full({size}, 5e-41, np.float32)
expected = w - g
opt = fs.SGD(w, lr=1.0)
if not torch.set_flush_denormal(True) or not flushes():
    sys.exit(3)
fs.set_num_threads(2)
{steps}
assert flushes(), "a step restores the mode it found"
torch.set_flush_denormal(False)
assert not flushes()
assert (w == expected).all()
"""


@pytest.mark.parametrize("steps", ["opt.step(g)", "opt.accumulate(g, 1); opt.step()"])
@pytest.mark.parametrize("size", [100, 200_000])
def test_a_thread_that_flushes_subnormals_gets_the_same_bits(size: int, steps: str) -> None:
    pytest.importorskip("torch", reason="torch switches the mode of the processor")
    program = FLUSH.format(size=size, steps=steps)
    done = subprocess.run([sys.executable, "-c", program], check=False)
    if done.returncode == 3:
        pytest.skip("torch cannot flush subnormals on this processor")
    assert done.returncode == 0
