"""Factors that change once the loss has gone one way for long enough."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from ..arguments import check_choice, check_number, check_positive, check_whole
from ..expression.cells import Cell
from ..expression.vocabulary import in_vocabulary
from .base import Control, bounded, check_bounds


@in_vocabulary
class Plateau(Control):
    """Multiplied by ``factor`` where the loss has stopped improving.

    A loss is better than the best so far if it is below it by more than ``threshold`` times its
    size (above it for ``mode="max"``). After more than ``patience`` losses in a row that are not,
    the value is multiplied by ``factor``, and then ``cooldown`` losses are not counted.

    Begins at 1. NaN is never better. Losses of either sign are good; the threshold is measured on
    the right side of negative ones, where torch's is on the wrong side.

    Args:
        factor: in (0, 1).
        patience: a whole number, at least 0.
        threshold: at least 0.
        mode: "min" where low losses are good, "max" for scores that should rise.
        cooldown: a whole number, at least 0.
        min_value: the least value, in [0, 1].

    Example:
        >>> import fusestep as fs
        >>> plateau = fs.control.Plateau(factor=0.5, patience=1)
        >>> for loss in (1.0, 0.9, 0.95, 0.92):
        ...     plateau.observe(loss)
        >>> (0.1 * plateau)(step=0)
        0.05

    Source: the conventions are those of torch.optim.lr_scheduler.ReduceLROnPlateau.
    """

    __slots__ = ("_bad", "_best", "_cooling")
    _best: float | None
    _bad: int
    _cooling: int
    _remembers: ClassVar[dict[str, Any]] = {"_best": None, "_bad": 0, "_cooling": 0}

    def __init__(
        self,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        mode: str = "min",
        cooldown: int = 0,
        min_value: float = 0.0,
    ) -> None:
        arguments = {
            "factor": check_number("factor", factor, 0.0, 1.0, below_upper=True),
            "patience": check_whole("patience", patience, 0),
            "threshold": check_number("threshold", threshold),
            "mode": check_choice("mode", mode, ("min", "max")),
            "cooldown": check_whole("cooldown", cooldown, 0),
            "min_value": check_number("min_value", min_value, 0.0, 1.0),
        }
        check_positive("factor", factor)
        super().__init__(arguments, Cell(1.0))

    def _observe(self, loss: float) -> None:
        known = self._known
        if self._is_better(loss):
            self._best, self._bad = loss, 0
        else:
            self._bad += 1
        if self._cooling > 0:
            self._cooling -= 1
            self._bad = 0
        if self._bad > known["patience"]:
            value = self._cell.memory[0] * known["factor"]
            self._cell.memory[0] = max(value, known["min_value"])
            self._cooling, self._bad = known["cooldown"], 0

    def _is_better(self, loss: float) -> bool:
        if math.isnan(loss):
            return False
        lowest = self._known["mode"] == "min"
        if self._best is None:
            return loss < math.inf if lowest else loss > -math.inf
        margin: float = self._known["threshold"] * abs(self._best)
        return loss < self._best - margin if lowest else loss > self._best + margin


@in_vocabulary
class ReduceThenGrow(Control):
    """Shrinks while the loss worsens, grows slowly while it improves steadily.

    Losses are smoothed: ``s = smoothing * s + (1 - smoothing) * loss``. More than ``patience_bad``
    rises of s in a row multiply the value by ``shrink``, more than ``patience_good`` falls in a row
    by ``grow``; each time the count begins anew.

    Begins at 1. NaN and infinite losses count as a rise and are not smoothed in. Losses of either
    sign are good.

    Args:
        shrink: in (0, 1).
        grow: at least 1.
        patience_bad, patience_good: whole numbers, at least 0.
        smoothing: in [0, 1); 0 takes each loss as it is.
        lower, upper: bounds on the value.

    Example:
        >>> import fusestep as fs
        >>> control = fs.control.ReduceThenGrow(shrink=0.5, patience_bad=1, smoothing=0.0)
        >>> for loss in (1.0, 1.1, 1.2):
        ...     control.observe(loss)
        >>> control.value
        0.5

    Source: GreedyLR, in Hugging Face transformers.
    """

    __slots__ = ("_bad", "_good", "_smoothed")
    _smoothed: float | None
    _bad: int
    _good: int
    _remembers: ClassVar[dict[str, Any]] = {"_smoothed": None, "_bad": 0, "_good": 0}

    def __init__(
        self,
        shrink: float = 0.9,
        grow: float = 1.05,
        patience_bad: int = 10,
        patience_good: int = 10,
        smoothing: float = 0.9,
        lower: float = 0.0,
        upper: float = 1.0,
    ) -> None:
        check_bounds(lower, upper, 1.0)
        check_positive("shrink", shrink)
        arguments = {
            "shrink": check_number("shrink", shrink, 0.0, 1.0, below_upper=True),
            "grow": check_number("grow", grow, 1.0),
            "patience_bad": check_whole("patience_bad", patience_bad, 0),
            "patience_good": check_whole("patience_good", patience_good, 0),
            "smoothing": check_number("smoothing", smoothing, 0.0, 1.0, below_upper=True),
            "lower": lower,
            "upper": upper,
        }
        super().__init__(arguments, Cell(1.0))

    def _observe(self, loss: float) -> None:
        known, before = self._known, self._smoothed
        finite = math.isfinite(loss)
        if finite:
            keep = known["smoothing"]
            self._smoothed = loss if before is None else keep * before + (1 - keep) * loss
        rise = 0.0 if before is None or self._smoothed is None else self._smoothed - before
        if rise > 0 or not finite:
            self._bad, self._good = self._bad + 1, 0
        elif rise < 0:
            self._bad, self._good = 0, self._good + 1
        factor = 1.0
        if self._bad > known["patience_bad"]:
            factor, self._bad = known["shrink"], 0
        elif self._good > known["patience_good"]:
            factor, self._good = known["grow"], 0
        value = self._cell.memory[0] * factor
        self._cell.memory[0] = bounded(value, known["lower"], known["upper"])
