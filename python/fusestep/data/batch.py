"""What a loader delivers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..clock import Clock
from .sources import Array


class Batch:
    """Some samples: ``batch["x"]`` or ``batch[0]``, as the data is a dict or a tuple.

    ``len(batch)`` is its number of rows. Arrays of a tuple can be unpacked, ``x, y = batch``; one
    array is iterated row by row; a dict is not iterated: ``batch.data.items()`` gives its arrays.

    Attributes:
        data: the arrays in the form of the data: a dict, a tuple, or one array.
        clock: how far training was before this batch; for ``Optimizer.step(clock=...)``.
        size: samples of this update: of all ranks together.
        weight: rows here / rows of all ranks: 1.0 without ``shard``, 0.0 for a part without rows.
            The mean gradient of all ranks is the sum of ``weight`` times the mean of each.
        indices: which samples these are, an array of integers.

    A batch can be pickled and copied where its arrays can.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> batch = next(iter(fs.Loader({"x": np.arange(10), "y": np.ones(10)}, 4, seed=1)))
        >>> len(batch), batch["y"].shape, sorted(batch.data)
        (4, (4,), ['x', 'y'])
    """

    __slots__ = ("_indices", "_rows", "clock", "data", "size")

    def __init__(
        self, data: Any, clock: Clock, size: int, rows: int, indices: Callable[[], Array] | Array
    ) -> None:
        self.data = data
        self.clock = clock
        self.size = size
        self._rows = rows
        self._indices = indices

    @property
    def weight(self) -> float:
        return self._rows / self.size

    @property
    def indices(self) -> Array:
        return self._indices() if callable(self._indices) else self._indices

    def __getitem__(self, key: Any) -> Any:
        return self.data[key]

    def __contains__(self, key: Any) -> bool:
        return key in self.data

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.data, dict):
            raise TypeError(
                f"this batch holds arrays by name, {list(self.data)}: iterate batch.data.items(), "
                "or take one, batch[name]"
            )
        return iter(self.data)

    def __len__(self) -> int:
        return self._rows

    def _part(self, data: Any, rows: slice) -> Batch:
        """Some of its rows, whose arrays these are."""
        count = len(range(*rows.indices(self._rows)))
        return Batch(data, self.clock, self.size, count, lambda: self.indices[rows])

    def __reduce__(self) -> Any:
        return Batch, (self.data, self.clock, self.size, self._rows, self.indices)

    def __repr__(self) -> str:
        return f"Batch(size={self.size}, clock={self.clock})"
