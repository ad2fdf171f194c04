"""Where the arrays of a rank are. Engines move memory of the host, and the tree is added there."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from .. import _core
from ..cuda.memory import pinned

Pairs = Sequence[tuple[Any, Any]]  # of parameters and of the host, flat, of one size


class Copies(Protocol):
    """Copies that are made again and again."""

    def apply(self) -> None: ...


class Place(Protocol):
    """Of NumPy, or of CuPy."""

    is_host: bool

    def empty(self, size: int, dtype: Any) -> Any:
        """An array beside the parameters."""
        ...

    def empty_host(self, size: int, dtype: Any) -> Any:
        """An array of the host."""
        ...

    def add(self, source: Any, into: Any) -> None:
        """Adds one array beside the parameters to another."""
        ...

    def outwards(self, pairs: Pairs) -> Copies:
        """Copies from parameters to the host."""
        ...

    def inwards(self, pairs: Pairs) -> Copies:
        """Copies from the host to parameters."""
        ...


class Host:
    """Arrays of NumPy."""

    is_host = True

    def empty(self, size: int, dtype: Any) -> Any:
        return np.empty(size, dtype)

    empty_host = empty

    def add(self, source: Any, into: Any) -> None:
        _core.add_arrays([into, source], [0, 1, -1], into)

    def outwards(self, pairs: Pairs) -> Copies:
        return _core.Copies([(host, own) for own, host in pairs])

    def inwards(self, pairs: Pairs) -> Copies:
        return _core.Copies(list(pairs))


class Device:
    """Arrays of CuPy, on the current device: what moves goes through pinned memory."""

    is_host = False

    def __init__(self) -> None:
        self._cupy: Any = importlib.import_module("cupy")

    def empty(self, size: int, dtype: Any) -> Any:
        return self._cupy.empty(size, dtype)

    def empty_host(self, size: int, dtype: Any) -> Any:
        return pinned(self._cupy, (size,), dtype)

    def add(self, source: Any, into: Any) -> None:
        into += source

    def outwards(self, pairs: Pairs) -> Copies:
        return _Outwards(pairs)

    def inwards(self, pairs: Pairs) -> Copies:
        return _Inwards(self._cupy, pairs)


class _Outwards:
    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs

    def apply(self) -> None:
        for own, host in self._pairs:
            own.get(out=host)


class _Inwards:
    def __init__(self, cupy: Any, pairs: Pairs) -> None:
        self._cupy, self._pairs = cupy, pairs

    def apply(self) -> None:
        for own, host in self._pairs:
            own.set(host)
        self._cupy.cuda.get_current_stream().synchronize()  # then the host may write there again


def place_of(arrays: Sequence[Any]) -> Place:
    """Where parameters are."""
    return Host() if all(isinstance(array, np.ndarray) for array in arrays) else Device()
