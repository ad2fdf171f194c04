"""Factors that change with every loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from ..arguments import check_choice, check_number, check_positive
from ..expression.vocabulary import in_vocabulary
from ..saved_state import Form, above_zero, number, optional
from .base import Control, ControlMemory, bounded, check_bounds


@dataclass(frozen=True)
class BackoffMemory(ControlMemory):
    previous: float | None = None


@dataclass(frozen=True)
class RollbackMemory(ControlMemory):
    best: float | None = None
    best_value: float = 1.0


@dataclass(frozen=True)
class GapMemory(ControlMemory):
    best: float | None = None


@in_vocabulary
class LossBackoff(Control):
    """The first loss over the present one: rises as the loss falls, falls as it rises.

    ``value * previous loss / loss`` at every loss, kept in [lower, upper]. With ``upper`` 1 it
    backs off from a loss that rises and comes back with it.

    NaN and infinite losses are passed over: value and previous loss stay. Losses must be above 0.

    Args:
        start: the first value.
        lower, upper: bounds on the value.

    Example:
        >>> import fusestep as fs
        >>> backoff = fs.control.LossBackoff()
        >>> for loss in (1.0, 0.5, 2.0):
        ...     backoff.observe(loss)
        >>> backoff.value
        0.25
    """

    __slots__ = ()
    _memory: BackoffMemory

    def __init__(self, start: float = 1.0, lower: float = 0.0, upper: float = 1.0) -> None:
        check_bounds(lower, upper, check_positive("start", start))
        arguments = {"start": start, "lower": lower, "upper": upper}
        super().__init__(arguments, BackoffMemory(value=float(start)))

    def _check_loss(self, loss: Any) -> float:
        return _above_zero(super()._check_loss(loss), self)

    def _after(self, loss: float, seen: int) -> BackoffMemory:
        known, value, previous = self._known, self._memory.value, self._memory.previous
        if not math.isfinite(loss):
            return BackoffMemory(seen, value, previous)
        if previous is not None:
            value = value * previous / loss
        return BackoffMemory(seen, bounded(value, known["lower"], known["upper"]), loss)

    def _forms(self) -> dict[str, Form]:
        value = number(self._known["lower"], self._known["upper"])
        return {**super()._forms(), "value": value, "previous": optional(above_zero)}


@in_vocabulary
class Rollback(Control):
    """Goes back to the value that gave the best loss, shrunk, whenever the loss is worse.

    A new best loss multiplies the value by ``grow``. A loss above the best by more than
    ``tolerance`` times its size sets the value to the one that the best loss was reached with,
    times ``shrink``; worse losses in a row shrink it again each time.

    Begins at 1. NaN and infinite losses count as worse. Losses of either sign are good.

    Args:
        shrink: in (0, 1).
        grow: at least 1; above 1 it is known as the bold driver.
        tolerance: at least 0.
        lower, upper: bounds on the value.

    Example:
        >>> import fusestep as fs
        >>> rollback = fs.control.Rollback(shrink=0.5, grow=1.25, upper=10)
        >>> for loss in (1.0, 0.8, 0.9):
        ...     rollback.observe(loss)
        >>> rollback.value
        0.625
    """

    __slots__ = ()
    _memory: RollbackMemory

    def __init__(
        self,
        shrink: float = 0.5,
        grow: float = 1.0,
        tolerance: float = 0.0,
        lower: float = 0.0,
        upper: float = 1.0,
    ) -> None:
        check_bounds(lower, upper, 1.0)
        check_positive("shrink", shrink)
        arguments = {
            "shrink": check_number("shrink", shrink, 0.0, 1.0, below_upper=True),
            "grow": check_number("grow", grow, 1.0),
            "tolerance": check_number("tolerance", tolerance),
            "lower": lower,
            "upper": upper,
        }
        super().__init__(arguments, RollbackMemory())

    def _after(self, loss: float, seen: int) -> RollbackMemory:
        known, now = self._known, self._memory
        value, best, best_value = now.value, now.best, now.best_value
        if math.isfinite(loss) and (best is None or loss < best):
            best, best_value = loss, value
            value *= known["grow"]
        elif not math.isfinite(loss) or loss > self._limit(best):
            value = best_value = best_value * known["shrink"]
        value = bounded(value, known["lower"], known["upper"])
        return RollbackMemory(seen, value, best, best_value)

    def _limit(self, best: float | None) -> float:
        """The loss above which it is worse."""
        tolerance: float = self._known["tolerance"]
        return math.inf if best is None else best + tolerance * abs(best)

    def _forms(self) -> dict[str, Form]:
        lower, upper = self._known["lower"], self._known["upper"]
        return {
            **super()._forms(),
            "value": number(lower, upper),
            "best_value": number(0.0, max(upper, 1.0)),
        }


@in_vocabulary
class LossGap(Control):
    """How far the loss is from a reference.

    ``form="gap"`` is ``1 - reference / loss``: near 1 far from the reference, near ``lower`` close
    to it. ``form="article"`` is ``1 - loss / reference``, which is 0 or less wherever the loss is
    not below the reference, so that the bounds decide. Both are kept in [lower, upper].

    Begins at ``upper``. NaN counts as an infinite loss, and neither is ever the reference. Losses
    must be above 0.

    Args:
        reference: a loss above 0, or None for the best loss so far.
        form: "gap" or "article".
        lower, upper: bounds on the value.

    Example:
        >>> import fusestep as fs
        >>> gap = fs.control.LossGap(reference=0.5)
        >>> gap.observe(2.0)
        >>> gap.value
        0.75
    """

    __slots__ = ()
    _memory: GapMemory

    def __init__(
        self,
        reference: float | None = None,
        form: Literal["gap", "article"] = "gap",
        lower: float = 0.05,
        upper: float = 1.0,
    ) -> None:
        check_bounds(lower, upper)
        arguments = {
            "reference": None if reference is None else check_positive("reference", reference),
            "form": check_choice("form", form, ("gap", "article")),
            "lower": lower,
            "upper": upper,
        }
        super().__init__(arguments, GapMemory(value=float(upper)))

    def _check_loss(self, loss: Any) -> float:
        return _above_zero(super()._check_loss(loss), self)

    def _after(self, loss: float, seen: int) -> GapMemory:
        known, value, best = self._known, self._memory.value, self._memory.best
        if math.isfinite(loss) and (best is None or loss < best):
            best = loss
        reference = best if known["reference"] is None else known["reference"]
        if reference is not None:
            far = math.inf if math.isnan(loss) else loss
            gap = 1.0 - (reference / far if known["form"] == "gap" else far / reference)
            value = bounded(gap, known["lower"], known["upper"])
        return GapMemory(seen, value, best)

    def _forms(self) -> dict[str, Form]:
        value = number(self._known["lower"], self._known["upper"])
        return {**super()._forms(), "value": value, "best": optional(above_zero)}


def _above_zero(loss: float, control: Control) -> float:
    if loss <= 0:
        raise ValueError(f"loss must be above 0 for {control!r}, not {loss!r}")
    return loss
