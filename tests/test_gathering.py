"""The gathering of rows: whatever could read or write outside of an array is refused."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest

from fusestep import _core

Array = np.ndarray[Any, np.dtype[Any]]
KINDS = [np.uint32, np.uint64]
X = np.arange(12.0, dtype=np.float32).reshape(4, 3)


def gathered(indices: Array, *sources: Array) -> list[Array]:
    targets = [np.zeros((len(indices), *s.shape[1:]), s.dtype) for s in sources]
    entries = [(source, None, target) for source, target in zip(sources, targets, strict=True)]
    _core.Gathering(entries, indices).finish(len(indices))
    return targets


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_row_is_a_row_and_the_next_is_none(kind: Any) -> None:
    assert np.array_equal(gathered(np.array([3, 0, 3], kind), X)[0], X[[3, 0, 3]])
    for indices in ([4], [0, 1, 4], [4, 0], [np.iinfo(kind).max]):
        with pytest.raises(IndexError, match="no such row"):
            gathered(np.array(indices, kind), X)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_must_be_one_of_every_source(kind: Any) -> None:
    for sources in ((X[:2], X), (X, X[:2]), (X, X[:2], X)):
        assert np.array_equal(gathered(np.array([1], kind), *sources)[1], sources[1][[1]])
        with pytest.raises(IndexError, match="no such row"):
            gathered(np.array([2], kind), *sources)


def test_no_more_rows_can_be_waited_for_than_there_are() -> None:
    gathering = _core.Gathering([(X, None, np.zeros_like(X))], np.arange(4, dtype=np.uint32))
    with pytest.raises(IndexError, match="there are fewer rows"):
        gathering.finish(5)
    assert not gathering.has(5)
    gathering.finish(4)
    assert gathering.has(4)
    for bad in (-1, 2**64, 1.5):
        with pytest.raises(TypeError):
            gathering.finish(bad)  # type: ignore[arg-type]


def test_a_gathering_keeps_its_arrays_whatever_becomes_of_the_list() -> None:
    source, target = X.copy(), np.zeros_like(X)
    entries, kept = [(source, None, target)], weakref.ref(source)
    gathering = _core.Gathering(entries, np.arange(4, dtype=np.uint32))
    entries.clear()
    del source
    assert kept() is not None
    gathering.finish(4)
    assert np.array_equal(target, X)


def unaligned(array: Array) -> Array:
    moved = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


def read_only(array: Array) -> Array:
    array = array.copy()
    array.flags.writeable = False
    return array


ALL = np.arange(4, dtype=np.uint32)
BAD_INDICES: dict[str, Any] = {
    "below 0": np.array([-1]),
    "of int32": ALL.astype(np.int32),
    "of float64": ALL.astype(np.float64),
    "of the other byte order": ALL.astype(ALL.dtype.newbyteorder()),
    "with gaps": ALL[::2],
    "backwards": ALL[::-1],
    "of two axes": ALL.reshape(2, 2),
    "of no axis": np.array(1, np.uint32),
    "not aligned": unaligned(ALL),
    "in a list": [0, 1],
}


@pytest.mark.parametrize("indices", BAD_INDICES.values(), ids=list(BAD_INDICES))
def test_indices_must_lie_as_they_are_read(indices: Any) -> None:
    with pytest.raises(TypeError, match=r"must be a contiguous array|incompatible"):
        _core.Gathering([(X, None, np.zeros((8, 3), np.float32))], indices)


def zeros(*shape: int, dtype: str = "f4") -> Array:
    return np.zeros(shape, dtype)


OBJECTS = np.array([[object()] * 3] * 4)
SCALE = (1.0, 0.0)
BAD_ENTRIES: dict[str, tuple[Any, type[Exception], str]] = {
    "no tuple": ([X, None, X], TypeError, "an entry must be"),
    "two": ((X, None), TypeError, "an entry must be"),
    "four": ((X, None, X, X), TypeError, "an entry must be"),
    "a list as source": ((X.tolist(), None, X), TypeError, "a source must be an array"),
    "no target": ((X, None, None), TypeError, "a target must be an array"),
    "a source of no axis": ((zeros(), None, X), ValueError, "a source must have rows"),
    "a target of no axis": ((X, None, zeros()), ValueError, "a target must have rows"),
    "objects": ((OBJECTS, None, OBJECTS.copy()), TypeError, "objects can't be copied"),
    "a short target": ((X, None, zeros(3, 3)), ValueError, "must hold the rows"),
    "a narrow target": ((X, None, zeros(4, 2)), ValueError, "must hold the rows"),
    "a target with gaps": ((X, None, zeros(4, 6)[:, ::2]), ValueError, "must hold the rows"),
    "a read-only target": ((X, None, read_only(X)), ValueError, "must hold the rows"),
    "a source with gaps": ((X[:, ::2], None, zeros(4, 2)), ValueError, "side by side"),
    "another dtype": ((X, None, zeros(4, 3, dtype="i4")), TypeError, "the dtype of"),
    "another byte order": ((X, None, zeros(4, 3, dtype=">f4")), TypeError, "the dtype of"),
    "to float64": ((X, SCALE, zeros(4, 3, dtype="f8")), TypeError, "must be float32"),
    "of complex": ((X + 1j, SCALE, zeros(4, 3)), TypeError, "not know dtype complex64"),
    "of swapped": ((X.astype(">f4"), SCALE, zeros(4, 3)), TypeError, "not know dtype >f4"),
    "unaligned to float32": ((unaligned(X), SCALE, zeros(4, 3)), ValueError, "aligned"),
    "a scale alone": ((X, (1.0,), zeros(4, 3)), TypeError, "scale, shift"),
    "a scale that is no tuple": ((X, 1.0, zeros(4, 3)), TypeError, "scale, shift"),
}


@pytest.mark.parametrize(("entry", "error", "message"), BAD_ENTRIES.values(), ids=list(BAD_ENTRIES))
def test_what_can_not_be_gathered_is_refused(entry: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        _core.Gathering([entry], ALL)


def test_rows_are_copied_whatever_their_dtype_and_place() -> None:
    sources = [X, X[::-1], X[:, :2], X.astype(">f8"), X > 3, X.astype("S5"), unaligned(X), X[:, :0]]
    targets = gathered(np.array([2, 0], np.uint64), *sources)
    for source, target in zip(sources, targets, strict=True):
        assert np.array_equal(target, source[[2, 0]])
