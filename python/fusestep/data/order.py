"""The order of samples in an epoch: a function of the seed and the epoch alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from ..arguments import check_choice, check_flag, check_whole, named_arguments
from ..saved_state import LARGEST

ORDERS = ("shuffled", "hashed", "sequential", "window")

MOST_STORED = 2**32 - 1  # rows of an order with 4 bytes for each
Indices = npt.NDArray[Any]
Draw = Callable[[int, int, int, int], Indices]


class Piece(NamedTuple):
    """The positions from ``begin`` to ``end`` in the order of an epoch."""

    epoch: int
    begin: int
    end: int


class Order(NamedTuple):
    """Which row stands at which position, in any epoch.

    Args:
        kind: a name. The GPU computes "sequential" and "hashed" itself; the rows of all others are
            copied to it.
        n: positions of an epoch.
        draw: (seed, epoch, begin, end) -> the rows at these positions, a new array.
        identity: JSON values by which a saved state is compared with the loader.
        window: length of the stretches of ``order="window"``.
    """

    kind: str
    n: int
    draw: Draw
    identity: Any
    window: int | None = None

    def rows(self, seed: int, epoch: int, begin: int, end: int) -> Indices:
        """The rows at positions ``begin`` to ``end`` of an epoch; the array is the caller's."""
        if begin == end:  # an order of a whole epoch need not be made for nothing
            return np.zeros(0, np.uint32)
        return self.draw(seed, epoch, begin, end)


class Stored:
    """Draws from an order that is computed for a whole epoch; the last epoch is cached.

    Args:
        make: (seed, epoch) -> the rows of the epoch, a new array.
    """

    def __init__(self, make: Callable[[int, int], Indices]) -> None:
        self._make = make
        self._stored: tuple[tuple[int, int], Indices] | None = None

    def __call__(self, seed: int, epoch: int, begin: int, end: int) -> Indices:
        stored = self._stored
        if stored is None or stored[0] != (seed, epoch):
            stored = self._stored = None  # never two in memory
            stored = self._stored = (seed, epoch), self._make(seed, epoch)
        return stored[1][begin:end].copy()  # a view would keep the whole epoch alive


class Sampling:
    """What ``order=`` takes beside a name. It says how many rows it is for."""

    def _bound(self, rows: int) -> Order:
        """The order for data with that many rows; ValueError if it is for another number."""
        raise NotImplementedError


def as_order(order: Any, rows: int, window: int | None) -> Order:
    """The order that ``Loader(order=...)`` stands for, of data with that many rows."""
    if isinstance(order, Sampling):
        if window is not None:
            raise ValueError(f"window goes with order='window', not window={window!r}, {order!r}")
        return order._bound(rows)
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


class Weighted(Sampling):
    """Rows drawn in proportion to weights; for ``Loader(order=...)``.

    With replacement every draw is independent, and row ``i`` comes with probability
    ``weights[i] / sum(weights)``. Without, each draw is among the rows not yet drawn in this
    epoch, in proportion to their weights. Rows of weight 0 are never drawn; rows of equal weight
    are drawn equally often. What an epoch draws is a function of the loader's seed and the epoch,
    with the same bits on every machine.

    Args:
        weights: a number for each row of the data, finite and at least 0; their sum need not be 1.
        replacement: whether a row may come more than once in an epoch; default True.
        samples: draws of an epoch, at least 1; by default as many as there are rows, without
            replacement as many as have a weight above 0, which is also the most.

    Memory: 16 bytes for each row with replacement; without, 8 bytes for each row and 4 for each
    draw, and 16 more for each row while the order of an epoch is made.

    Raises:
        TypeError, ValueError: named by argument.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> rare = fs.data.Weighted([1, 1, 1, 7], samples=10)
        >>> loader = fs.Loader(np.arange(4), 5, order=rare)
        >>> [batch.data.tolist() for batch in loader]
        [[3, 3, 3, 3, 3], [3, 3, 3, 2, 3]]

    Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006, without
    replacement.
    """

    @named_arguments
    def __init__(
        self, weights: Any, *, replacement: bool = True, samples: int | None = None
    ) -> None:
        numbers = _vector("weights", weights, "one number for each row of the data")
        if numbers.dtype.kind not in "biuf":
            raise TypeError(f"weights must be numbers, not of dtype {numbers.dtype}")
        self._weights = numbers.astype(np.float64)
        self._weights.flags.writeable = False
        bad = np.flatnonzero(~(np.isfinite(self._weights) & (self._weights >= 0)))
        if len(bad) > 0:
            raise ValueError(
                f"weights[{bad[0]}] must be finite and at least 0, not {numbers[bad[0]]}"
            )
        drawable = int(np.count_nonzero(self._weights))
        if drawable == 0:
            raise ValueError("weights must not all be 0: no row could be drawn")
        self._replacement = check_flag("replacement", replacement)
        if self._replacement:
            self._samples = _samples(samples, len(numbers), LARGEST, "the most is 2^53 - 1")
        else:
            limit = f"without replacement at most {drawable}, the rows of a weight above 0"
            self._samples = _samples(samples, drawable, drawable, limit)
        self._identity = _identity("weighted", self._weights, self._replacement, self._samples)

    def _bound(self, rows: int) -> Order:
        _check_rows("weights", len(self._weights), rows)
        if self._replacement:
            draw: Draw = _core.WeightedDraws(self._weights).draw
        else:
            draw = Stored(partial(_core.weighted_order, self._weights, self._samples))
        return Order("weighted", self._samples, draw, self._identity)

    def __repr__(self) -> str:
        return (
            f"Weighted({len(self._weights)} weights, replacement={self._replacement}, "
            f"samples={self._samples})"
        )


