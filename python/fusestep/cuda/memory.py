"""Memory that host and device exchange without waiting, and the order of streams."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_TURNS = 256


def pinned(cupy: Any, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
    """Memory of the host that the device can read and write by itself."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    return np.ndarray(shape, dtype, buffer=cupy.cuda.alloc_pinned_memory(max(1, size)))


def copy_to_device(cupy: Any, source: int, target: int, size: int, stream: Any) -> None:
    """Queues a copy of bytes between two addresses; the source is pinned and lasts until then."""
    runtime = cupy.cuda.runtime
    runtime.memcpyAsync(target, source, size, runtime.memcpyHostToDevice, stream.ptr)


def recorded(cupy: Any, stream: Any) -> Any:
    """An event after all that the stream has by now."""
    event = cupy.cuda.Event(disable_timing=True)
    event.record(stream)
    return event


def follow(cupy: Any, stream: Any, other: Any) -> None:
    """What is queued in a stream from now on comes after what the other has by now."""
    stream.wait_event(recorded(cupy, other))


def finish_before(owner: object, streams: Sequence[Any], memory: object) -> None:
    """When the owner goes, waits for the streams: they may still read or write this memory.

    Not at the end of the process, where the driver may be gone.
    """
    weakref.finalize(owner, _finish, streams, memory).atexit = False


def _finish(streams: Sequence[Any], memory: object) -> None:
    for stream in streams:
        if not stream.is_capturing():
            stream.synchronize()


class _Turn(NamedTuple):
    view: npt.NDArray[np.uint8]
    address: int
    event: Any


class Uploads:
    """Copies of small tables to the device, through pinned memory in turns.

    Waits only for a copy that is 256 copies old.
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._turns: list[_Turn | None] = [None] * _TURNS
        self._next = 0

    def copy(self, data: bytes, target: int, stream: Any) -> None:
        """Copies bytes to an address, in the order of the stream."""
        source = np.frombuffer(data, np.uint8)
        turn = self._turns[self._next]
        if turn is not None:
            turn.event.synchronize()
        if turn is None or turn.view.size < source.size:
            view: npt.NDArray[np.uint8] = pinned(self._cupy, (max(4096, source.size),), np.uint8)
            event = self._cupy.cuda.Event(disable_timing=True)
            turn = _Turn(view, view.ctypes.data, event)
            self._turns[self._next] = turn
        turn.view[: source.size] = source
        copy_to_device(self._cupy, turn.address, target, source.size, stream)
        turn.event.record(stream)
        self._next = (self._next + 1) % _TURNS
