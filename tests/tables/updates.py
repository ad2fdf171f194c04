"""What the update rules in NumPy are made of."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class State(dict[str, Array]):
    """The arrays of a parameter by name, and the values that its updates hand on."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        super().__init__(arrays)
        self.handed_on: dict[str, float] = {}


@cache
def power(base: float, n: int) -> float:
    """Rounded once from the exact value, which a library's pow does not promise."""
    return float(Fraction(base) ** n)


def decay_factor(h: dict[str, Any]) -> float:
    """What multiplies decoupled weight decay, divided by lr."""
    if h.get("decay_by") == "max_lr":
        return float(h["lr"] / h["max_lr"])
    return float(1.0 / h["max_lr"]) if h.get("decay_by") == "schedule" else 1.0


def decayed(h: dict[str, Any], decoupled: bool, p: Array, g: Array) -> tuple[Array, Array]:
    real = p.dtype.type
    if decoupled:
        return p * real(1.0 - h["lr"] * decay_factor(h) * h["weight_decay"]), g
    if h["weight_decay"] != 0:
        return p, g + real(h["weight_decay"]) * p
    return p, g
