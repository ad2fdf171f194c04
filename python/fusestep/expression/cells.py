"""Nodes whose values come from Python."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from ..clock import Clock
from .nodes import Expression


class Cell(Expression):
    """A number that its owner changes: ``memory`` is an array of one float64."""

    __slots__ = ("memory",)
    kind = "cell"
    remembers = True

    def __init__(self, value: float) -> None:
        self.memory: npt.NDArray[np.float64] = np.array([value])

    def typed_with(self) -> tuple[Any, ...]:
        return (id(self),)


class Function(Expression):
    """A Python function of one number, called once for each clock, and saved by its name."""

    __slots__ = ("call", "name", "time")
    kind = "function"

    def __init__(self, call: Callable[[Any], float], time: Expression, name: str) -> None:
        self.call = call
        self.time = time
        self.name = name

    def at(self, clock: Clock) -> float:
        """What the function gives; TypeError or ValueError where that is no number or too large."""
        at = self.time(clock)
        value = self.call(int(at) if at == np.floor(at) else at)
        if not isinstance(value, Real):
            raise TypeError(f"{self!r} must give a number, not {value!r}")
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{self!r} must give a number that fits a double") from None

    def typed_with(self) -> tuple[Any, ...]:
        return (self.call if getattr(self.call, "__hash__", None) else id(self.call), self.time)

    def fields(self) -> tuple[Any, ...]:
        return (self.call, self.time, self.name)
