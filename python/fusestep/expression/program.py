"""Native programs of expressions, and their evaluation for arrays of clocks.

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
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from ..clock import Clock
from .traversal import computed_from, folded

_LARGEST_EXPANDED_POWER = 64  # whole exponents up to this become multiplications
_OPERANDS = {"where": 3, "random": 3, **dict.fromkeys(("sqrt", "exp", "log", "cospi", "tanh"), 1)}
_NEAR = 1e-9
_TIMES = ("epoch", "samples")  # which may be rounded fractions


class Callback:
    """A Python function in one program: where that reads what the function gave."""

    __slots__ = ("function", "memory")

    def __init__(self, function: Any) -> None:
        self.function = function
        self.memory: npt.NDArray[np.float64] = np.full(1, np.nan)

    def update(self, clock: Clock) -> None:
        """Calls the function for the next run; raises what it raises."""
        self.memory[0] = self.function._at(clock)


def program_of(outputs: Sequence[Any]) -> tuple[_core.Program, tuple[Callback, ...]]:
    """A native program for some expressions, and the Python functions that it needs called."""
    code = _Code()
    registers = [folded(output, computed_from, code.register, code.done) for output in outputs]
    return _core.Program(code.nodes, registers), tuple(code.functions)


class _Code:
    """Instructions in the order of evaluation; what is computed twice stands there once."""

    def __init__(self) -> None:
        self.nodes: list[tuple[str, tuple[int, ...], Any]] = []
        self.functions: list[Callback] = []
        self.done: dict[int, int] = {}  # the registers of expressions, by identity
        self._known: dict[Any, int] = {}
        self._lines: list[_Line] = []

    def register(self, node: Any, operands: list[int]) -> int:
        """Where the value of a node is going to be; ``operands`` are those it is computed from."""
        if node._kind == "named":
            return operands[0]
        if node._kind == "constant":
            return self._constant(node._value)
        if node._kind == "input":
            return self._emit("input", (), node._name)
        if node._kind == "cell":
            return self._emit("cell", (), node.memory, id(node.memory))
        if node._kind == "function":
            self.functions.append(Callback(node))
            return self._emit("function", (), self.functions[-1].memory, len(self.functions))
        if node._name == "power" and node._operands[1]._kind == "constant":
            exponent = node._operands[1]._value
            if exponent == int(exponent) and abs(exponent) <= _LARGEST_EXPANDED_POWER:
                return self._whole_power(operands[0], int(exponent))
        if node._table is None:
            return self._operation(node._name, *operands)
        table = np.array(node._table, np.float64)
        return self._emit(node._name, (self._reached(*operands),), table, table.tobytes())

    def _operation(self, name: str, a: int, b: int = 0, *more: int) -> int:
        if name == "negative":
            return self._emit("multiply", (a, self._constant(-1.0)))
        if name == "absolute":
            return self._emit("maximum", (a, self._operation("negative", a)))
        if name == "floor":
            return self._emit("floor", (self._reached(a),))
        if name == "floor_divide":
            return self._operation("floor", self._emit("divide", (a, b)))
        if name == "remainder":
            whole = self._emit("multiply", (self._operation("floor_divide", a, b), b))
            span = self._lines[b].number
            if span is None or not _nearness(self._lines[a].slope):
                return self._emit("subtract", (a, whole))
            return self._elapsed(a, whole, "maximum" if span > 0 else "minimum")
        if name == "elapsed":
            return self._elapsed(a, b, "maximum")
        if name == "less":
            return self._emit("less", (self._reached(a, b), b))
        if name == "less_equal":
            return self._emit("less_equal", (a, self._reached(b, a)))
        if name == "random":
            a = self._reached(a)
        return self._emit(name, (a, b, *more)[: _OPERANDS.get(name, 2)])

    def _reached(self, operand: int, boundary: int | None = None) -> int:
        """A value, with the tolerance added where it is a time that a boundary is compared with."""
        slope = self._lines[operand].slope
        if boundary is not None and slope is not None:
            other = self._lines[boundary].slope
            slope = None if other is None else slope - other
        near = _nearness(slope)
        return self._emit("add", (operand, self._constant(near))) if near else operand

    def _elapsed(self, time: int, begin: int, limit: str) -> int:
        """The time since a boundary; 0 where the time is before it by the tolerance or less."""
        passed = self._emit("subtract", (time, begin))
        near = _nearness(self._lines[passed].slope)
        return self._emit(limit, (passed, self._constant(0.0))) if near else passed

    def _whole_power(self, base: int, exponent: int) -> int:
        result = self._constant(1.0)
        for bit in f"{abs(exponent):b}":
            result = self._emit("multiply", (result, result))
            if bit == "1":
                result = self._emit("multiply", (result, base))
        return result if exponent >= 0 else self._emit("divide", (self._constant(1.0), result))

    def _is_neutral(self, name: str, operand: int) -> bool:
        """Whether adding, or multiplying by, an operand changes nothing."""
        neutral = {"add": 0.0, "multiply": 1.0}.get(name)
        return neutral is not None and self.nodes[operand] == ("constant", (), neutral)

    def _constant(self, value: float) -> int:
        return self._emit("constant", (), float(value), repr(float(value)))  # -0.0 is not 0.0

    def _emit(
        self, name: str, operands: tuple[int, ...], payload: Any = None, known_by: Any = None
    ) -> int:
        for operand, other in zip(operands, reversed(operands), strict=True):
            if self._is_neutral(name, operand):
                return other
        key = (name, operands, payload if known_by is None else known_by)
        if key not in self._known:
            if name == "constant":
                known = _Line(0.0, payload)
            elif name == "input":
                known = _Line(1.0 if payload in _TIMES else 0.0)
            else:
                known = _line(name, [self._lines[operand] for operand in operands])
            self._lines.append(known)
            self.nodes.append((name, operands, payload))
            self._known[key] = len(self.nodes) - 1
        return self._known[key]


_CONSTANT: dict[str, Callable[[float, float], float]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
}
# their values are no times: a boundary is met exactly or not at all
_DECIDED = ("floor", "table", "count", "random", "less", "less_equal", "cell", "function")


class _Line(NamedTuple):
    """What is known of a value: how much it grows with a unit of time, and a constant's number.

    The slope is None where the value is not linear in epochs or samples, 0 where it reads neither.
    """

    slope: float | None
    number: float | None = None


def _line(name: str, operands: Sequence[_Line]) -> _Line:
    """What is known of an operation's value."""
    slopes = [operand.slope for operand in operands]
    if name in _DECIDED:
        return _Line(0.0)
    if not any(slopes) and None not in slopes:
        return _Line(0.0, _number(name, [operand.number for operand in operands]))
    if name == "where":
        slopes = slopes[1:]
    if None in slopes:
        return _Line(None)
    known = [slope for slope in slopes if slope is not None]
    if name == "add":
        return _Line(known[0] + known[1])
    if name in ("subtract", "elapsed"):
        return _Line(known[0] - known[1])
    if name in ("minimum", "maximum", "where"):
        return _Line(max(known, key=abs))
    a, b = (operands[0], operands[1]) if len(operands) == 2 else (operands[0], _Line(None))
    if name == "multiply" and b.number is not None and a.slope is not None:
        return _Line(a.slope * b.number)
    if name == "multiply" and a.number is not None and b.slope is not None:
        return _Line(b.slope * a.number)
    if name == "divide" and b.number and a.slope is not None:
        return _Line(a.slope / b.number)
    return _Line(None)


