"""What several peers have in their formulas."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Any


def wave(x: float) -> float:
    """Half a cosine wave: from 1 at 0 to 0 at 1."""
    return (1 + math.cos(math.pi * x)) / 2


def restart(t: float, length: float, t_mult: float) -> tuple[int, float]:
    """The number of the cycle, and how much of it has passed."""
    cycle = 0
    while t >= length:
        t, length, cycle = t - length, length * t_mult, cycle + 1
    return cycle, t / length


def sequential(t: int, schedules: list[Any], boundaries: list[int]) -> float:
    k = bisect_right(boundaries, t)
    return float(schedules[k].formula(t - boundaries[k - 1] if k else t))
