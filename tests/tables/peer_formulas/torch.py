"""torch's schedulers."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from .shared import restart, sequential, wave


def cosine(t: int, base: float, T_max: int, eta_min: float = 0.0) -> float:
    return eta_min + (base - eta_min) * wave(t / T_max)


def restarts(t: int, base: float, T_0: int, T_mult: int = 1, eta_min: float = 0.0) -> float:
    return eta_min + (base - eta_min) * wave(restart(t, T_0, T_mult)[1])


def linear(
    t: int,
    base: float,
    start_factor: float = 1 / 3,
    end_factor: float = 1.0,
    total_iters: int = 5,
) -> float:
    x = min(t / total_iters, 1)
    return base * (start_factor + (end_factor - start_factor) * x)


def cyclic(
    t: int,
    base_lr: float,
    max_lr: float,
    step_size_up: float = 2000,
    step_size_down: float | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
    scale_fn: Any = None,
    scale_mode: str = "cycle",
) -> float:
    down = step_size_down or step_size_up
    cycle, within = divmod(t, step_size_up + down)
    height = (
        within / step_size_up if within < step_size_up else (step_size_up + down - within) / down
    )
    if scale_fn is not None:
        scale = scale_fn(cycle + 1 if scale_mode == "cycle" else t)
    else:
        scale = {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": gamma**t}[mode]
    return base_lr + (max_lr - base_lr) * height * float(scale)


def one_cycle(
    t: int,
    max_lr: float,
    total_steps: int | None = None,
    epochs: int = 0,
    steps_per_epoch: int = 0,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> float:
    total = total_steps or epochs * steps_per_epoch
    first, rise = max_lr / div_factor, pct_start * total - 1
    points = [(0.0, first), (rise, max_lr), (total - 1, first / final_div_factor)]
    if three_phase:
        points.insert(2, (2 * rise, first))
    for (begin, a), (end, b) in pairwise(points):
        if t <= end:
            x = (t - begin) / (end - begin)
            return b + (a - b) * (wave(x) if anneal_strategy == "cos" else 1 - x)
    return points[-1][1]


def swa(
    t: int, base: float, swa_lr: float, anneal_epochs: int = 10, anneal_strategy: str = "cos"
) -> float:
    x = min(t / anneal_epochs, 1) if anneal_epochs else 1.0
    return swa_lr + (base - swa_lr) * (wave(x) if anneal_strategy == "cos" else 1 - x)


def chained(t: int, schedulers: list[Any], base: float) -> float:
    return base * math.prod(entry.formula(t) / base for entry in schedulers)


FORMULAS: dict[str, Callable[..., float]] = {
    "LambdaLR": lambda t, base, lr_lambda: base * lr_lambda(t),
    "MultiplicativeLR": lambda t, base, lr_lambda: (
        base * math.prod(lr_lambda(i) for i in range(1, t + 1))
    ),
    "StepLR": lambda t, base, step_size, gamma=0.1: base * gamma ** (t // step_size),
    "MultiStepLR": lambda t, base, milestones, gamma=0.1: (
        base * gamma ** bisect_right(sorted(milestones), t)
    ),
    "ConstantLR": lambda t, base, factor=1 / 3, total_iters=5: (
        base * (factor if t < total_iters else 1)
    ),
    "LinearLR": linear,
    "ExponentialLR": lambda t, base, gamma: base * gamma**t,
    "PolynomialLR": lambda t, base, total_iters=5, power=1.0: (
        base * (1 - min(t / total_iters, 1)) ** power
    ),
    "CosineAnnealingLR": cosine,
    "CosineAnnealingWarmRestarts": restarts,
    "CyclicLR": cyclic,
    "OneCycleLR": one_cycle,
    "SequentialLR": lambda t, schedulers, milestones: sequential(t, schedulers, milestones),
    "ChainedScheduler": chained,
    "SWALR": swa,
}