class Balanced(Sampling):
    """All classes equally often; for ``Loader(order=...)``.

    An epoch is made of rounds: in each every class stands once, in shuffled order. So each class
    is in a batch as often as any other, up to one for a batch that is not a multiple of the number
    of classes, or two if it does not begin with a round. With replacement the row of a class is
    drawn from all of its rows, independently. Without, the rows of a class come in shuffled order,
    each once at most, and the smallest class ends the epoch.

    Args:
        labels: the class of each row of the data: whole numbers, strings or booleans, whichever
            there are. One-hot rows are ``labels.argmax(axis=1)``.
        replacement: whether a row may come more than once in an epoch; default True.
        samples: rows of an epoch, at least 1; by default as many as the data has, without
            replacement the number of classes times the size of the smallest, which is also the
            most.

    Memory: 4 bytes for each row; without replacement 4 more for each sample, and 4 for each row
    while the order of an epoch is made.

    Raises:
        TypeError, ValueError: named by argument.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> labels = np.array([0, 0, 0, 0, 0, 0, 1, 1])
        >>> loader = fs.Loader(labels, 4, order=fs.data.Balanced(labels))
        >>> [sorted(batch.data.tolist()) for batch in loader]
        [[0, 0, 1, 1], [0, 0, 1, 1]]
    """

    @named_arguments
    def __init__(
        self, labels: Any, *, replacement: bool = True, samples: int | None = None
    ) -> None:
        values = _vector("labels", labels, "the class of each row; one-hot: labels.argmax(axis=1)")
        if values.dtype.kind not in "biuSUO":
            raise TypeError(
                f"labels must be whole numbers, strings or booleans, not of dtype {values.dtype}"
            )
        if bool(np.any(values != values)):
            raise ValueError("labels must not be NaN: give such rows a class of their own")
        try:
            _, classes, sizes = np.unique(values, return_inverse=True, return_counts=True)
        except TypeError as error:
            raise TypeError(f"labels must be of one kind, which can be sorted: {error}") from None
        classes = classes.ravel().astype(np.uint32)
        self._members = np.argsort(classes, kind="stable").astype(np.uint32)
        self._begins = np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64)
        self._members.flags.writeable = self._begins.flags.writeable = False
        self._replacement = check_flag("replacement", replacement)
        if self._replacement:
            self._samples = _samples(samples, len(values), LARGEST, "the most is 2^53 - 1")
        else:
            most = min(len(sizes) * int(sizes.min()), MOST_STORED)
            limit = (
                f"without replacement at most {most}: there are {len(sizes)} classes, and the "
                f"smallest has {sizes.min()} rows"
            )
            self._samples = _samples(samples, most, most, limit)
        self._identity = _identity("balanced", classes, self._replacement, self._samples)

    def _bound(self, rows: int) -> Order:
        _check_rows("labels", len(self._members), rows)
        if self._replacement:
            draw: Draw = partial(_core.balanced_draws, self._members, self._begins)
        else:
            make = partial(_core.balanced_order, self._members, self._begins, self._samples)
            draw = Stored(make)
        return Order("balanced", self._samples, draw, self._identity)

    def __repr__(self) -> str:
        return (
            f"Balanced({len(self._members)} labels of {len(self._begins) - 1} classes, "
            f"replacement={self._replacement}, samples={self._samples})"
        )


