"""The largest batch: exactly what fits, and memory given back between trials."""

from __future__ import annotations

import gc
import subprocess
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from fusestep import tune

hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")


def limited(limit: int, tried: list[int] | None = None) -> Callable[[int], None]:
    """A step that has memory for so many samples."""

    def step(n: int) -> None:
        if tried is not None:
            tried.append(n)
        if n > limit:
            raise MemoryError(f"{n} samples")

    return step


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> Iterator[None]:
    """Each of thousands of collections passes over what there was before."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@hypothesis.given(
    limit=st.integers(1, 10**7),
    low=st.integers(1, 5000),
    high=st.none() | st.integers(1, 10**7),
    unit=st.integers(1, 300),
)
def test_it_is_the_largest_multiple_within_the_limits(
    limit: int, low: int, high: int | None, unit: int
) -> None:
    tried: list[int] = []
    possible = range(-(-low // unit) * unit, min(limit, high or limit) + 1, unit)
    if high is not None and high // unit * unit < possible.start:
        with pytest.raises(ValueError, match=f"high must leave a multiple of {unit} .*low={low}"):
            tune.largest_batch(limited(limit, tried), low=low, high=high, multiple_of=unit)
        assert tried == []
    elif not possible:
        message = f"the smallest batch, of {possible.start}, does not fit: MemoryError: "
        with pytest.raises(MemoryError, match=message):
            tune.largest_batch(limited(limit), low=low, high=high, multiple_of=unit)
    else:
        found = tune.largest_batch(limited(limit, tried), low=low, high=high, multiple_of=unit)
        assert found == possible[-1]
        assert found in tried
        assert len(tried) == len(set(tried)) <= 2 * (found // unit).bit_length()
        assert all(n % unit == 0 and low <= n <= (high or n) for n in tried)


@hypothesis.example(limit=100, percent=7, unit=1)  # 100 * 0.07 is above 7
@hypothesis.given(limit=st.integers(1, 10**6), percent=st.integers(0, 99), unit=st.integers(1, 64))
def test_a_margin_leaves_at_least_that_part(limit: int, percent: int, unit: int) -> None:
    hypothesis.assume(limit >= unit)
    found = tune.largest_batch(limited(limit), multiple_of=unit, margin=percent / 100)
    units = limit // unit
    assert found == max(1, units * (100 - percent) // 100) * unit


def test_what_always_fits_has_no_limit() -> None:
    tried: list[int] = []
    with pytest.raises(ValueError, match="step does not run out of memory: it fits 9007199254740"):
        tune.largest_batch(limited(2**60, tried))
    assert len(tried) == 54
    assert tune.largest_batch(limited(2**60), high=50_000) == 50_000


@pytest.mark.parametrize("error", [ValueError("bad"), RuntimeError("CUDA error: launch failed")])
def test_other_errors_are_raised(error: Exception) -> None:
    tried: list[int] = []

    def step(n: int) -> None:
        tried.append(n)
        if n == 4:
            raise error

    with pytest.raises(type(error), match=str(error)):
        tune.largest_batch(step)
    assert tried == [1, 2, 4]


def test_an_interrupt_is_raised() -> None:
    def step(n: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune.largest_batch(step)


class OutOfMemoryError(RuntimeError):
    """As torch has it."""


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("cudaErrorMemoryAllocation: out of memory"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"),
    ],
)
def test_errors_of_other_libraries_are_known(error: Exception) -> None:
    def step(n: int) -> None:
        if n > 77:
            raise error

    assert tune.largest_batch(step) == 77


@pytest.mark.unsanitized  # the sanitizer ends what asks for so much
def test_numpy_says_itself_that_memory_does_not_suffice() -> None:
    def step(n: int) -> None:
        np.empty(2**55 if n > 5 else n)  # 256 PB

    assert tune.largest_batch(step) == 5


@pytest.mark.parametrize("wraps", [False, True])
def test_arrays_of_a_failed_step_are_gone_before_the_next_trial(wraps: bool) -> None:
    arrays: list[weakref.ref[Any]] = []
    kept: list[BaseException] = []  # as sys.last_value and loggers keep errors

    def forward(n: int) -> None:
        activations = np.ones(n)
        arrays.append(weakref.ref(activations))
        cycle: list[Any] = [activations]
        cycle.append(cycle)
        if n > 10:
            raise MemoryError

    def step(n: int) -> None:
        assert all(array() is None for array in arrays)
        try:
            forward(n)
        except MemoryError as error:
            kept.append(error)
            if wraps:
                raise OutOfMemoryError("in the forward pass") from error
            raise

    assert tune.largest_batch(step) == 10
    assert len(kept) > 2


def test_pools_of_cupy_and_torch_are_freed_after_every_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    freed: list[str] = []

    def pool(name: str) -> Callable[[], Any]:
        return lambda: types.SimpleNamespace(free_all_blocks=lambda: freed.append(name))

    cupy = types.SimpleNamespace(
        get_default_memory_pool=pool("device"), get_default_pinned_memory_pool=pool("pinned")
    )
    cuda = types.SimpleNamespace(
        is_initialized=lambda: True, empty_cache=lambda: freed.append("torch")
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    tried: list[int] = []
    assert tune.largest_batch(limited(3, tried)) == 3
    assert freed == ["device", "pinned", "torch"] * len(tried)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0}, "low must be at least 1"),
        ({"low": 1.5}, "low must be a whole number"),
        ({"high": 0}, "high must be at least 1"),
        ({"multiple_of": 0}, "multiple_of must be at least 1"),
        ({"margin": 1.0}, r"margin must be in \[0, 1\)"),
        ({"margin": -0.1}, r"margin must be in \[0, 1\)"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        tune.largest_batch(lambda n: pytest.fail("it was tried"), **options)


UNDER_A_LIMIT = """
import resource
import numpy as np
from fusestep import tune

row = 1_000_000                          # float64: 8 MB a sample
with open("/proc/self/statm") as file:
    in_use = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + 1_000_000_000,) * 2)

def step(n):
    activations = [np.ones(row) for _ in range(n)]
    return activations

print(tune.largest_batch(step))
"""


@pytest.mark.unsanitized
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit that the system enforces")
def test_a_limit_of_the_system_is_found_with_real_arrays() -> None:
    command = [sys.executable, "-W", "error", "-c", UNDER_A_LIMIT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert 110 <= int(done.stdout) <= 125  # of 1 GB, less what Python takes itself
