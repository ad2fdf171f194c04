"""The order of samples in an epoch: a function of the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from .. import _core
from ..arguments import check_choice, check_whole

OrderName: TypeAlias = Literal["shuffled", "hashed", "sequential", "window"]
ORDERS: tuple[str, ...] = get_args(OrderName)

MOST_STORED = 2**32 - 1
Indices = npt.NDArray[Any]
Draw = Callable[[int, int, int, int], Indices]


class Piece(NamedTuple):
    """Places from ``begin`` to ``end`` in the order of an epoch."""

    epoch: int
    begin: int
    end: int


class Order(NamedTuple):
    """Which row stands at which place, in any epoch.

    Args:
        kind: a name; "sequential" and "hashed" are known to the GPU, of all others it is told rows.
        n: places of an epoch.
        draw: gives parts of an epoch, of (seed, epoch, begin, end): arrays of their own.
        identity: what a saved state is compared by: JSON values.
        window: of stretches that stay together.
    """

    kind: str
    n: int
    draw: Draw
    identity: Any
    window: int | None = None

    def part(self, seed: int, epoch: int, begin: int, end: int) -> Indices:
        """The rows at the places from ``begin`` to ``end`` in an epoch."""
        if begin == end:  # needs no order
            return np.zeros(0, np.uint32)
        return self.draw(seed, epoch, begin, end)


class Stored:
    """Parts of an order that is made for a whole epoch, and kept until another is asked for.

    Args:
        make: the rows of an epoch, a new array: of (seed, epoch).
    """

    def __init__(self, make: Callable[[int, int], Indices]) -> None:
        self._make = make
        self._stored: tuple[tuple[int, int], Indices] | None = None

    def __call__(self, seed: int, epoch: int, begin: int, end: int) -> Indices:
        stored = self._stored
        if stored is None or stored[0] != (seed, epoch):
            stored = self._stored = None  # never two in memory
            stored = self._stored = (seed, epoch), self._make(seed, epoch)
        return stored[1][begin:end].copy()  # a view would keep all of it


class Sampling:
    """What ``order=`` takes beside a name: it knows its rows, so no loader can pass it others."""

    def bound(self, rows: int) -> Order:
        """The order for data with that many rows; raises ValueError if it is for other data."""
        raise NotImplementedError


def as_order(order: Any, rows: int, window: int | None) -> Order:
    """An order of the rows of some data, for whatever ``order=`` is typed as."""
    if isinstance(order, Sampling):
        if window is not None:
            raise ValueError(f"window goes with order='window', not window={window!r}, {order!r}")
        return order.bound(rows)
    if not isinstance(order, str) and (hasattr(order, "__iter__") or callable(order)):
        raise TypeError(
            f"order must be one of {', '.join(ORDERS)}, or Subset, Weighted or Balanced of "
            "fusestep.data, not a sampler or a list: for rows in a given order say "
            "order=fusestep.data.Subset(indices, order='sequential')"
        )
    kind = check_choice("order", order, ORDERS)
    if (window is not None) != (kind == "window"):
        raise ValueError(f"window goes with order='window', not window={window!r}, {kind!r}")
    if kind == "sequential":
        return Order(kind, rows, _counted, kind)
    if kind == "hashed":
        return Order(kind, rows, partial(_core.hashed_order, rows), kind)
    if rows > MOST_STORED:
        raise ValueError(f"order={kind!r} is for fewer than 2^32 samples; use 'hashed'")
    if window is None:
        return Order(kind, rows, Stored(partial(_core.shuffled_order, rows)), kind)
    window = check_whole("window", window, 1, MOST_STORED)
    make = partial(_core.window_order, rows, window=window)
    return Order(kind, rows, Stored(make), kind, window)


def _counted(seed: int, epoch: int, begin: int, end: int) -> Indices:
    return np.arange(begin, end, dtype=np.uint64)
