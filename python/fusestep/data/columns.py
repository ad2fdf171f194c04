"""The arrays of a data set, side by side: checked once, and their rows copied into batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import _core
from ..arguments import check_finite
from .device import Device, DeviceColumn, contiguous, has_dtype, is_on_device
from .sources import Array, Source, as_columns, source_of

# in the order of Element in csrc/portable/convert.h
_CONVERTIBLE = [np.dtype(kind) for kind in ("u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8")]


class Float32(NamedTuple):
    """``scale * float32(x) + shift``, computed in float32 while rows are copied."""

    scale: float
    shift: float


def to_float32(scale: float = 1.0, shift: float = 0.0) -> Float32:
    """For `Loader`'s ``transform``: numbers are converted to float32 while they are copied.

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
        data = as_columns(data)
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
        self._forms = [self._form(i) for i in range(len(sources))]

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
            alone = "to_float32(...), a function of the array or " if self._is_one else ""
            raise TypeError(f"transform must be {alone}a dict by {list(known)}, not {transforms!r}")
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
            _is_array(source) and source.dtype in _CONVERTIBLE
        ):
            raise TypeError(f"{self.name(i)}: to_float32 takes arrays of numbers, not {source!r}")
        return transform

    def _form(self, i: int) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
        """Shape of a row in a batch, and dtype; None for a source that allocates its own rows."""
        source = self.sources[i]
        if not _is_array(source):
            return None
        converted = isinstance(self._transforms[i], Float32)
        return source.shape[1:], np.dtype(np.float32) if converted else source.dtype

    def by_name(self) -> dict[str, Any]:
        """The sources, by how an error names them."""
        return {self.name(i): source for i, source in enumerate(self.sources)}

    def buffers(self, rows: int, empty: Callable[..., Array]) -> list[Array | None]:
        """Arrays on the host that `begin_gather` fills; None where it leaves a source out.

        ``empty(shape, dtype)`` allocates one.
        """
        return [
            empty((rows, *form[0]), form[1]) if form and not is_on_device(source) else None
            for source, form in zip(self.sources, self._forms, strict=True)
        ]

    def targets(self, device: Device, rows: int) -> list[Any]:
        """Arrays on the GPU for that many rows; None for a source that allocates its own."""
        return [form and device.empty((rows, *form[0]), form[1]) for form in self._forms]

    def on_device(self, targets: Sequence[Any]) -> list[DeviceColumn]:
        """The sources whose rows a kernel gathers, and where to."""
        columns = []
        for source, transform, target in zip(self.sources, self._transforms, targets, strict=True):
            if isinstance(transform, Float32) and is_on_device(source):
                element = _CONVERTIBLE.index(source.dtype)
                columns.append(DeviceColumn(source, target, element, *transform))
            elif is_on_device(source):
                columns.append(DeviceColumn(source, target))
        return columns

    def begin_gather(
        self, indices: Array, buffers: Sequence[Array | None]
    ) -> _core.Gathering | None:
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
    def some_on_host(self) -> bool:
        return not all(map(is_on_device, self.sources))

    @property
    def are_arrays(self) -> bool:
        """Whether no source allocates its own rows, so that there is nothing to `read`."""
        return None not in self._forms

    def read(self, indices: Array, *, for_gpu: bool) -> list[Any]:
        """The rows at these indices of sources that allocate their own; None for the others."""
        places = indices.astype(np.int64)
        rows = [s.take(places) if isinstance(s, Source) else None for s in self.sources]
        for i, found in enumerate(rows):
            if for_gpu and found is not None and not has_dtype(found.dtype):
                raise TypeError(
                    f"{self.name(i)} gave dtype {found.dtype}, which a GPU does not have"
                )
        return rows

    def cut(self, rows: Sequence[Any], begin: int, end: int) -> list[Any]:
        """Some of the rows of every source, as views; None stays None."""
        return [
            None
            if column is None
            else source.cut(column, begin, end)
            if isinstance(source, Source)
            else column[begin:end]
            for source, column in zip(self.sources, rows, strict=True)
        ]

    def concatenated(self, parts: Sequence[Sequence[Any]]) -> list[Any]:
        """DeviceColumn of every source, one after another."""
        return [
            source.joined(column) if isinstance(source, Source) else np.concatenate(column)
            for source, column in zip(self.sources, zip(*parts, strict=True), strict=True)
        ]

    @property
    def has_functions(self) -> bool:
        """Whether a transform is a function, which may write into what it is given."""
        return any(t is not None and not isinstance(t, Float32) for t in self._transforms)

    def assembled(self, rows: Sequence[Array]) -> Any:
        """Arrays in the form of the data, transformed."""
        done = [
            transform(array)
            if transform is not None and not isinstance(transform, Float32)
            else array
            for array, transform in zip(rows, self._transforms, strict=True)
        ]
        if self._is_one:
            return done[0]
        return tuple(done) if self.keys is None else dict(zip(self.keys, done, strict=True))

    @property
    def row_bytes(self) -> int:
        """About how much memory a sample takes in a batch."""
        return sum(form[1].itemsize * math.prod(form[0]) if form else 64 for form in self._forms)


def _is_array(source: Any) -> bool:
    return isinstance(source, np.ndarray) or is_on_device(source)


def _checked(name: str, source: Any) -> Any:
    if is_on_device(source):
        if source.ndim == 0:
            raise ValueError(f"{name} must have samples along its first axis, not be a number")
    else:
        source = source_of(name, source)
    if isinstance(source, Source) or len(source) == 0 or source[0].flags.c_contiguous:
        return source
    # rows are copied as bytes: the elements of a row must stand side by side
    return contiguous(source)
