"""Those that follow the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from ....arguments import check_choice, check_flag, check_number, check_positive, check_whole
from ....control import Control, Plateau
from ....control.base import ControlMemory
from ....saved_state import Form, number, whole
from .. import torch
from ..base import control_class, control_preset


@control_preset
def get_reduce_on_plateau_schedule(
    base: float,
    mode: Literal["min", "max"] = "min",
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    threshold_mode: Literal["rel", "abs"] = "rel",
    cooldown: int = 0,
    min_lr: float = 0.0,
    eps: float = 1e-8,
) -> Plateau:
    """`presets.torch.ReduceLROnPlateau`, with its arguments.

    Args:
        base, mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps: see there.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.transformers.get_reduce_on_plateau_schedule(0.5).value
        0.5
    """
    return torch.ReduceLROnPlateau(
        base, mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps
    )


@dataclass(frozen=True)
class GreedyMemory(ControlMemory):
    best: float | None = None
    bad: int = 0
    good: int = 0
    cooling: int = 0
    warming: int = 0
    left: int = 0  # reductions at the least value before it begins anew
    total: float = 0.0  # of the recent losses, added up as they came and went
    recent: tuple[float, ...] = ()


@control_class
class GreedyLR(Control):
    """Divided by ``factor`` where the loss goes on improving, multiplied where it does not.

    A loss is better if it is below the best so far by more than ``threshold``. More than
    ``patience`` better ones in a row divide the value, more than ``patience`` others multiply it;
    then ``warmup``, or ``cooldown``, losses are not looked at. The function of transformers for
    it is ``get_greedy_schedule``, and its name there "greedy".

    NaN and infinite losses are never better, and do not enter the average of ``smooth``; in
    transformers NaN stays in that for ever. "rel" thresholds are on the wrong side of negative
    losses, as there.

    Args:
        base: the first value, above 0.
        mode: "min" where low losses are good, "max" for scores that should rise.
        factor: in (0, 1).
        patience, cooldown, warmup: whole numbers, at least 0.
        threshold: at least 0.
        threshold_mode: "abs", or "rel" for a part of the best.
        min_lr, max_lr: how far the value is reduced, and increased; at least 0.
        eps: changes that are not above it are not made.
        smooth: look at the mean of the last ``window_size`` losses.
        window_size: a whole number, at least 1.
        reset_start: after so many reductions at ``min_lr`` all begins anew, at ``base``.

    Example:
        >>> from fusestep.schedules import presets
        >>> lr = presets.transformers.GreedyLR(0.5, factor=0.5, patience=0)
        >>> for loss in (1.0, 1.0, 1.0):
        ...     lr.observe(loss)
        >>> lr.value
        0.25
    """

    __slots__ = ()
    _memory: GreedyMemory
    _first: GreedyMemory

    def __init__(
        self,
        base: float,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.95,
        patience: int = 10,
        threshold: float = 1e-6,
        threshold_mode: Literal["rel", "abs"] = "abs",
        cooldown: int = 0,
        warmup: int = 0,
        min_lr: float = 1e-3,
        max_lr: float = 1.0,
        eps: float = 1e-8,
        smooth: bool = False,
        window_size: int = 50,
        reset_start: int = 500,
    ) -> None:
        check_positive("factor", factor)
        arguments = {
            "base": check_positive("base", base),
            "mode": check_choice("mode", mode, ("min", "max")),
            "factor": check_number("factor", factor, 0.0, 1.0, below_upper=True),
            "patience": check_whole("patience", patience, 0),
            "threshold": check_number("threshold", threshold),
            "threshold_mode": check_choice("threshold_mode", threshold_mode, ("rel", "abs")),
            "cooldown": check_whole("cooldown", cooldown, 0),
            "warmup": check_whole("warmup", warmup, 0),
            "min_lr": check_number("min_lr", min_lr),
            "max_lr": check_number("max_lr", max_lr, min_lr),
            "eps": check_number("eps", eps),
            "smooth": check_flag("smooth", smooth),
            "window_size": check_whole("window_size", window_size, 1),
            "reset_start": check_whole("reset_start", reset_start, 0),
        }
        super().__init__(arguments, GreedyMemory(value=float(base), left=int(reset_start)))

    def _after(self, loss: float, seen: int) -> GreedyMemory:
        known, now = self._known, self._memory
        total, recent, current = self._smoothed(loss)
        idle = replace(now, seen=seen, bad=0, good=0, total=total, recent=recent)
        if now.cooling > 0:
            return replace(idle, cooling=now.cooling - 1)
        if now.warming > 0:
            return replace(idle, warming=now.warming - 1)
        is_better = self._is_better(current)
        best = current if is_better else now.best
        good, bad = (now.good + 1, 0) if is_better else (0, now.bad + 1)
        if good > known["patience"]:
            more = min(now.value / known["factor"], known["max_lr"])
            value = more if more - now.value > known["eps"] else now.value
            left, warming = known["reset_start"], known["warmup"]
            return replace(idle, value=value, best=best, left=left, warming=warming)
        if bad <= known["patience"]:
            return replace(idle, best=best, bad=bad, good=good)
        less = max(now.value * known["factor"], known["min_lr"])
        value = less if now.value - less > known["eps"] else now.value
        if value > known["min_lr"]:
            return replace(idle, value=value, best=best, cooling=known["cooldown"])
        if now.left <= 1:
            return replace(self._first, seen=seen, cooling=known["cooldown"])
        return replace(idle, value=value, best=best, left=now.left - 1, cooling=known["cooldown"])

    def _smoothed(self, loss: float) -> tuple[float, tuple[float, ...], float]:
        """The sum of the recent losses, these, and the one to look at."""
        now = self._memory
        if not self._known["smooth"] or not math.isfinite(loss):
            return now.total, now.recent, loss
        total, recent = now.total + loss, (*now.recent, loss)
        if len(recent) > self._known["window_size"]:
            total, recent = total - recent[0], recent[1:]
        return total, recent, total / len(recent)

    def _is_better(self, loss: float) -> bool:
        best, threshold = self._memory.best, self._known["threshold"]
        if not math.isfinite(loss):
            return False
        if best is None:
            return True
        sign = 1.0 if self._known["mode"] == "max" else -1.0
        is_relative = self._known["threshold_mode"] == "rel"
        limit = best * (1.0 + sign * threshold) if is_relative else best + sign * threshold
        return bool(sign * loss > sign * limit)

    def _forms(self) -> dict[str, Form]:
        known = self._known
        lowest, highest = (
            f(known["base"], known[k]) for f, k in ((min, "min_lr"), (max, "max_lr"))
        )
        counts = {"bad": "patience", "good": "patience", "cooling": "cooldown"}
        counts |= {"warming": "warmup", "left": "reset_start"}
        limits = {name: whole(0, known[limit]) for name, limit in counts.items()}
        return {**super()._forms(), **limits, "value": number(lowest, highest)}

    def _check_memory(self, memory: GreedyMemory) -> None:
        most = self._known["window_size"] if self._known["smooth"] else 0
        if len(memory.recent) > most:
            raise ValueError(f"recent: must be at most {most}, not {len(memory.recent)}")
