"""Factors that change once the loss has gone one way for long enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..arguments import check_choice, check_number, check_positive, check_whole
from ..expression.vocabulary import in_vocabulary
from ..saved_state import Form, number, whole
from .base import Control, ControlMemory, bounded, check_bounds


@dataclass(frozen=True)
class PlateauMemory(ControlMemory):
    best: float | None = None
    bad: int = 0
    cooling: int = 0


@dataclass(frozen=True)
class TrendMemory(ControlMemory):
    smoothed: float | None = None
    bad: int = 0
    good: int = 0


@in_vocabulary
class Plateau(Control):
    """Multiplied by ``factor`` where the loss has stopped improving.

    A loss is better than the best so far if it is below it by more than ``threshold`` times its
    size (above it for ``mode="max"``). After more than ``patience`` losses in a row that are not,
    the value is multiplied by ``factor``, and then ``cooldown`` losses are not counted.

    NaN and infinite losses are never better. Losses of either sign are good; the threshold is
    measured on the right side of negative ones, where torch's is on the wrong side.

    Args:
        factor: in (0, 1).
        patience: a whole number, at least 0.
        threshold: at least 0.
        mode: "min" where low losses are good, "max" for scores that should rise.
        cooldown: a whole number, at least 0.
        lower: the least value, from 0 to ``start``.
        threshold_mode: "rel" as said above, or "abs": better by more than ``threshold`` itself.
        start: the first value, above 0.
        eps: at least 0: changes that are not above it are not made.

    Example:
        >>> import fusestep as fs
        >>> plateau = fs.control.Plateau(factor=0.5, patience=1)
        >>> for loss in (1.0, 0.9, 0.95, 0.92):
        ...     plateau.observe(loss)
        >>> (0.1 * plateau)(step=0)
        0.05

    Source: the conventions are those of torch.optim.lr_scheduler.ReduceLROnPlateau.
    """

    __slots__ = ()
    _memory: PlateauMemory

    def __init__(
        self,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        mode: Literal["min", "max"] = "min",
        cooldown: int = 0,
        lower: float = 0.0,
        threshold_mode: Literal["rel", "abs"] = "rel",
        start: float = 1.0,
        eps: float = 0.0,
    ) -> None:
        first = PlateauMemory(value=check_positive("start", start))
        arguments = {
            "factor": check_number("factor", factor, 0.0, 1.0, below_upper=True),
            "patience": check_whole("patience", patience, 0),
            "threshold": check_number("threshold", threshold),
            "mode": check_choice("mode", mode, ("min", "max")),
            "cooldown": check_whole("cooldown", cooldown, 0),
            "lower": check_number("lower", lower, 0.0, first.value),
            "threshold_mode": check_choice("threshold_mode", threshold_mode, ("rel", "abs")),
            "start": first.value,
            "eps": check_number("eps", eps),
        }
        check_positive("factor", factor)
        super().__init__(arguments, first)

    def _after(self, loss: float, seen: int) -> PlateauMemory:
        known, now = self._known, self._memory
        is_better = self._is_better(loss)
        bad = 0 if is_better or now.cooling > 0 else now.bad + 1
        value, cooling = now.value, max(now.cooling - 1, 0)
        if bad > known["patience"]:
            less = max(value * known["factor"], known["lower"])
            value, cooling, bad = (
                less if value - less > known["eps"] else value,
                known["cooldown"],
                0,
            )
        best = loss if is_better else now.best
        return PlateauMemory(seen, value, best, bad, cooling)

    def _is_better(self, loss: float) -> bool:
        if not math.isfinite(loss):
            return False
        best = self._memory.best
        if best is None:
            return True
        margin: float = self._known["threshold"]
        if self._known["threshold_mode"] == "rel":
            margin *= abs(best)
        return loss < best - margin if self._known["mode"] == "min" else loss > best + margin

    def _forms(self) -> dict[str, Form]:
        known = self._known
        return {
            **super()._forms(),
            "value": number(known["lower"], known["start"]),
            "bad": whole(0, known["patience"]),
            "cooling": whole(0, known["cooldown"]),
        }


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

    __slots__ = ()
    _memory: TrendMemory

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
        super().__init__(arguments, TrendMemory())

    def _after(self, loss: float, seen: int) -> TrendMemory:
        known, now = self._known, self._memory
        smoothed, rise = now.smoothed, 0.0
        if math.isfinite(loss):
            keep = known["smoothing"]
            smoothed = loss if smoothed is None else keep * smoothed + (1 - keep) * loss
            rise = 0.0 if now.smoothed is None else smoothed - now.smoothed
        bad, good = now.bad, now.good
        if rise > 0 or not math.isfinite(loss):
            bad, good = bad + 1, 0
        elif rise < 0:
            bad, good = 0, good + 1
        factor = 1.0
        if bad > known["patience_bad"]:
            factor, bad = known["shrink"], 0
        elif good > known["patience_good"]:
            factor, good = known["grow"], 0
        value = bounded(now.value * factor, known["lower"], known["upper"])
        return TrendMemory(seen, value, smoothed, bad, good)

    def _forms(self) -> dict[str, Form]:
        known = self._known
        return {
            **super()._forms(),
            "value": number(known["lower"], known["upper"]),
            "bad": whole(0, known["patience_bad"]),
            "good": whole(0, known["patience_good"]),
        }
