"""Rows that a step need not touch: how they catch up, and how much they may miss."""

from __future__ import annotations

from typing import Any, Literal, overload

from ..arguments import check_whole
from ..engines import Plan
from .fields import Argument, Declared

Lazy = Literal["exact", "skip"]

_MOST = 2**31


class History(Argument):
    """How many updates a row may miss."""

    annotation = "int"

    def __init__(self, default: int) -> None:
        self.default = default

    @overload
    def __get__(self, holder: None, owner: type) -> History: ...
    @overload
    def __get__(self, holder: Declared, owner: type) -> int: ...
    def __get__(self, holder: Any, owner: type) -> Any:
        return self if holder is None else holder._plan.history

    def __set__(self, holder: Any, value: int) -> None:
        holder._plan.history = check_whole("history", value, 1, _MOST)


class RowByRow:
    """What an optimizer does with rows that miss updates."""

    __slots__ = ()

    _plan: Plan

    def fetch(self, path: str, rows: Any) -> None:
        """Has rows of a parameter catch up, before they are read.

        After steps with `Rows` under ``lazy="exact"`` the rows that they did not hold are behind.
        Those given here are then what dense steps would have made of them; the time that takes
        grows with the updates they have missed. Where nothing was missed it returns at once.

        Args:
            path: of the parameter, as in ``opt.params``; "" where the parameter is a lone array.
            rows: int32 or int64, of shape (n,), in any order.

        Raises:
            TypeError, ValueError, IndexError: nothing has changed.

        Example:
            >>> import numpy as np, fusestep as fs
            >>> table = np.ones((4, 2))
            >>> opt = fs.AdamW({"table": table}, lr=0.1, weight_decay=0.5)
            >>> rows = np.array([1, 3])
            >>> for _ in range(2):
            ...     opt.fetch("table", rows)                 # what a model then reads
            ...     grads = {"table": fs.Rows(rows, table[rows], table.shape)}
            ...     info = opt.step(grads)
            >>> table[0]                                     # has missed two updates
            array([1., 1.])
            >>> opt.fetch("table", np.array([0]))
            >>> table[0]
            array([0.9025, 0.9025])
        """
        self._plan.fetch(path, rows)

    def flush(self) -> None:
        """Has all rows of all parameters catch up; see `fetch`.

        To be called before an evaluation reads the parameters, or anything but the optimizer writes
        them. Saved states, checkpoints, averages and ``opt.state`` do it by themselves.

        Each row takes all updates that it has missed, so that this takes up to ``history`` times as
        long as a dense step; rows that have never had a gradient are passed over by SGD, Adam and
        AdaBelief without weight decay.
        """
        self._plan.flush()
