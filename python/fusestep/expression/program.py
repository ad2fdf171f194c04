"""Expressions compiled to native programs, and their evaluation for arrays of clocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from ..clock import Clock

_LARGEST_EXPANDED_POWER = 64  # whole exponents up to this become multiplications


def compiled(outputs: Sequence[Any]) -> tuple[_core.Program, tuple[Any, ...]]:
    """A native program for some expressions, and the Python functions that it needs called."""
    code = _Code()
    registers = [code.register(output) for output in outputs]
    return _core.Program(code.nodes, registers), tuple(code.functions.values())


class _Code:
    """Instructions in the order of evaluation; what is computed twice stands there once."""

    def __init__(self) -> None:
        self.nodes: list[tuple[str, tuple[int, ...], Any]] = []
        self.functions: dict[int, Any] = {}
        self._known: dict[Any, int] = {}
        self._registers: dict[int, tuple[Any, int]] = {}  # by identity; keeps the node alive

    def register(self, node: Any) -> int:
        if id(node) not in self._registers:
            self._registers[id(node)] = (node, self._compile(node))
        return self._registers[id(node)][1]

    def _compile(self, node: Any) -> int:
        if node.kind == "named":
            return self.register(node.body)
        if node.kind == "constant":
            return self._constant(node.value)
        if node.kind == "input":
            return self._emit("input", (), node.name)
        if node.kind == "cell":
            return self._emit("cell", (), node.memory, id(node.memory))
        if node.kind == "function":
            self.functions[id(node)] = node
            return self._emit("cell", (), node.memory, id(node.memory))
        operands = tuple(self.register(operand) for operand in node.operands)
        if node.name == "power" and node.operands[1].kind == "constant":
            exponent = node.operands[1].value
            if exponent == int(exponent) and abs(exponent) <= _LARGEST_EXPANDED_POWER:
                return self._whole_power(operands[0], int(exponent))
        if node.table is None:
            return self._operation(node.name, operands)
        return self._emit(node.name, operands, np.array(node.table, np.float64), node.table)

    def _operation(self, name: str, operands: tuple[int, ...]) -> int:
        if name == "negative":
            return self._emit("multiply", (operands[0], self._constant(-1.0)))
        if name == "absolute":
            return self._emit("maximum", (operands[0], self._operation("negative", operands)))
        if name == "floor_divide":
            return self._emit("floor", (self._emit("divide", operands),))
        if name == "remainder":
            whole = self._operation("floor_divide", operands)
            return self._emit(
                "subtract", (operands[0], self._emit("multiply", (whole, operands[1])))
            )
        return self._emit(name, operands)

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
        return self._emit("constant", (), value, (value, str(value)))  # -0.0 is not 0.0

    def _emit(
        self, name: str, operands: tuple[int, ...], payload: Any = None, known_by: Any = None
    ) -> int:
        for operand, other in zip(operands, reversed(operands), strict=True):
            if self._is_neutral(name, operand):
                return other
        key = (name, operands, payload if known_by is None else known_by)
        if key not in self._known:
            self.nodes.append((name, operands, payload))
            self._known[key] = len(self.nodes) - 1
        return self._known[key]


def values(program: _core.Program, clock: Clock) -> Any:
    """The values for arrays of clocks, broadcast; a float where all inputs are numbers."""
    columns = [_column(name, value) for name, value in zip(Clock._fields, clock, strict=True)]
    shape = np.broadcast_shapes(*(column.shape for column in columns if column is not None))
    flat = [
        column if column is None or column.size == 1 else np.broadcast_to(column, shape)
        for column in columns
    ]
    inputs = [None if column is None else np.ascontiguousarray(column).ravel() for column in flat]
    result = program.values(inputs, int(np.prod(shape))).reshape(shape)
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
    for function in functions:
        function.update(clock)
    return float(values(program, clock))
