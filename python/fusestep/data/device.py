"""Batches on a GPU: CuPy arrays, gathered by cuda/gather.cu or copied, on a stream of their own."""

from __future__ import annotations

import functools
import math
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from .. import _core
from ..cuda.compiling import compiled
from ..cuda.memory import copy_to_device, finish_before, follow, pinned, recorded
from .order import Order, Piece

_IN_FLIGHT = 4  # most blocks whose pinned memory is kept for copies that the GPU has not made
_STRUCTS = _core.launch_structs()
_MOST_COLUMNS = _core.launch_constants()["kMostColumns"]
_THREADS = 256
_BLOCKS = 2048  # fill any GPU


def is_on_device(source: Any) -> bool:
    """Whether this is an array of CuPy."""
    cupy = sys.modules.get("cupy")  # nobody has an array of what is not imported
    return cupy is not None and isinstance(source, cupy.ndarray)


def has_dtype(dtype: np.dtype[Any]) -> bool:
    """Whether arrays of CuPy can be of this dtype."""
    return dtype.kind in "biufc" and dtype.char not in "gG" and dtype.isnative


def contiguous(array: Any) -> Any:
    """The same numbers with the elements of a row side by side."""
    if not is_on_device(array):
        return np.ascontiguousarray(array)
    with array.device:
        return array.copy()


def device_for(sources: Mapping[str, Any], place: str | None) -> Device | None:
    """The GPU for batches of these sources; None for batches on the host.

    Args:
        sources: by how an error names them.
        place: "cuda", or None for where the sources are.

    Raises:
        ValueError: the sources are in several places.
        TypeError: the rows of a source can't be on a GPU.
    """
    there = {name: source for name, source in sources.items() if is_on_device(source)}
    here = {name: source for name, source in sources.items() if name not in there}
    if place is None and not there:
        return None
    if place is None and here:
        raise ValueError(
            f"{next(iter(there))} is on a GPU and {next(iter(here))} is not: move one of them, or "
            "say device='cuda' for batches on the GPU"
        )
    for name, source in here.items():
        dtype = getattr(source, "dtype", None)
        if isinstance(dtype, np.dtype) and not has_dtype(dtype):
            raise TypeError(f"{name} has dtype {dtype}, which a GPU does not have")
        if not getattr(source, "on_gpu", True):
            raise TypeError(f"{name} can't go to a GPU: give its arrays, or no device")
    numbers = {name: source.device.id for name, source in there.items()}
    for name, number in numbers.items():
        first = next(iter(numbers))
        if number != numbers[first]:
            raise ValueError(
                f"{first} is on GPU {numbers[first]} and {name} on GPU {number}: all must be on one"
            )
    return Device(next(iter(numbers.values()), None))


class Device:
    """A GPU, and a stream there on which batches are filled while the consumer computes.

    Memory of batches is allocated on this stream, so CuPy's pool reuses it for later work of this
    stream alone; and that work waits for all that the consumer had queued when it took the batch
    before. So a batch may be used until the last reference to it is gone.
    """

    def __init__(self, number: int | None = None) -> None:
        try:
            import cupy
        except ImportError:
            raise ImportError(
                "batches on a GPU need CuPy: pip install 'fusestep[cuda]'", name="cupy"
            ) from None
        self.cupy = cupy
        self._device = cupy.cuda.Device(number)
        with self._device:
            self._stream = cupy.cuda.Stream(non_blocking=True)
            self._follow(cupy.cuda.get_current_stream())  # which may still write the sources
        self._in_flight: deque[tuple[Any, Any]] = deque()  # events, and what is read before them
        finish_before(self, [self._stream], self._in_flight)  # a batch may outlive its loader

    @contextmanager
    def queueing(self, *, allocates: bool) -> Iterator[None]:
        """Queues work on this stream; ``allocates`` waits for the consumer's stream first."""
        with self._device:
            if allocates:
                self._follow(self.cupy.cuda.get_current_stream())
            with self._stream:
                yield

    def _follow(self, stream: Any) -> None:
        follow(self.cupy, self._stream, stream)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Uninitialised memory of the GPU; inside ``queueing`` only."""
        return self.cupy.empty(shape, dtype)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Pinned memory of the host; it must last until the GPU has read it."""
        return pinned(self.cupy, shape, dtype)

    def copy(self, source: Any, target: Any) -> None:
        """Queues a copy of pinned memory to the GPU."""
        addresses = source.ctypes.data, target.data.ptr
        copy_to_device(self.cupy, *addresses, source.nbytes, self._stream)

    def queued(self, memory: Any = None) -> Any:
        """An event after all that is queued so far; ``memory`` is kept alive until then."""
        event = recorded(self.cupy, self._stream)
        if memory is not None:
            self._in_flight.append((event, memory))
        while self._in_flight and self._in_flight[0][0].done:
            self._in_flight.popleft()
        while len(self._in_flight) > _IN_FLIGHT:
            self._in_flight[0][0].synchronize()  # before its memory is let go
            self._in_flight.popleft()
        return event

    def deliver(self, event: Any) -> None:
        """Makes the consumer's stream wait for an event."""
        with self._device:
            self.cupy.cuda.get_current_stream().wait_event(event)

    def concatenate(self, arrays: Sequence[Any]) -> Any:
        with self._device:
            return self.cupy.concatenate(arrays)


