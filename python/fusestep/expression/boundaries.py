"""Where a time in epochs or samples counts as at a boundary.

Epochs are fractions of samples: the double of 3 / 10 lies below three times the double of 0.1, and
a boundary there would be missed. So an epoch or a number of samples within 1e-9 of a boundary
counts as there, wherever a time meets one: in ``floor``, ``//``, ``%``, ``< <= > >=`` and tables,
of ``epoch`` and ``samples`` themselves and of what is linear in them, as ``epoch / 3`` and
``2 * epoch - 1``. Steps are whole, and their boundaries exact.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

NEAR = 1e-9
TIMES = ("epoch", "samples")

_CONSTANT: dict[str, Callable[[float, float], float]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
}
# what these give is no time, and has no rounding error of one in it
_DECIDED = ("floor", "table", "count", "random", "less", "less_equal", "cell", "function")


class Line(NamedTuple):
    """What is known of a value: how much it grows with a unit of time, and a constant's number.

    The slope is None where the value is not linear in epochs or samples, 0 where it reads neither.
    """

    slope: float | None
    number: float | None = None


def line(name: str, operands: Sequence[Line]) -> Line:
    """What is known of an operation's value."""
    slopes = [operand.slope for operand in operands]
    if name in _DECIDED:
        return Line(0.0)
    if not any(slopes) and None not in slopes:
        return Line(0.0, _number(name, [operand.number for operand in operands]))
    if name == "where":
        slopes = slopes[1:]
    if None in slopes:
        return Line(None)
    known = [slope for slope in slopes if slope is not None]
    if name == "add":
        return Line(known[0] + known[1])
    if name in ("subtract", "elapsed"):
        return Line(known[0] - known[1])
    if name in ("minimum", "maximum", "where"):
        return Line(max(known, key=abs))
    a, b = (operands[0], operands[1]) if len(operands) == 2 else (operands[0], Line(None))
    if name == "multiply" and b.number is not None and a.slope is not None:
        return Line(a.slope * b.number)
    if name == "multiply" and a.number is not None and b.slope is not None:
        return Line(b.slope * a.number)
    if name == "divide" and b.number and a.slope is not None:
        return Line(a.slope / b.number)
    return Line(None)


def nearness(slope: float | None) -> float:
    """How far from a boundary a value of that slope counts as there; 0 for not at all."""
    near = NEAR * abs(slope or 0.0)
    return near if math.isfinite(near) else 0.0


def _number(name: str, numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    if name not in _CONSTANT or len(known) != len(numbers) or (name == "divide" and not known[1]):
        return None
    return _CONSTANT[name](known[0], known[1])
