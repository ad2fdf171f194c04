"""Factors that change with every loss."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from ..arguments import check_choice, check_number, check_positive
from ..expression.cells import Cell
from ..expression.vocabulary import in_vocabulary
from .base import Control, bounded, check_bounds


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

    __slots__ = ("_previous",)
    _previous: float | None
    _remembers: ClassVar[dict[str, Any]] = {"_previous": None}

    def __init__(self, start: float = 1.0, lower: float = 0.0, upper: float = 1.0) -> None:
        check_bounds(lower, upper, check_positive("start", start))
        super().__init__({"start": start, "lower": lower, "upper": upper}, Cell(start))

    def check(self, loss: Any) -> float:
        return _above_zero(super().check(loss), self)

    def _observe(self, loss: float) -> None:
        if not math.isfinite(loss):
            return
        if self._previous is not None:
            value = self._cell.memory[0] * self._previous / loss
            self._cell.memory[0] = bounded(value, self._known["lower"], self._known["upper"])
        self._previous = loss


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

    __slots__ = ("_best", "_best_value")
    _best: float | None
    _best_value: float
    _remembers: ClassVar[dict[str, Any]] = {"_best": None, "_best_value": 1.0}

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
        super().__init__(arguments, Cell(1.0))

    def _observe(self, loss: float) -> None:
        known, value = self._known, float(self._cell.memory[0])
        if math.isfinite(loss) and (self._best is None or loss < self._best):
            self._best, self._best_value = loss, value
            value *= known["grow"]
        elif not math.isfinite(loss) or loss > self._limit():
            self._best_value *= known["shrink"]
            value = self._best_value
        self._cell.memory[0] = bounded(value, known["lower"], known["upper"])

    def _limit(self) -> float:
        assert self._best is not None
        tolerance: float = self._known["tolerance"]
        return self._best + tolerance * abs(self._best)


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

    __slots__ = ("_best",)
    _best: float | None
    _remembers: ClassVar[dict[str, Any]] = {"_best": None}

    def __init__(
        self,
        reference: float | None = None,
        form: str = "gap",
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
        super().__init__(arguments, Cell(upper))

    def check(self, loss: Any) -> float:
        return _above_zero(super().check(loss), self)

    def _observe(self, loss: float) -> None:
        if math.isfinite(loss) and (self._best is None or loss < self._best):
            self._best = loss
        known = self._known
        reference = self._best if known["reference"] is None else known["reference"]
        if reference is None:
            return
        far = math.inf if math.isnan(loss) else loss
        gap = 1.0 - (reference / far if known["form"] == "gap" else far / reference)
        self._cell.memory[0] = bounded(gap, known["lower"], known["upper"])


def _above_zero(loss: float, control: Control) -> float:
    if loss <= 0:
        raise ValueError(f"loss must be above 0 for {control!r}, not {loss!r}")
    return loss
