"""Several loops, several threads, and the end of the process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusestep as fs

Array = np.ndarray[Any, np.dtype[Any]]
N = 11


def test_a_second_loop_takes_over_and_the_first_says_so() -> None:
    loader = fs.Loader(np.arange(N), 4, order="sequential", epochs=2)
    one = iter(loader)
    assert next(one).data.tolist() == [0, 1, 2, 3]
    two = iter(loader)
    with pytest.raises(fs.StateError, match="another loop over this loader has begun"):
        next(one)
    assert next(two).data.tolist() == [4, 5, 6, 7]
    with pytest.raises(fs.StateError, match="another loop over this loader has begun"):
        next(one)
    with pytest.raises(fs.StateError, match="another loop"):
        list(zip(loader, loader, strict=True))
    assert [rows.data[0] for rows in loader] == [8, 0, 4, 8]


def together(*calls: Callable[[], Any]) -> list[BaseException]:
    """Runs functions in threads; returns what they raised."""
    errors: list[BaseException] = []

    def run(call: Callable[[], Any]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return errors


def test_threads_can_not_share_a_loop() -> None:
    loader = fs.Loader(np.arange(1000), 3, order="sequential", epochs=4)
    batches, found = iter(loader), list[Any]()
    all_here = threading.Barrier(3)

    def run() -> None:
        all_here.wait(60)
        found.extend(rows.data for rows in batches)

    errors = together(run, run, run)
    assert len(errors) == 2
    for error in errors:
        assert isinstance(error, fs.StateError)
        assert "a loop belongs to the thread that took its first batch" in str(error)
    assert np.array_equal(np.concatenate(found).reshape(4, -1), [np.arange(1000)] * 4)


@pytest.mark.parametrize("slow", [False, True])
def test_loops_in_two_threads_deliver_no_batch_twice(slow: bool) -> None:
    class Rows:
        def __len__(self) -> int:
            return 2000

        def __getitem__(self, places: Array) -> Array:
            time.sleep(0.001)
            return places

    loader = fs.Loader(Rows() if slow else np.arange(2000), 7, epochs=8)
    found: list[Array] = []

    def run() -> None:
        while loader.clock.samples < 4 * 2000:
            try:
                for rows in loader:
                    found.append(rows.data.copy())
                    if loader.clock.samples >= 4 * 2000:
                        return
            except fs.StateError:
                continue

    assert together(run, run, run) == []
    counts = np.bincount(np.concatenate(found), minlength=2000)
    delivered = int(loader.clock.samples or 0)
    assert counts.sum() == delivered
    assert set(counts) <= {delivered // 2000, delivered // 2000 + 1}


def changing(clock: fs.Clock) -> int:
    return 1 + int(clock.step or 0) % 5


def test_a_state_taken_beside_a_loop_is_one_that_the_loop_was_in() -> None:
    def make() -> fs.Loader:
        return fs.Loader(np.arange(2000), changing, epochs=None)

    loader, states = make(), list[Any]()
    deadline = time.monotonic() + 30

    def watch() -> None:
        while len(states) < 100 and time.monotonic() < deadline:
            state = loader.state_dict()
            if not states or state["batches"] != states[-1]["batches"]:
                states.append(state)

    def run() -> None:
        for _ in loader:
            if len(states) >= 100 or time.monotonic() > deadline:
                break

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        assert together(run, watch, watch) == []
    finally:
        sys.setswitchinterval(before)
    found = {state["batches"]: state for state in states}
    assert len(found) > 5
    loader = make()
    for _ in loader:
        if found.pop(loader.clock.step, expected := loader.state_dict()) != expected:
            pytest.fail(f"no state of the loop: {expected}")
        if max(found, default=0) == 0:
            break


EXITS = """
import time
import numpy as np, fusestep as fs
from fusestep.data import stream
stream._BYTES = 1  # blocks of four batches
class Rows:
    def __len__(self): return 1000
    def __getitem__(self, places):
        if len(places) > 1: time.sleep(0.5)
        return places
loader = fs.Loader(Rows(), 1, prefetch=100, order="sequential")
for batch in loader:
    break
{leave}
"""


@pytest.mark.parametrize("leave", ["", "raise SystemExit(0)", "del loader, batch"])
def test_a_process_that_leaves_a_loop_does_not_wait_for_what_has_not_begun(leave: str) -> None:
    begin = time.monotonic()
    # 100 blocks of half a second each are waiting when the loop is left
    program = EXITS.replace("{leave}", leave)
    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert done.returncode == 0
    assert time.monotonic() - begin < 30
