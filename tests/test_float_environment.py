"""What other libraries have done to a thread's floating-point mode does not reach a step."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from tables.models import arrays, assert_same_bits

pytestmark = pytest.mark.skipif(
    platform.machine() not in {"x86_64", "AMD64"} or platform.libc_ver()[0] != "glibc",
    reason="the mode is switched through glibc's fenv_t of x86-64",
)

# of MXCSR
FLUSHED, UPWARD = 0x8040, 0x4000
SIZES = (5, 1000, 400_000)  # the last is shared by several threads


def set_mode(bits: int) -> None:
    """Sets these bits of the calling thread's MXCSR and clears the others that decide results."""
    libm, environment = ctypes.CDLL("libm.so.6"), (ctypes.c_uint32 * 8)()
    assert libm.fegetenv(environment) == 0
    environment[7] = environment[7] & ~0xE040 | bits
    assert libm.fesetenv(environment) == 0


@contextmanager
def mode(bits: int) -> Iterator[None]:
    set_mode(bits)
    try:
        yield
        # a call leaves the mode as it found it
        libm, environment = ctypes.CDLL("libm.so.6"), (ctypes.c_uint32 * 8)()
        libm.fegetenv(environment)
        assert environment[7] & 0xE040 == bits
    finally:
        set_mode(0)


def models(dtype: Any) -> tuple[list[Any], list[list[Any]]]:
    """Parameters, subnormal ones among them, and gradients for three steps."""
    tiny = dtype(1e3) * np.finfo(dtype).smallest_subnormal
    params = [p * tiny if p.size == 1000 else p for p in arrays(SIZES, dtype, 0)]
    return params, [arrays(SIZES, dtype, seed) for seed in (1, 2, 3)]


def test_the_mode_that_these_tests_set_changes_what_numpy_computes() -> None:
    x, tiny = 1 / np.arange(3.0, 50.0), np.full(3, 1e-320)
    with mode(UPWARD):
        up = x * x
    with mode(FLUSHED):
        flushed = tiny * 1.0
    assert (up > x * x).any()
    assert (flushed == 0).all()


def run(optimizer: Any, dtype: Any, bits: int, **options: Any) -> list[Any]:
    params, gradients = models(dtype)
    opt = optimizer(params, lr=1e-3, **options)
    squares, norms = [], []
    for grads in gradients:
        with mode(bits):
            squares.append(opt.accumulate(grads, 3))
            squares.append(opt.accumulate(gradients[0], 4))
            norms.append(opt.step().grad_norm)
            norms.append(opt.step(grads, grad_scale=3.0).grad_norm)
    told = np.array([*squares, *norms])
    return [told, *params, *(a for state in opt.state.values() for a in state.values())]


@pytest.mark.parametrize("bits", [FLUSHED, UPWARD])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("optimizer", [fs.SGD, fs.AdamW])
def test_steps_and_sums_have_the_same_bits_in_any_mode(
    optimizer: Any, dtype: Any, bits: int
) -> None:
    options = {"clip_norm": 0.5, "weight_decay": 0.1}
    assert_same_bits(run(optimizer, dtype, bits, **options), run(optimizer, dtype, 0, **options))


@pytest.mark.parametrize("bits", [FLUSHED, UPWARD])
def test_a_refusal_tells_what_a_gradient_holds_in_any_mode(bits: int) -> None:
    opt = fs.SGD(np.zeros(3), nonfinite="raise")
    with mode(bits), pytest.raises(ValueError, match="gradient holds infinity"):
        opt.step(np.array([1e300, np.inf, 1.0]))
    with mode(bits):
        assert opt.step(np.array([5e-324, 0.0, 0.0])).grad_norm == 5e-324


@pytest.mark.parametrize("bits", [FLUSHED, UPWARD])
def test_the_settings_of_a_gpu_are_prepared_in_any_mode(cupy: Any, bits: int) -> None:
    results = []
    for now in (0, bits):
        params = [cupy.asarray(p) for p in arrays((9, 5000), np.float32, 0)]
        opt = fs.AdamW(params, lr=fs.schedules.exponential(1e-3, 0.9), nonfinite="skip")
        for seed in (1, 2, 3):
            grads = [cupy.asarray(g) for g in arrays((9, 5000), np.float32, seed)]
            with mode(now):
                opt._plan.step(grads, 1.0, None)
        cupy.cuda.Device().synchronize()
        results.append([p.get() for p in params])
    assert_same_bits(*results)


@pytest.mark.parametrize("bits", [FLUSHED, UPWARD])
def test_a_step_in_parts_has_the_same_bits_in_any_mode(xp: Any, bits: int) -> None:
    results = []
    for now in (0, bits):
        params = [xp.asarray(p) for p in arrays((9, 5000), np.float32, 0)]
        plan = fs.AdamW(params, lr=1e-41, betas=(0.7, 0.9), weight_decay=0.1)._plan
        for seed in (1, 2):
            grads = [xp.asarray(g) for g in arrays((9, 5000), np.float32, seed)]
            with mode(now):
                plan.begin_parts(grads, 1.0, None, squared_norm=1.0)
                assert plan.update_part(5009)
        results.append([p if xp is np else p.get() for p in params])
    assert_same_bits(*results)


# the helpers begin with the mode of the thread that first needs them
HELPERS = """
import sys
sys.path.insert(0, {tests!r})
import numpy as np
import fusestep as fs
from tables.models import arrays, assert_same_bits
from test_float_environment import FLUSHED, UPWARD, mode

fs.set_num_threads(3)
data = np.zeros((200_000, 16), np.float32)
loader = iter(fs.Loader(data, 20_000, seed=1))
with mode(FLUSHED | UPWARD):
    for _ in range(3):
        next(loader)
results = []
for threads in (1, 3):
    fs.set_num_threads(threads)
    params = arrays((2_000_000,), np.float32, 0)
    params[0] *= np.float32(1e-40)
    opt = fs.AdamW(params, lr=1e-41, weight_decay=0.1, clip_norm=1.0)
    for seed in (1, 2, 3, 4):
        opt.step(arrays((2_000_000,), np.float32, seed))
    results.append(params)
assert_same_bits(*results)
"""


@pytest.mark.unsanitized
def test_helpers_that_began_in_another_mode_compute_as_all_others() -> None:
    code = HELPERS.format(tests=os.path.dirname(__file__))  # noqa: PTH120
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
