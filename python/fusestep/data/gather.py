"""Launches of cuda/gather.cu: rows of many arrays, side by side."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import _core
from ..cuda.compiling import compiled
from .device import Device
from .order import Order, Piece

_STRUCTS = _core.launch_structs()
_MOST_COLUMNS = _core.launch_constants()["kMostColumns"]
_THREADS = 256
_BLOCKS = 2048  # fill any GPU


class Rows(NamedTuple):
    """Rows of an array on the GPU, and where they go."""

    source: Any
    target: Any
    element: int = -1  # of Element in csrc/portable/convert.h; -1: copied as they are
    scale: float = 1.0
    shift: float = 0.0


def gather(device: Device, order: Order, seed: int, piece: Piece, columns: Sequence[Rows]) -> Any:
    """Queues the copying of the rows of a piece; returns memory of the host that it reads."""
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
    """Which rows these are, on the GPU, and what it reads on the host; None: one after another."""
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


def _described(column: Rows) -> tuple[Any, ...]:
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
