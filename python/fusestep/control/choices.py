"""Curves that the loss begins anew or chooses between."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..arguments import check_finite, check_list, check_whole
from ..expression import Expression, maximum, step, where
from ..expression.traversal import substituted
from ..expression.vocabulary import in_vocabulary
from ..memory import MemoryCell
from ..saved_state import Form, whole
from .base import Control, ControlMemory, bounded, check_curve, clipped

_MOST = sys.float_info.max


@dataclass(frozen=True)
class RestartMemory(ControlMemory):
    value: float = 0.0  # the step at which the curve began; -1 before a reset to a number
    below: bool = False


@dataclass(frozen=True)
class TrialMemory(ControlMemory):
    value: float = 0.0  # the place of the curve that is followed
    count: int = 0  # losses in this round
    last: float | None = None  # the loss at the end of the trial before
    falls: tuple[float | None, ...] = ()  # of the trials that are over; None: not finite


@in_vocabulary
class RestartBelow(Control):
    """A curve that begins anew when the loss falls below a threshold.

    At a loss below ``threshold`` after one that was not, the time of the curve is 0 in the next
    update. With ``reset_to`` the value is that number from then on.

    NaN is not below anything. Losses of either sign are good.

    Args:
        curve: an expression by step; other inputs that it reads go on as they are.
        threshold: any finite number.
        reset_to: a finite number, which is moved into the bounds; or None.
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

    __slots__ = ()
    _memory: RestartMemory

    def __init__(
        self,
        curve: Expression,
        threshold: float,
        reset_to: float | None = None,
        lower: float = 0.0,
        upper: float | None = None,
    ) -> None:
        first = RestartMemory(value=0.0 if reset_to is None else -1.0)
        begin, curve = MemoryCell(first.value), check_curve("curve", curve)
        if reset_to is None:
            body = substituted(curve, {"step": maximum(step - begin, 0)})
        else:
            body = where(begin < 0, curve, check_finite("reset_to", reset_to))
        arguments = {
            "curve": curve,
            "threshold": check_finite("threshold", threshold),
            "reset_to": reset_to,
            "lower": lower,
            "upper": upper,
        }
        super().__init__(arguments, first, begin, clipped(body, lower, upper))

    def _after(self, loss: float, seen: int) -> RestartMemory:
        below = loss < self._known["threshold"]
        begins = below and not self._memory.below
        return RestartMemory(seen, float(seen) if begins else self._memory.value, below)

    def _check_memory(self, memory: RestartMemory) -> None:
        if memory.value != self._first.value and not 0 <= memory.value <= memory.seen:
            raise ValueError(f"value: must be from 0 to seen={memory.seen}, not {memory.value!r}")


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

    __slots__ = ()
    _memory: TrialMemory

    def __init__(
        self,
        curves: Sequence[Expression | float],
        trial: int,
        lower: float = 0.0,
        upper: float | None = None,
    ) -> None:
        chosen = MemoryCell(0.0)
        entries = enumerate(check_list("curves", curves, 2))
        nodes = [check_curve(f"curves[{i}]", curve) for i, curve in entries]
        body = nodes[-1]
        for k in reversed(range(len(nodes) - 1)):
            body = where(chosen <= k, nodes[k], body)
        arguments: dict[str, Any] = {
            "curves": nodes,
            "trial": check_whole("trial", trial, 1),
            "lower": lower,
            "upper": upper,
        }
        super().__init__(arguments, TrialMemory(), chosen, clipped(body, lower, upper))

    def _after(self, loss: float, seen: int) -> TrialMemory:
        trial, trials = self._known["trial"], self._trials
        value, count, falls = self._memory.value, self._memory.count + 1, self._memory.falls
        end = loss if math.isfinite(loss) else None
        last = end if self._memory.last is None and not falls else self._memory.last
        if count <= trials and count % trial == 0:
            fall = None if last is None or end is None else bounded(last - end, -_MOST, _MOST)
            falls, last = (*falls, fall), end
        if count < trials:
            value = float(count // trial)
        elif count == trials:
            value = float(falls.index(max(falls, key=_rank)))
        elif count == 2 * trials:
            value, count, last, falls = 0.0, 0, end, ()
        return TrialMemory(seen, value, count, last, falls)

    @property
    def _trials(self) -> int:
        """Losses that all trials of a round take."""
        trials: int = self._known["trial"] * len(self._known["curves"])
        return trials

    def _forms(self) -> dict[str, Form]:
        return {**super()._forms(), "count": whole(0, 2 * self._trials - 1)}

    def _check_memory(self, memory: TrialMemory) -> None:
        trial, trials = self._known["trial"], self._trials
        over = min(memory.count, trials) // trial
        if len(memory.falls) != over:
            raise ValueError(f"falls: must be {over} at count={memory.count}, not {memory.falls!r}")
        tried = range(len(self._known["curves"])) if memory.count >= trials else (over,)
        if memory.value not in tried:
            raise ValueError(f"value: must be one of {[*tried]}, not {memory.value!r}")


def _rank(fall: float | None) -> float:
    return -math.inf if fall is None else fall