class DeviceBlock:
    """The rows of a piece on the GPU, or on their way there through memory of the host.

    Args:
        indices: of the rows, on the host; None where the GPU computes them.
        targets: an array for each column; None for rows whose shape is known once they are read.
        host: a block of the columns that are copied from the host, None if there are none.
        event: after what is queued for the other columns.
    """

    def __init__(
        self,
        device: Device,
        piece: Piece,
        indices: Any,
        targets: list[Any],
        host: Any,
        event: Any,
    ) -> None:
        self.piece = piece
        self.indices = indices
        self._device = device
        self._targets = targets
        self._host = host
        self._event = event

    def advance(self) -> None:
        """Queues the copy to the GPU if the rows are on the host."""
        if self._host is not None and self._host.is_done():
            self._send()

    def rows(self, begin: int, end: int) -> list[Any]:
        """The rows at some positions, ready for what the consumer queues next."""
        if self._host is not None:
            self._send()
        self._device.deliver(self._event)
        first, last = begin - self.piece.begin, end - self.piece.begin
        return [target[first:last] for target in self._targets]

    def _send(self) -> None:
        rows = self._host.rows(self.piece.begin, self.piece.end)
        coming = [i for i, source in enumerate(rows) if source is not None]
        unknown = [i for i in coming if self._targets[i] is None]
        with self._device.queueing(allocates=bool(unknown)):
            for i in unknown:
                form = rows[i].shape, rows[i].dtype
                self._targets[i], pinned = self._device.empty(*form), self._device.pinned(*form)
                pinned[...] = rows[i]
                rows[i] = pinned
            for i in coming:
                self._device.copy(rows[i], self._targets[i])
            self._event = self._device.queued((self._host, rows))
        self._host = None


class DeviceColumn(NamedTuple):
    """An array on the GPU whose rows are gathered, and the array that they are copied to."""

    source: Any
    target: Any
    element: int = -1  # of Element in csrc/portable/convert.h; -1: copied as they are
    scale: float = 1.0
    shift: float = 0.0


def queue_gather(
    device: Device, order: Order, seed: int, piece: Piece, columns: Sequence[DeviceColumn]
) -> Any:
    """Queues the gathering of a piece's rows; returns pinned indices that it reads, or None."""
    columns = [column for column in columns if column.target.size > 0]
    if not columns:
        return None
    rows = piece.end - piece.begin
    places, read = _places(device, order, seed, piece)
    for first in range(0, len(columns), _MOST_COLUMNS):
        some = [_described(column) for column in columns[first : first + _MOST_COLUMNS]]
        struct = np.zeros(1, _STRUCTS["GatherLaunch"])
        struct["places"] = 0 if places is None else places.data.ptr
        struct["begin"], struct["rows"] = piece.begin, rows
        struct["columns"][0, : len(some)] = some
        most = max(units for _, _, _, units, *_ in some)
        _launch(device, "gather_rows", rows * most, len(some), struct)
    return read


def _places(device: Device, order: Order, seed: int, piece: Piece) -> tuple[Any, Any]:
    """The indices of a piece's rows on the GPU, and the pinned ones that they are copied from.

    None for the first where rows are in order, and for the second where the GPU computes indices.
    """
    if order.kind == "sequential":
        return None, None
    rows = piece.end - piece.begin
    places = device.empty((rows,), np.uint64)
    if order.kind == "hashed":
        struct = np.zeros(1, _STRUCTS["PlacesLaunch"])
        numbers = _core.hashed_order_numbers(order.n, seed, piece.epoch)
        struct["feistel"] = numbers.view(struct.dtype["feistel"])
        struct["begin"], struct["rows"] = piece.begin, rows
        struct["places"] = places.data.ptr
        _launch(device, "hashed_places", rows, 1, struct)
        return places, None
    read = device.pinned((rows,), np.uint64)
    read[:] = order.rows(seed, *piece)
    device.copy(read, places)
    return places, read


def _described(column: DeviceColumn) -> tuple[Any, ...]:
    """A GatherColumn, in units of the widest accesses that fit."""
    source, target, element, scale, shift = column
    address, stride = source.data.ptr, source.strides[0]
    steps, length = address | abs(stride), math.prod(source.shape[1:])
    if element < 0:
        length *= source.itemsize
        common = steps | length | 16
        width = common & -common  # the largest power of two that divides all
    else:
        width = 1 if length % 4 or steps % (4 * source.itemsize) else 4
    return (address, stride, target.data.ptr, length // width, width, element, scale, shift)


def _launch(device: Device, name: str, units: int, columns: int, struct: Any) -> None:
    """Queues a kernel with a thread for each unit, up to what fills a GPU."""
    blocks = min(_BLOCKS, -(-units // _THREADS))
    _kernel(device.cupy, name)((blocks, columns), (_THREADS,), (struct,))


@functools.cache
def _kernel(cupy: Any, name: str) -> Any:
    return compiled(cupy, "gather.cu").get_function(name)
