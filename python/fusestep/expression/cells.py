"""Nodes whose values come from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

    def __init__(self, value: float) -> None:
        self.memory: npt.NDArray[np.float64] = np.array([value])

    def _key(self) -> Any:
        return ("cell", id(self))


class Function(Cell):
    """A Python function of one number, called once for each clock."""

    __slots__ = ("call", "time")
    kind = "function"

    def __init__(self, call: Callable[[Any], float], time: Expression) -> None:
        super().__init__(float("nan"))
        self.call = call
        self.time = time

    def update(self, clock: Clock) -> None:
        """Calls the function; raises TypeError if it gives no number."""
        at = self.time(clock)
        value = self.call(int(at) if at == int(at) else at)
        if not isinstance(value, Real):
            raise TypeError(f"{self!r} must give a number, not {value!r}")
        self.memory[0] = value

    def _key(self) -> Any:
        return ("function", self.call, self.time)

    def parts(self) -> Iterator[Expression]:
        return iter((self.time,))
