"""What the data is made of: arrays of equal length, and how their rows come into a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from ..arguments import check_finite

Array = npt.NDArray[Any]

_CONVERTIBLE = {np.dtype(kind) for kind in ("u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8")}


class Float32(NamedTuple):
    """``scale * float32(x) + shift``, computed in float32 while rows are copied."""

    scale: float
    shift: float


def to_float32(scale: float = 1.0, shift: float = 0.0) -> Float32:
    """A conversion for `Loader`'s ``transform``: numbers become float32 on the way into a batch.

    ``scale * float32(x) + shift``, both rounded to float32 first.

    Args:
        scale, shift: any finite numbers.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> x = np.array([[0, 51], [102, 255]], np.uint8)
        >>> convert = {"x": fs.data.to_float32(scale=1 / 255)}
        >>> loader = fs.Loader({"x": x}, 2, order="sequential", transform=convert)
        >>> next(iter(loader))["x"].round(4)
        array([[0. , 0.2],
               [0.4, 1. ]], dtype=float32)
    """
    return Float32(check_finite("scale", scale), check_finite("shift", shift))


class Columns:
    """Arrays by name or place, with the same number of rows."""

    def __init__(self, data: Any, transform: Any) -> None:
        if isinstance(data, Mapping):
            self.keys: tuple[Any, ...] | None = tuple(data)
            sources = list(data.values())
        elif isinstance(data, (tuple, list)):
            self.keys, sources = None, list(data)
        else:
            self.keys, sources = None, [data]
        self._is_one = not isinstance(data, (Mapping, tuple, list))
        if not sources:
            raise ValueError("data must hold at least one array")
        self.sources = [_checked(self.name(i), source) for i, source in enumerate(sources)]
        self.rows = len(self.sources[0])
        for i, source in enumerate(self.sources):
            if len(source) != self.rows:
                raise ValueError(
                    f"{self.name(i)} has {len(source)} samples, {self.name(0)} has {self.rows}: "
                    "all arrays must have the same number"
                )
        if self.rows == 0:
            raise ValueError("data must hold at least one sample")
        self._transforms = [self._transform(i, transform) for i in range(len(sources))]

    def name(self, i: int) -> str:
        """How an error names an array."""
        if self._is_one:
            return "data"
        return f"data[{(self.keys[i] if self.keys is not None else i)!r}]"

    def _transform(self, i: int, transforms: Any) -> Any:
        if transforms is None:
            return None
        known = self.keys if self.keys is not None else range(len(self.sources))
        if self._is_one and (isinstance(transforms, Float32) or callable(transforms)):
            transforms = {0: transforms}
        if not isinstance(transforms, Mapping):
            raise TypeError(f"transform must be a dict by {list(known)}, not {transforms!r}")
        for key in transforms:
            if key not in known:
                raise ValueError(f"transform: data has no {key!r}; there are {list(known)}")
        transform = transforms.get(list(known)[i])
        if not (transform is None or isinstance(transform, Float32) or callable(transform)):
            raise TypeError(
                f"transform of {self.name(i)} must be to_float32(...) or a function of the array, "
                f"not {transform!r}"
            )
        source = self.sources[i]
        if isinstance(transform, Float32) and not (
            isinstance(source, np.ndarray) and source.dtype in _CONVERTIBLE
        ):
            raise TypeError(f"{self.name(i)}: to_float32 takes arrays of numbers, not {source!r}")
        return transform

    def buffers(self, rows: int) -> list[Array | None]:
        """New memory for that many rows; None for a source that brings its own."""
        return [self._buffer(i, rows) for i in range(len(self.sources))]

    def _buffer(self, i: int, rows: int) -> Array | None:
        source = self.sources[i]
        if not _is_native(source):
            return None
        converted = isinstance(self._transforms[i], Float32)
        return np.empty((rows, *source.shape[1:]), np.float32 if converted else source.dtype)

    def gathering(self, indices: Array, buffers: Sequence[Array | None]) -> _core.Gathering | None:
        """Begins to copy the rows at these indices to the buffers; None where there are none."""
        entries = [
            (source, tuple(transform) if isinstance(transform, Float32) else None, buffer)
            for source, transform, buffer in zip(
                self.sources, self._transforms, buffers, strict=True
            )
            if buffer is not None
        ]
        return _core.Gathering(entries, indices) if entries and len(indices) > 0 else None

    @property
    def are_native(self) -> bool:
        """Whether the rows of all arrays come by `gathering`."""
        return all(_is_native(source) for source in self.sources)

    def read(self, indices: Array) -> list[Array | None]:
        """The rows at these indices of the sources that bring their own; None for the others."""
        places = indices.astype(np.int64)
        rows = [None if _is_native(s) else np.asarray(s[places]) for s in self.sources]
        for found in rows:
            if found is not None and len(found) != len(places):
                raise ValueError(f"data gave {len(found)} samples for {len(places)} indices")
        return rows

    def assembled(self, rows: Sequence[Array]) -> Any:
        """Arrays in the form of the data, after what transforms there are."""
        done = [
            transform(array)
            if callable(transform) and not isinstance(transform, Float32)
            else array
            for array, transform in zip(rows, self._transforms, strict=True)
        ]
        if self._is_one:
            return done[0]
        return tuple(done) if self.keys is None else dict(zip(self.keys, done, strict=True))

    @property
    def row_bytes(self) -> int:
        """About how much memory a sample takes in a batch."""
        return sum(
            64 if buffer is None else buffer.nbytes // buffer.shape[0] for buffer in self.buffers(1)
        )


def _checked(name: str, source: Any) -> Any:
    if isinstance(source, (list, tuple)):
        source = np.asarray(source)
    if isinstance(source, np.ndarray):
        if source.ndim == 0:
            raise ValueError(f"{name} must have samples along its first axis, not be a number")
        if source.dtype.hasobject:
            return _Objects(source)
        return source if _is_native(source) else np.ascontiguousarray(source)
    if not hasattr(source, "__len__") or not hasattr(source, "__getitem__"):
        raise TypeError(
            f"{name} must be an array, or have a length and take arrays of indices, not {source!r}"
        )
    return source


def _is_native(source: Any) -> bool:
    """Whether rows can be copied as bytes: elements of a row side by side in memory."""
    return (
        isinstance(source, np.ndarray)
        and not source.dtype.hasobject
        and (len(source) == 0 or source[0].flags.c_contiguous)
    )


class _Objects:
    """An array of Python objects, which NumPy must copy."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, indices: Array) -> Array:
        return np.asarray(self._array[indices])
