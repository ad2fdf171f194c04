"""Curves that the loss begins anew or chooses between."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from ..arguments import check_finite, check_whole
from ..expression import Expression, maximum, step, where
from ..expression.cells import Cell
from ..expression.nodes import expression
from ..expression.traversal import substituted
from ..expression.vocabulary import in_vocabulary
from .base import Control, clipped


@in_vocabulary
class RestartBelow(Control):
    """A curve that begins anew when the loss falls below a threshold.

    At a loss below ``threshold`` after one that was not, the time of the curve is 0 in the next
    update. With ``reset_to`` the value is that number from then on.

    NaN is not below anything. Losses of either sign are good.

    Args:
        curve: an expression by step; other inputs that it reads go on as they are.
        threshold: any finite number.
        reset_to: a number within the bounds, or None.
        lower, upper: bounds on the value, at least 0; ``upper`` None is none.

    Example:
        >>> import fusestep as fs
        >>> curve = fs.schedules.linear(start=1.0, end=0.0, length=10)
        >>> restart = fs.control.RestartBelow(curve, threshold=0.5)
        >>> for loss in (0.9, 0.6, 0.4):
        ...     restart.observe(loss)
        >>> restart(step=3), restart(step=4)
        (1.0, 0.9)
    """

    __slots__ = ("_below",)
    _below: bool
    _remembers: ClassVar[dict[str, Any]] = {"_below": False}

    def __init__(
        self,
        curve: Expression,
        threshold: float,
        reset_to: float | None = None,
        lower: float = 0.0,
        upper: float | None = None,
    ) -> None:
        begin = Cell(-1.0 if reset_to is not None else 0.0)
        if reset_to is None:
            body = substituted(expression(curve), {"step": maximum(step - begin, 0)})
        else:
            body = where(begin < 0, curve, check_finite("reset_to", reset_to))
        arguments = {
            "curve": expression(curve),
            "threshold": check_finite("threshold", threshold),
            "reset_to": reset_to,
            "lower": lower,
            "upper": upper,
        }
        super().__init__(arguments, begin, clipped(body, lower, upper))

    def _observe(self, loss: float) -> None:
        below = loss < self._known["threshold"]
        if below and not self._below:
            self._cell.memory[0] = self._seen
        self._below = below


@in_vocabulary
class BestOf(Control):
    """Tries several curves in turn, and follows the one under which the loss fell most.

    Each curve is followed for ``trial`` updates. The one with the largest fall of the loss from
    the end of the trial before to the end of its own is then followed for as many updates as all
    trials took, and the trials begin anew. All curves keep the time of the clock.

    A trial that begins or ends with a NaN or infinite loss counts as the worst. Losses of either
    sign are good.

    Args:
        curves: two or more expressions or numbers.
        trial: how many updates each is tried for, at least 1.
        lower, upper: bounds on the value, at least 0; ``upper`` None is none.

    Example:
        >>> import fusestep as fs
        >>> best = fs.control.BestOf([0.1, 0.2], trial=1)
        >>> for loss in (1.0, 0.9, 0.5):
        ...     value = best.value
        ...     best.observe(loss)
        >>> best.value
        0.2
    """

    __slots__ = ("_count", "_falls", "_last")
    _count: int
    _last: float | None
    _falls: list[float | None]
    _remembers: ClassVar[dict[str, Any]] = {
        "_count": 0,  # losses in this round
        "_last": None,  # the loss at the end of the trial before
        "_falls": [],  # of the trials that are over; None where a loss was no number
    }

    def __init__(
        self,
        curves: Sequence[Expression | float],
        trial: int,
        lower: float = 0.0,
        upper: float | None = None,
    ) -> None:
        if len(curves) < 2:
            raise ValueError(f"curves must be two or more expressions, not {curves!r}")
        chosen = Cell(0.0)
        nodes = [expression(curve) for curve in curves]
        body = nodes[-1]
        for k in reversed(range(len(nodes) - 1)):
            body = where(chosen <= k, nodes[k], body)
        arguments: dict[str, Any] = {
            "curves": nodes,
            "trial": check_whole("trial", trial, 1),
            "lower": lower,
            "upper": upper,
        }
        super().__init__(arguments, chosen, clipped(body, lower, upper))

    def _observe(self, loss: float) -> None:
        trial, curves = self._known["trial"], len(self._known["curves"])
        if self._last is None and not self._falls and math.isfinite(loss):
            self._last = loss
        self._count += 1
        trials = trial * curves
        if self._count <= trials and self._count % trial == 0:
            fall = (math.nan if self._last is None else self._last) - loss
            self._falls.append(fall if math.isfinite(fall) else None)
            self._last = loss if math.isfinite(loss) else None
        if self._count == trials:
            falls = [-math.inf if fall is None else fall for fall in self._falls]
            self._cell.memory[0] = falls.index(max(falls))
        elif self._count < trials:
            self._cell.memory[0] = self._count // trial
        elif self._count == 2 * trials:
            self._count, self._falls, self._last = 0, [], loss if math.isfinite(loss) else None
            self._cell.memory[0] = 0.0
