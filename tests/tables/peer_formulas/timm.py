"""timm's schedulers."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from .shared import restart, wave


def cycles(shape: Callable[..., float]) -> Callable[..., float]:
    """Cycles after a warm-up; ``shape`` is of the fraction of a cycle and other arguments."""

    def value(
        t: int,
        base: float,
        t_initial: int,
        lr_min: float = 0.0,
        cycle_mul: float = 1.0,
        cycle_decay: float = 1.0,
        cycle_limit: int = 1,
        warmup_t: int = 0,
        warmup_lr_init: float = 0.0,
        warmup_prefix: bool = False,
        **shaped: Any,
    ) -> float:
        def curve(t: int) -> float:
            cycle, x = restart(t, t_initial, cycle_mul)
            top = base * cycle_decay**cycle
            return lr_min + (top - lr_min) * shape(x, **shaped) if cycle < cycle_limit else lr_min

        aim = curve(warmup_t) if shape is tanh and warmup_t and not warmup_prefix else base
        return warmed(t, curve, aim, warmup_t, warmup_lr_init, warmup_prefix)

    return value


def warmed(
    t: int,
    curve: Callable[[int], float],
    base: float,
    warmup_t: int = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = True,
) -> float:
    if t == warmup_t == 0:
        return base
    if t < warmup_t:
        return warmup_lr_init + t * (base - warmup_lr_init) / warmup_t
    return curve(t - warmup_t if warmup_prefix else t)


def tanh(x: float, lb: float = -7.0, ub: float = 3.0) -> float:
    return (1 - math.tanh(lb * (1 - x) + ub * x)) / 2


FORMULAS: dict[str, Callable[..., float]] = {
    "CosineLRScheduler": cycles(lambda x, k_decay=1.0: wave(x**k_decay)),
    "TanhLRScheduler": cycles(tanh),
    "PolyLRScheduler": cycles(lambda x, power=0.5, k_decay=1.0: (1 - x**k_decay) ** power),
    "StepLRScheduler": lambda t, base, decay_t, decay_rate=1.0, **warm: warmed(
        t, lambda t: base * decay_rate ** (t // decay_t), base, **warm
    ),
    "MultiStepLRScheduler": lambda t, base, decay_t, decay_rate=1.0, **warm: warmed(
        t, lambda t: base * decay_rate ** bisect_right(decay_t, t + 1), base, **warm
    ),
}
