"""The order of samples in an epoch: a function of the seed and the epoch alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from ..arguments import check_choice, check_whole

ORDERS = ("shuffled", "hashed", "sequential", "window")

_MOST_STORED = 2**32 - 1
Indices = npt.NDArray[Any]


class Piece(NamedTuple):
    """Places from ``begin`` to ``end`` in the order of an epoch."""

    epoch: int
    begin: int
    end: int


class Order:
    """Which sample stands where, in any epoch."""

    def __init__(self, kind: str, n: int, window: int | None) -> None:
        self.kind = check_choice("order", kind, ORDERS)
        self.n = n
        if (window is not None) != (kind == "window"):
            raise ValueError(f"window goes with order='window', not window={window!r}, {kind!r}")
        self.window = None if window is None else check_whole("window", window, 1, _MOST_STORED)
        if kind in ("shuffled", "window") and n > _MOST_STORED:
            raise ValueError(f"order={kind!r} is for fewer than 2^32 samples; use 'hashed'")
        self._stored: dict[tuple[int, int], Indices] = {}

    def part(self, seed: int, epoch: int, begin: int, end: int) -> Indices:
        """The samples at the places from ``begin`` to ``end`` in an epoch."""
        if self.kind == "sequential":
            return np.arange(begin, end, dtype=np.uint64)
        if self.kind == "hashed":
            return _core.hashed_order(self.n, seed, epoch, begin, end)
        return self._whole(seed, epoch)[begin:end]

    def _whole(self, seed: int, epoch: int) -> Indices:
        """A whole epoch; this one and the next are remembered."""
        if (seed, epoch) not in self._stored:
            while len(self._stored) >= 2:
                del self._stored[next(iter(self._stored))]
            if self.window is None:
                order = _core.shuffled_order(self.n, seed, epoch)
            else:
                order = _core.window_order(self.n, seed, epoch, self.window)
            self._stored[seed, epoch] = order
        return self._stored[seed, epoch]