def _nearness(slope: float | None) -> float:
    """How far from a boundary a value of that slope counts as there; 0 for not at all."""
    near = _NEAR * abs(slope or 0.0)
    return near if math.isfinite(near) else 0.0


def _number(name: str, numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    if name not in _CONSTANT or len(known) != len(numbers) or (name == "divide" and not known[1]):
        return None
    return _CONSTANT[name](known[0], known[1])


def values(program: _core.Program, clock: Clock, functions: Sequence[float] = ()) -> Any:
    """The values for arrays of clocks, broadcast; a float where all inputs are numbers.

    ``functions`` are the numbers that the Python functions of the program gave.
    """
    columns = [_column(name, value) for name, value in zip(Clock._fields, clock, strict=True)]
    shape = np.broadcast_shapes(*(column.shape for column in columns if column is not None))
    flat = [
        column if column is None or column.size == 1 else np.broadcast_to(column, shape)
        for column in columns
    ]
    inputs = [None if column is None else np.ascontiguousarray(column).ravel() for column in flat]
    result = program.values(inputs, int(np.prod(shape)), list(functions)).reshape(shape)
    return float(result) if shape == () else result


def _column(name: str, value: Any) -> npt.NDArray[Any] | None:
    if value is None:
        return None
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be a number or an array of numbers, not {value!r}")
    if array.dtype.kind == "f":
        return array.astype(np.float64, copy=False)
    if array.dtype == np.uint64 and array.size and array.max() >= 2**53:
        raise ValueError(
            f"{name} must be at least 0 and below 2^53, where whole numbers are exact, "
            f"not {array.max()}"
        )
    return array.astype(np.int64, copy=False)


def values_with_functions(program: _core.Program, functions: Sequence[Any], clock: Clock) -> Any:
    """As ``values``, but clock by clock: the functions are called for each."""
    if all(value is None or np.ndim(value) == 0 for value in clock):
        return _value_with_functions(program, functions, clock)
    given = [value for value in clock if value is not None]
    rows = np.broadcast(*given)
    results = []
    for row in rows:
        numbers = iter(row)
        one = Clock(*(None if value is None else next(numbers).item() for value in clock))
        results.append(_value_with_functions(program, functions, one))
    return np.array(results, np.float64).reshape(rows.shape)


def _value_with_functions(program: _core.Program, functions: Sequence[Any], clock: Clock) -> float:
    # passed, and not stored where another thread may read it
    found = [called.function._at(clock) for called in functions]
    return float(values(program, clock, found))
