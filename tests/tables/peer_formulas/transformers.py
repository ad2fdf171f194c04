"""The schedules of Hugging Face transformers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .shared import wave


def warmed(t: int, warmup: int, later: Callable[[int], float]) -> float:
    return t / warmup if t < warmup else later(t - warmup)


def restarts(s: int, rest: int, num_cycles: int = 1) -> float:
    return 0.0 if s >= rest else wave(s * num_cycles % rest / rest)


def polynomial(s: int, rest: int, base: float, lr_end: float = 1e-7, power: float = 1.0) -> float:
    return (lr_end + (base - lr_end) * (1 - min(s / rest, 1)) ** power) / base


def least(
    s: int,
    rest: int,
    base: float,
    num_cycles: float = 0.5,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> float:
    least = min_lr / base if min_lr is not None else min_lr_rate or 0.0
    return least + (1 - least) * wave(2 * num_cycles * s / rest)


def least_early(
    t: int,
    base: float,
    num_warmup_steps: int,
    num_training_steps: int,
    warmup_lr_rate: float | None = None,
    **more: Any,
) -> float:
    warmup, s = num_warmup_steps, t - num_warmup_steps
    if s >= 0:
        return base * least(s + 1, num_training_steps - warmup, base, **more)
    if warmup_lr_rate is None:
        return base * (t + 1) / warmup
    return base * (warmup_lr_rate + (1 - warmup_lr_rate) * t / max(1, warmup - 1))


def wsd(
    t: int,
    base: float,
    num_warmup_steps: int,
    num_decay_steps: int,
    num_training_steps: int = 0,
    num_stable_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5,
) -> float:
    warmup, decay = num_warmup_steps, num_decay_steps
    stable = num_training_steps - warmup - decay if num_stable_steps is None else num_stable_steps
    if t < warmup:
        p = t / warmup
        x = {"linear": p, "cosine": 1 - wave(p), "1-sqrt": 1 - math.sqrt(1 - p)}[warmup_type]
    elif t < warmup + stable:
        x = 1.0
    elif t < warmup + stable + decay:
        p = (t - warmup - stable) / decay
        shapes = {"linear": 1 - p, "cosine": wave(2 * num_cycles * p), "1-sqrt": 1 - math.sqrt(p)}
        x = shapes[decay_type]
    else:
        x = 0.0
    return base * (min_lr_ratio + (1 - min_lr_ratio) * x)


def of_the_rest(formula: Callable[..., float], *names: str) -> Callable[..., float]:
    """A rise from 0, then a formula of the time after it, its length and some arguments."""

    def value(t: int, base: float, num_warmup_steps: int, **more: Any) -> float:
        rest = more.pop("num_training_steps", 0) - num_warmup_steps
        given = {"rest": rest, "base": base, "warmup": num_warmup_steps}
        options = {**{name: given[name] for name in names}, **more}
        return base * warmed(t, num_warmup_steps, lambda s: formula(s, **options))

    return value


FORMULAS: dict[str, Callable[..., float]] = {
    "get_constant_schedule": lambda t, base: base,
    "get_constant_schedule_with_warmup": of_the_rest(lambda s: 1.0),
    "get_linear_schedule_with_warmup": of_the_rest(lambda s, rest: max(0.0, 1 - s / rest), "rest"),
    "get_cosine_schedule_with_warmup": of_the_rest(
        lambda s, rest, num_cycles=0.5: wave(2 * num_cycles * s / rest), "rest"
    ),
    "get_cosine_with_hard_restarts_schedule_with_warmup": of_the_rest(restarts, "rest"),
    "get_polynomial_decay_schedule_with_warmup": of_the_rest(polynomial, "rest", "base"),
    "get_inverse_sqrt_schedule": of_the_rest(
        lambda s, warmup, timescale=None: (1 + s / (timescale or warmup or 10_000)) ** -0.5,
        "warmup",
    ),
    "get_cosine_with_min_lr_schedule_with_warmup": of_the_rest(least, "rest", "base"),
    "get_cosine_with_min_lr_schedule_with_warmup_lr_rate": least_early,
    "get_wsd_schedule": wsd,
}
