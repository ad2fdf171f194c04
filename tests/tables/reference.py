"""Expressions evaluated node by node in Python, with 200 bits: slow, plain, and not fusestep's."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

import mpmath
from mpmath import mpf

BITS = 200
# two values closer than this, relative to what they were computed from, are no safe comparison
_CLOSE = mpf(2) ** -90


@dataclass
class Reference:
    """The value of an expression for one clock, and how much it says.

    ``scale`` is the largest value on the way; ``fragile`` tells that a floor or a comparison was
    decided by less than the precision that fusestep computes with. ``decided`` is what they gave:
    where a little more or less of epochs and samples changes it, they are near a boundary.
    """

    clock: dict[str, float]
    scale: mpf = field(default_factory=lambda: mpf(0))
    fragile: bool = False
    decided: list[Any] = field(default_factory=list)

    def value(self, node: Any) -> mpf:
        with mpmath.workprec(BITS):
            return self._value(node)

    def _value(self, node: Any) -> mpf:
        result = self._computed(node)
        if mpmath.isfinite(result):
            self.scale = max(self.scale, abs(result))
        return result

    def _computed(self, node: Any) -> mpf:
        if node._kind == "named":
            return self._value(node._body)
        if node._kind == "constant":
            return mpf(node._value)
        if node._kind == "input":
            return mpf(self.clock[node._name])
        if node._kind == "cell":
            return mpf(float(node.memory[0]))
        operands = [self._value(operand) for operand in node._operands]
        if node._table is not None:
            return self._looked_up(node._name, operands[0], node._table)
        return getattr(self, f"_{node._name}")(*operands)

    def _looked_up(self, name: str, at: mpf, table: tuple[float, ...]) -> mpf:
        if name == "count":
            for boundary in table:
                self._compare(at, mpf(boundary))
            return mpf(bisect_right([mpf(boundary) for boundary in table], at))
        return mpf(table[int(min(max(self._floor(at), 0), len(table) - 1))])

    def _compare(self, a: mpf, b: mpf) -> None:
        self.decided.append(a < b)
        self.fragile |= 0 < abs(a - b) < _CLOSE * max(self.scale, 1)

    def _add(self, a: mpf, b: mpf) -> mpf:
        return a + b

    def _subtract(self, a: mpf, b: mpf) -> mpf:
        return a - b

    def _multiply(self, a: mpf, b: mpf) -> mpf:
        return a * b

    def _divide(self, a: mpf, b: mpf) -> mpf:
        if b == 0:
            return mpmath.nan
        self.fragile |= abs(b) < _CLOSE * self.scale
        return a / b

    def _power(self, a: mpf, b: mpf) -> mpf:
        if a < 0 and b != int(b):
            return mpmath.nan
        if a == 0 and b < 0:
            return mpmath.inf
        return a**b

    def _negative(self, a: mpf) -> mpf:
        return -a

    def _absolute(self, a: mpf) -> mpf:
        return abs(a)

    def _minimum(self, a: mpf, b: mpf) -> mpf:
        return min(a, b)

    def _maximum(self, a: mpf, b: mpf) -> mpf:
        return max(a, b)

    def _elapsed(self, a: mpf, b: mpf) -> mpf:
        return a - b

    def _less(self, a: mpf, b: mpf) -> mpf:
        self._compare(a, b)
        return mpf(a < b)

    def _less_equal(self, a: mpf, b: mpf) -> mpf:
        self._compare(a, b)
        return mpf(a <= b)

    def _where(self, condition: mpf, a: mpf, b: mpf) -> mpf:
        self._compare(condition, mpf(0))
        return a if condition != 0 else b

    def _floor(self, a: mpf) -> mpf:
        self._compare(a, mpmath.nint(a))
        self.decided.append(mpmath.floor(a))
        return mpmath.floor(a)

    def _floor_divide(self, a: mpf, b: mpf) -> mpf:
        return self._floor(self._divide(a, b))

    def _remainder(self, a: mpf, b: mpf) -> mpf:
        return a - b * self._floor_divide(a, b)

    def _sqrt(self, a: mpf) -> mpf:
        return mpmath.sqrt(a) if a >= 0 else mpmath.nan

    def _exp(self, a: mpf) -> mpf:
        return mpmath.exp(a)

    def _log(self, a: mpf) -> mpf:
        return mpmath.log(a) if a > 0 else mpmath.nan

    def _cospi(self, a: mpf) -> mpf:
        return mpmath.cospi(a)

    def _tanh(self, a: mpf) -> mpf:
        return mpmath.tanh(a)