class Subset(Sampling):
    """Some rows only; for ``Loader(order=...)``.

    Args:
        indices: whole numbers from 0: the rows that make an epoch. A row that is named twice comes
            twice. Of a mask: ``numpy.flatnonzero(mask)``.
        order: in which order they come: a name as of ``Loader``; "sequential" is the order of
            ``indices``. Or a `Weighted`, `Balanced` or `Subset` with an entry for each of them.
        window: for ``order="window"``.

    Memory: 4 bytes for each index (8 if one is 2^32 or above), beside what ``order`` takes.

    Raises:
        TypeError, ValueError: named by argument.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> train = fs.data.Subset([5, 3, 8], order="sequential")
        >>> [batch.data.tolist() for batch in fs.Loader(np.arange(10), 2, order=train)]
        [[5, 3], [8]]
    """

    @named_arguments
    def __init__(
        self,
        indices: Any,
        order: Literal["shuffled", "hashed", "sequential", "window"]
        | Weighted
        | Balanced
        | Subset = "shuffled",
        *,
        window: int | None = None,
    ) -> None:
        rows = _vector("indices", indices, "which rows there are")
        if rows.dtype.kind == "b":
            raise TypeError("indices must be whole numbers; of a mask: numpy.flatnonzero(mask)")
        if rows.dtype.kind not in "iu":
            raise TypeError(f"indices must be whole numbers, not of dtype {rows.dtype}")
        bad = np.flatnonzero(rows < 0)
        if len(bad) > 0:
            raise ValueError(f"indices[{bad[0]}] must be at least 0, not {rows[bad[0]]}")
        self._largest = int(rows.max())
        self._rows = rows.astype(np.uint32 if self._largest <= MOST_STORED else np.uint64)
        self._rows.flags.writeable = False
        self._digest = _digest(self._rows)
        self._order, self._window = order, window
        as_order(order, len(rows), window)  # refused here, not by a loader

    def _bound(self, rows: int) -> Order:
        if self._largest >= rows:
            place = int(np.argmax(self._rows))
            raise ValueError(
                f"indices[{place}] is {self._largest}, the data has {rows} rows: it must be below"
            )
        inner, chosen = as_order(self._order, len(self._rows), self._window), self._rows
        identity = {
            "kind": "subset",
            "indices": self._digest,
            "order": inner.identity,
            "window": inner.window,
        }

        def draw(seed: int, epoch: int, begin: int, end: int) -> Indices:
            return chosen[inner.rows(seed, epoch, begin, end)]

        return Order("subset", inner.n, draw, identity)

    def __repr__(self) -> str:
        window = "" if self._window is None else f", window={self._window}"
        return f"Subset({len(self._rows)} indices, order={self._order!r}{window})"


def _vector(name: str, values: Any, meaning: str) -> Indices:
    """The values as an array with one axis."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array: fill or leave out what is masked")
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must have one axis ({meaning}), not shape {array.shape}")
    if not 0 < len(array) <= MOST_STORED:
        raise ValueError(f"{name} must hold 1 to 2^32 - 1 entries, not {len(array)}")
    return array


def _samples(samples: Any, default: int, most: int, limit: str) -> int:
    if samples is None:
        return default
    number = check_whole("samples", samples, 1)
    if number > most:
        raise ValueError(f"samples is {number}, {limit}")
    return number


def _check_rows(name: str, entries: int, rows: int) -> None:
    if entries != rows:
        raise ValueError(f"{name} has {entries} entries, the data has {rows} rows: one for each")


def _identity(kind: str, values: Indices, replacement: bool, samples: int) -> dict[str, Any]:
    return {
        "kind": kind,
        "replacement": replacement,
        "samples": samples,
        "values": _digest(values),
    }


def _digest(values: Indices) -> str:
    """A hash of values for saved states, the same on machines of either byte order."""
    portable = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(portable.tobytes()).hexdigest()[:32]
