"""optax' schedules."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from .shared import sequential, wave

Points = list[tuple[float, float]]


def polynomial(
    t: int,
    init_value: float,
    end_value: float,
    power: float,
    transition_steps: int,
    transition_begin: int = 0,
) -> float:
    if transition_steps <= 0:
        return init_value
    x = min(max(t - max(transition_begin, 0), 0) / transition_steps, 1)
    return end_value + (init_value - end_value) * (1 - x) ** power


def linear(
    t: int, init_value: float, end_value: float, transition_steps: int, transition_begin: int = 0
) -> float:
    return polynomial(t, init_value, end_value, 1, transition_steps, transition_begin)


def exponential(
    t: int,
    init_value: float,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: float | None = None,
) -> float:
    if transition_steps <= 0 or decay_rate == 0:
        return init_value
    since = max(t - max(transition_begin, 0), 0)
    exponent = since // transition_steps if staircase else since / transition_steps
    value = init_value * decay_rate**exponent
    if end_value is None:
        return value
    return max(value, end_value) if decay_rate < 1 else min(value, end_value)


def cosine(
    t: int, init_value: float, decay_steps: int, alpha: float = 0.0, exponent: float = 1.0
) -> float:
    return init_value * (alpha + (1 - alpha) * wave(min(t / decay_steps, 1)) ** exponent)


def warmup_cosine(
    t: int,
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    decay_steps: int,
    end_value: float = 0.0,
    exponent: float = 1.0,
) -> float:
    if t < warmup_steps:
        return linear(t, init_value, peak_value, warmup_steps)
    x = min((t - warmup_steps) / (decay_steps - warmup_steps), 1)
    end = end_value if peak_value else 0.0
    return end + (peak_value - end) * wave(x) ** exponent


def warmup_exponential(
    t: int, init_value: float, peak_value: float, warmup_steps: int, **more: Any
) -> float:
    if t < warmup_steps:
        return linear(t, init_value, peak_value, warmup_steps)
    return exponential(t - warmup_steps, peak_value, **more)


def points(init_value: float, boundaries_and_scales: Any = None) -> Points:
    found = [(0.0, init_value)]
    for time, scale in sorted(dict(boundaries_and_scales or {}).items()):
        found.append((time, found[-1][1] * scale))
    return found


def through(t: int, points: Points, kind: str) -> float:
    k = bisect_right([time for time, _ in points], t) - 1
    if k == len(points) - 1:
        return points[-1][1]
    (begin, a), (end, b) = points[k : k + 2]
    x = (t - begin) / (end - begin)
    return b + (a - b) * (1 - x if kind == "linear" else wave(x))


def constant_pieces(t: int, init_value: float, boundaries_and_scales: Any = None) -> float:
    return [value for time, value in points(init_value, boundaries_and_scales) if time <= t][-1]


def linear_onecycle(
    t: int,
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> float:
    first, (rise, back) = (
        peak_value / div_factor,
        (int(pct * transition_steps) for pct in (pct_start, pct_final)),
    )
    ends = [(transition_steps, first / final_div_factor)]
    return through(t, [(0, first), (rise, peak_value), (back, first), *ends], "linear")


def cosine_onecycle(
    t: int,
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> float:
    rise, last = int(pct_start * transition_steps), peak_value / div_factor / final_div_factor
    ends = [(rise, peak_value), (transition_steps, last)]
    return through(t, [(0, peak_value / div_factor), *ends], "cosine")


def sgdr(t: int, cosine_kwargs: list[dict[str, Any]]) -> float:
    for arguments in cosine_kwargs[:-1]:
        if t < arguments["decay_steps"]:
            return warmup_cosine(t, **arguments)
        t -= arguments["decay_steps"]
    return warmup_cosine(t, **cosine_kwargs[-1])


FORMULAS: dict[str, Callable[..., float]] = {
    "constant_schedule": lambda t, value: value,
    "polynomial_schedule": polynomial,
    "linear_schedule": linear,
    "piecewise_constant_schedule": constant_pieces,
    "piecewise_interpolate_schedule": lambda t, interpolate_type, **more: through(
        t, points(**more), interpolate_type
    ),
    "exponential_decay": exponential,
    "cosine_decay_schedule": cosine,
    "warmup_constant_schedule": lambda t, init_value, peak_value, warmup_steps: linear(
        t, init_value, peak_value, warmup_steps
    ),
    "warmup_cosine_decay_schedule": warmup_cosine,
    "warmup_exponential_decay_schedule": warmup_exponential,
    "linear_onecycle_schedule": linear_onecycle,
    "cosine_onecycle_schedule": cosine_onecycle,
    "sgdr_schedule": sgdr,
    "join_schedules": lambda t, schedules, boundaries: sequential(t, schedules, boundaries),
}
