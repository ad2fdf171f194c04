"""Checkpoints in several files, each of which has a range of the elements of all parameters.

Their index is a file as any other, but for the arrays that are in the others. Its part ``ranges``
lists those, in order and without gaps::

    "ranges": [{"name": "step-000000300-0-1024.5f0e9c1a.safetensors", "begin": 0, "end": 1024,
                "xxh3_128": "..."}, ...]

A file of a range has the parameters and the state arrays of that range: those that are whole in it
in their shapes, and parts without. Arrays without elements are in the index and all files.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from ..saved_state import fields, list_of, short, text, whole
from .flattening import ARRAY, STATE, nested
from .form import CheckpointError, dtype_of, name_of
from .reading import RANGES, SavedFile

_ranges = list_of(fields({"name": text, "begin": whole(), "end": whole(), "xxh3_128": text}))


def opened(path: Path) -> SavedFile | SavedRanges:
    """The checkpoint of a path, in one file or in several."""
    file = SavedFile(path)
    return SavedRanges(file) if RANGES in file.contents["parts"] else file


def cut_arrays(parts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The names of the arrays of an optimizer's state, and the paths of their parameters."""
    if "optimizer" not in parts:
        return
    try:
        for path, entry in parts["optimizer"][STATE]["parameters"].items():
            for array in entry["state"].values():
                yield array[ARRAY], path
    except (AttributeError, KeyError, TypeError):
        raise CheckpointError("optimizer: is not the state of one optimizer") from None


class SavedRanges:
    """A checkpoint as `SavedFile` has one, put together of the files that its index lists.

    Args:
        index: an open file, which is closed with the others. One that lists none has all itself.
        spans: by path the first and last element of each parameter to take, of it and its state;
            of parameters that are not named, none. Files without such elements are not opened, and
            parts of arrays have no shape. None takes all.

    An array that lies in one file is a view of it; one that several have is a copy.
    """

    contents: dict[str, Any]
    arrays: dict[str, np.ndarray[Any, Any]]

    def __init__(
        self, index: SavedFile, spans: Mapping[str, tuple[int, int]] | None = None
    ) -> None:
        self.path, self.elements = index.path, index.elements
        self._index, self._spans = index, spans
        self._files: list[tuple[int, SavedFile | None]] = []  # where each begins
        with ExitStack() as held:
            held.enter_context(index)
            try:
                self._look(held)
            except CheckpointError as error:
                raise index.error(str(error)) from None
            self._held = held.pop_all()

    def __enter__(self) -> SavedRanges:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.arrays = {}
        self._held.close()

    def verify(self) -> None:
        """Reads all files that are open; CheckpointError where one has not the bytes saved."""
        self._index.verify()
        for _, file in self._files:
            if file is not None and file is not self._index:
                file.verify()

    def _look(self, held: ExitStack) -> None:
        contents = self._index.contents
        places = dict(_places(contents["params"] or ()))
        wanted = {path: self._wanted(path, place) for path, place in places.items()}
        self._open(held, [(begin, end) for begin, end in wanted.values() if begin < end])
        self.arrays = dict(self._index.arrays)
        names = [(name_of(path), path) for path in places]
        if contents["params"] is not None:
            names += cut_arrays(contents["parts"])
        for name, path in names:
            if path not in places or not isinstance(name, str):
                raise CheckpointError(f"{short(name)} is of no parameter")
            place = places[path]
            if self._spans is None and place.first == place.last:
                continue  # it is in the index
            pieces = list(self._pieces(name, place, *wanted[path]))
            if len(pieces) > 1:
                found = np.concatenate(pieces)
            else:
                found = pieces[0] if pieces else np.empty(0, dtype_of(place.code))
            is_whole = wanted[path] == (place.first, place.last)
            self.arrays[name] = found.reshape(place.shape) if is_whole else found
        nested(contents["parts"], self.arrays)  # every array that it names is there
        self.contents = {**contents, "begin": 0, "end": self.elements}

    def _wanted(self, path: str, place: _Place) -> tuple[int, int]:
        if self._spans is None:
            return place.first, place.last
        begin, end = self._spans.get(path, (0, 0))
        return place.first + begin, place.first + end

    def _open(self, held: ExitStack, wanted: list[tuple[int, int]]) -> None:
        """Opens the files that have something of some spans."""
        contents = self._index.contents
        if RANGES not in contents["parts"]:
            self._files = [(contents["begin"], self._index), (contents["end"], None)]
            return
        end, found = 0, list[str]()
        ranges = _ranges(contents["parts"][RANGES], RANGES, found)
        if found:
            raise CheckpointError("\n  ".join(found))
        for one in ranges:
            begin, name = one["begin"], one["name"]
            if begin != end or one["end"] <= begin or Path(name).name != name:
                raise CheckpointError(f"its ranges are not in order: {short(one)}")
            end, file = one["end"], None
            if any(first < end and begin < last for first, last in wanted):
                file = held.enter_context(SavedFile(self.path.with_name(name)))
                expected = {**contents, "begin": begin, "end": end, "parts": {}}
                if file.digest != one["xxh3_128"] or file.contents != expected:
                    raise CheckpointError(f"{name} is of another save")
            self._files.append((begin, file))
        self._files.append((end, None))
        if end != self.elements:
            raise CheckpointError(f"its ranges end at element {end} of {self.elements}")

    def _pieces(
        self, name: str, at: _Place, begin: int, end: int
    ) -> Iterator[np.ndarray[Any, Any]]:
        """The elements from begin to end of an array, from the files that have them."""
        place = bisect_right(self._files, begin, key=lambda entry: entry[0]) - 1
        while begin < end:
            start, file = self._files[place]
            place += 1
            start, stop = max(at.first, start), min(at.last, self._files[place][0])
            array = None if file is None else file.arrays.get(name)
            if array is None or array.size != stop - start:
                raise CheckpointError(f"{short(name)} has not its elements {start} to {stop}")
            yield array.reshape(-1)[begin - start : min(end, stop) - start]
            begin = stop


class _Place(NamedTuple):
    """A parameter in the index space."""

    code: str
    shape: list[int]
    first: int
    last: int


def _places(params: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, _Place]]:
    last = 0
    for path, code, shape in (entry.values() for entry in params):
        first, last = last, last + math.prod(shape)
        yield path, _Place(code, shape, first, last)
