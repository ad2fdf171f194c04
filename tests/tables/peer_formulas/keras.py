"""Keras' schedules."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable

from .shared import restart, wave


def exponential(
    t: int,
    initial_learning_rate: float,
    decay_steps: int,
    decay_rate: float,
    staircase: bool = False,
) -> float:
    exponent = t // decay_steps if staircase else t / decay_steps
    return initial_learning_rate * decay_rate**exponent


def polynomial(
    t: int,
    initial_learning_rate: float,
    decay_steps: int,
    end_learning_rate: float = 1e-4,
    power: float = 1.0,
    cycle: bool = False,
) -> float:
    length = decay_steps * max(math.ceil(t / decay_steps), 1) if cycle else decay_steps
    left = 1 - min(t / length, 1)
    return end_learning_rate + (initial_learning_rate - end_learning_rate) * left**power


def inverse_time(
    t: int,
    initial_learning_rate: float,
    decay_steps: int,
    decay_rate: float,
    staircase: bool = False,
) -> float:
    spans = t // decay_steps if staircase else t / decay_steps
    return initial_learning_rate / (1 + decay_rate * spans)


def cosine(
    t: int,
    initial_learning_rate: float,
    decay_steps: int,
    alpha: float = 0.0,
    warmup_target: float | None = None,
    warmup_steps: int = 0,
) -> float:
    top = initial_learning_rate
    if warmup_target is not None:
        if t < warmup_steps:
            return top + (warmup_target - top) * t / warmup_steps
        top, t = warmup_target, t - warmup_steps
    return top * (alpha + (1 - alpha) * wave(min(t / decay_steps, 1)))


def restarts(
    t: int,
    initial_learning_rate: float,
    first_decay_steps: int,
    t_mul: float = 2.0,
    m_mul: float = 1.0,
    alpha: float = 0.0,
) -> float:
    cycle, x = restart(t, first_decay_steps, t_mul)
    return initial_learning_rate * (alpha + (1 - alpha) * m_mul**cycle * wave(x))


FORMULAS: dict[str, Callable[..., float]] = {
    "ExponentialDecay": exponential,
    "PiecewiseConstantDecay": lambda t, boundaries, values: values[bisect_left(boundaries, t)],
    "PolynomialDecay": polynomial,
    "InverseTimeDecay": inverse_time,
    "CosineDecay": cosine,
    "CosineDecayRestarts": restarts,
}
