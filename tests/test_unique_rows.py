"""Different ids and their places: those of NumPy, on any number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import fusestep as fs

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = [np.int32, np.int64]
LONG = 70_000  # several threads take part


@pytest.fixture(autouse=True)
def _restored_threads() -> Iterator[None]:
    threads = fs.get_num_threads()
    yield
    fs.set_num_threads(threads)


def assert_as_numpy(ids: Array) -> None:
    before = ids.copy()
    rows, inverse = fs.data.unique_rows(ids)
    expected, places = np.unique(ids, return_inverse=True)
    assert (rows.dtype, inverse.dtype) == (ids.dtype, np.dtype(np.intp))
    assert np.array_equal(rows, expected)
    assert inverse.shape == ids.shape
    assert np.array_equal(inverse.ravel(), places.ravel())
    assert np.array_equal(ids, before)


def zipf(n: int, dtype: Any, low: int, high: int) -> Array:
    """Some ids often and most of them seldom, between these bounds."""
    random = np.random.default_rng(0)
    steps = (random.random(n) ** 4 * (float(high) - float(low))).astype(np.uint64)
    return (steps + np.array(low).astype(np.uint64)).astype(dtype)


@given(
    ids=st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays.arrays(
            dtype,
            arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=40),
            elements=st.integers(-3, 3) | arrays.from_dtype(np.dtype(dtype)),
        )
    )
)
@settings(deadline=None)
def test_they_are_those_of_numpy(ids: Array) -> None:
    assert_as_numpy(ids)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (3, 0), (1,), (), (1, 1, 1)])
def test_arrays_of_no_id_or_one(shape: tuple[int, ...], dtype: Any) -> None:
    assert_as_numpy(np.full(shape, -5, dtype))


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("n", [4095, 4096, 32_767, 32_768, LONG, 200_003])
def test_any_number_of_threads_finds_the_same(n: int, threads: int) -> None:
    fs.set_num_threads(threads)
    for dtype in DTYPES:
        assert_as_numpy(zipf(n, dtype, 0, 50_000))


# around the digits that one pass sorts by, and where the keys become wider
@pytest.mark.parametrize("bits", [1, 8, 9, 11, 12, 22, 23, 31, 32, 33, 44, 45, 63])
@pytest.mark.parametrize("n", [300, LONG])
def test_any_range_of_ids(n: int, bits: int) -> None:
    ids = zipf(n, np.int64, -7, 2**bits - 8)
    ids[[n // 2, n // 3]] = 2**bits - 8, -7
    assert_as_numpy(ids)
    assert_as_numpy(ids[::-1])
    assert_as_numpy(np.sort(ids))


@pytest.mark.parametrize("n", [300, LONG])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_smallest_and_the_largest_numbers_of_a_dtype(dtype: Any, n: int) -> None:
    limits = np.iinfo(dtype)
    ids = zipf(n, dtype, limits.min, limits.max // 2)
    ids[[5, 7, n - 1]] = limits.max, limits.min, limits.max - 1
    assert_as_numpy(ids)
    assert_as_numpy(np.full(n, limits.min))
    assert_as_numpy(np.full(n, limits.max))


@pytest.mark.parametrize("n", [300, LONG])
def test_ids_that_are_nearly_in_order(n: int) -> None:
    ids = np.arange(n)
    assert_as_numpy(ids)
    assert_as_numpy(ids // 3)
    for place in (1, n // 2, n - 1, 16_384 % n, 17_500 % n):  # the first of a piece, too
        changed = ids.copy()
        changed[place] = changed[place - 1] - 1
        assert_as_numpy(changed)


def test_arrays_that_do_not_lie_side_by_side() -> None:
    ids = zipf(600, np.int64, 0, 50).reshape(20, 30)
    assert_as_numpy(ids.T)
    assert_as_numpy(ids[::3, ::-2])
    shifted: Array = np.frombuffer(b"x" + ids.tobytes(), np.int64, offset=1)
    assert not shifted.flags.aligned
    assert_as_numpy(shifted)


def test_lists_and_ids_that_may_not_be_written() -> None:
    rows, inverse = fs.data.unique_rows([3, 1, 3])
    assert (rows.tolist(), inverse.tolist()) == ([1, 3], [1, 0, 1])
    ids = np.array([2, 2])
    ids.flags.writeable = False
    assert fs.data.unique_rows(ids)[0].tolist() == [2]


def test_the_rows_of_a_table_come_back_to_the_places_of_their_ids() -> None:
    table = np.random.default_rng(0).random((50, 3))
    ids = zipf(120, np.int32, 0, 50).reshape(10, 12)
    rows, inverse = fs.data.unique_rows(ids)
    assert np.array_equal(table[rows][inverse], table[ids])


@pytest.mark.parametrize(
    "ids",
    [
        np.zeros(3),
        np.zeros(3, np.uint32),
        np.zeros(3, np.int8),
        np.zeros(3, bool),
        np.zeros(3, np.dtype(np.int64).newbyteorder()),
        np.array(["a"]),
        [],
    ],
    ids=lambda ids: str(np.asarray(ids).dtype),
)
def test_other_dtypes_are_refused(ids: Any) -> None:
    with pytest.raises(TypeError, match=r"int32 or int64, not .*astype"):
        fs.data.unique_rows(ids)


def test_masked_ids_are_refused() -> None:
    with pytest.raises(TypeError, match="masked"):
        fs.data.unique_rows(np.ma.masked_array([1, 2], [True, False]))


def test_the_native_function_takes_what_lies_side_by_side_only() -> None:
    native = fs._core.unique_rows
    shifted: Array = np.frombuffer(bytes(9), np.int64, offset=1)
    for ids in (np.zeros(3), np.zeros((4, 4), np.int64)[:, ::2], shifted):
        with pytest.raises(TypeError, match="contiguous and aligned"):
            native(ids)
