"""The nodes of expressions, and their operators."""

from __future__ import annotations

import copyreg
import json
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from ..arguments import check_choice, check_finite, check_number, check_positive
from ..clock import Clock, Unit
from .drawing import draw
from .program import program_of, values, values_with_functions
from .traversal import Node, substituted, tabulated
from .writing import Call, assembled, saved, taken_apart, written

TIMES = ("step", "samples", "epoch")

Operator = Callable[["Expression", Any], "Expression"]


def _operators(name: str) -> tuple[Operator, Operator]:
    """An infix operator, and the same with its operands swapped."""

    def operator(self: Expression, other: Any) -> Expression:
        return _combined(name, self, other)

    def swapped(self: Expression, other: Any) -> Expression:
        return _combined(name, other, self)

    return operator, swapped


def _combined(name: str, *operands: Any) -> Expression:
    """An operation, or NotImplemented where an operand is neither expression nor number."""
    nodes = [constant_or_expression(operand) for operand in operands]
    return NotImplemented if None in nodes else Operation(name, tuple(nodes))


class Expression(Node):
    """Arithmetic on the clock: a learning rate, or anything else that changes during training.

    Expressions come from `fusestep.schedules`, `fusestep.control` and the names in
    `fusestep.expression` (``step``, ``samples``, ``epoch``, ``batch_size``, ``minimum``, ``where``
    and so on), and combine with numbers by ``+ - * / ** // % abs()``. Comparisons (``< <= > >=``)
    give 1 or 0, for ``where``. They are immutable.

    Calling one evaluates it, for one clock or for arrays of them::

        expression(step=None, *, samples=None, epoch=None, batch_size=None)
        expression(fusestep.Clock(...))

    Values are computed natively in twice double's precision and rounded once: the result is the
    double nearest to the formula (in about one case in 100,000 its neighbour), the same for one
    clock, for arrays, and inside a step, and the same bits on every machine. Clock values are
    at least 0 and below 2^53, where whole numbers are exact; arrays broadcast.

    Raises:
        ValueError: an input that the expression reads is missing, or one is negative, NaN or
            not below 2^53.
        TypeError: an input is not a number or an array of them.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> lr = fs.schedules.cosine(start=1.0, length=4) * 0.5
        >>> lr(2), lr(np.arange(6))
        (0.25, array([0.5      , 0.4267767, 0.25     , 0.0732233, 0.       , 0.       ]))
        >>> lr
        cosine(start=1.0, length=4) * 0.5
    """

    __slots__ = ("__weakref__", "_program")

    _program: tuple[_core.Program, tuple[Any, ...]]
    __array_ufunc__ = None  # NumPy's numbers leave the operators to expressions

    def __call__(
        self, step: Any = None, *, samples: Any = None, epoch: Any = None, batch_size: Any = None
    ) -> Any:
        """The value for a clock, or an array of values for arrays of them; see the class."""
        if isinstance(step, Clock):
            step, samples, epoch, batch_size = step
        try:
            program, functions = self._program
        except AttributeError:
            program, functions = self._program = program_of([self])
        if not functions:
            value = program.value(step, samples, epoch, batch_size)
            if value is not None:
                return value
            return values(program, Clock(step, samples, epoch, batch_size))
        return values_with_functions(program, functions, Clock(step, samples, epoch, batch_size))

    def shifted(self, n: float) -> Expression:
        """The same, ``n`` later in its own time; the first value is held until then.

        >>> import fusestep as fs
        >>> fs.schedules.linear(start=1.0, end=0.0, length=10).shifted(5)(step=10)
        0.5
        """
        check_number("shifted: n", n)
        return self._retimed("shifted", {"n": n}, lambda t: Operation("maximum", (t - n, 0)))

    def repeated(self, n: float) -> Expression:
        """The same, starting again every ``n`` of its own time; ``n`` above 0.

        >>> import fusestep as fs
        >>> fs.schedules.linear(start=1.0, end=0.0, length=10).repeated(4)(step=5)
        0.9
        """
        check_positive("repeated: n", n)
        return self._retimed("repeated", {"n": n}, lambda t: t % n)

    def by(self, unit: Unit) -> Expression:
        """The same, reading "step", "samples" or "epoch" wherever it reads one of them now.

        >>> import fusestep as fs
        >>> fs.schedules.linear(start=1.0, end=0.0, length=10).by("epoch")(epoch=2.5)
        0.75
        """
        return self._retimed("by", {"unit": unit}, lambda _: time(unit, "by: unit"))

    def to_json(self) -> str:
        """The expression as JSON text, for `fusestep.expression.from_json`.

        What is used more than once is written once. A Python function leaves its name.
        """
        return json.dumps(saved(self), allow_nan=False)

    def plot(
        self, stop: float, *, by: Unit = "step", ax: Any = None, label: str | None = None
    ) -> Any:
        """Draws the values from 0 to ``stop``; returns matplotlib's axes.

        Args:
            stop: where the picture ends, in the unit of ``by``.
            by: "step", "samples" or "epoch". Other inputs that the expression reads are 1.
            ax: axes to draw into, for several curves in one picture. None: new ones.
            label: for the legend. None: the expression as text.

        Needs matplotlib: ``pip install "fusestep[plot]"``.
        """
        return draw(self, stop, by=by, ax=ax, label=repr(self) if label is None else label)

    __add__, __radd__ = _operators("add")
    __sub__, __rsub__ = _operators("subtract")
    __mul__, __rmul__ = _operators("multiply")
    __truediv__, __rtruediv__ = _operators("divide")
    __pow__, __rpow__ = _operators("power")
    __floordiv__, __rfloordiv__ = _operators("floor_divide")
    __mod__, __rmod__ = _operators("remainder")
    __lt__, __gt__ = _operators("less")
    __le__, __ge__ = _operators("less_equal")

    def __neg__(self) -> Expression:
        return (
            Constant(-self._value) if isinstance(self, Constant) else Operation("negative", (self,))
        )

    def __pos__(self) -> Expression:
        return self

    def __abs__(self) -> Expression:
        return Operation("absolute", (self,))

    def __bool__(self) -> bool:
        raise TypeError("an expression is neither true nor false; where(...) chooses by its value")

    def __eq__(self, other: object) -> bool:
        """Whether both are written the same way."""
        if not isinstance(other, Expression):
            return False
        keys = (tabulated(each, exact=False)[0] for each in (self, other))
        return self is other or next(keys) == next(keys)

    def __hash__(self) -> int:
        return hash(tuple(tabulated(self, exact=False)[0]))

    def __repr__(self) -> str:
        return written(self)

    def __reduce__(self) -> Any:
        """For pickle and copy: a flat table, without the native program, which is built again.

        A node with a state is pickled as an object, so that expressions that share it still do.
        """
        if not self._remembers:
            return assembled, (taken_apart(self),)
        slots = {name for kind in type(self).__mro__ for name in getattr(kind, "__slots__", ())}
        slots -= {"__weakref__", "_program"}
        state = {name: getattr(self, name) for name in slots if hasattr(self, name)}
        return copyreg.__newobj__, (type(self),), (None, state)  # type: ignore[attr-defined]

    def _retimed(
        self, name: str, arguments: Mapping[str, Any], clock: Callable[[Expression], Expression]
    ) -> Expression:
        """What a method gives: ``clock(time)`` in place of each input that is a time."""
        inputs = {by: clock(Input(by)) for by in TIMES}
        call = Call(name, {"expression": self, **arguments}, is_method=True)
        return Named(call, substituted(self, inputs))


METHODS: Mapping[str, Callable[..., Expression]] = {
    "shifted": Expression.shifted,
    "repeated": Expression.repeated,
    "by": Expression.by,
}


class Constant(Expression):
    """A finite number."""

    __slots__ = ("_value",)
    _kind = "constant"

    def __init__(self, value: Any) -> None:
        check_finite("a number in an expression", value)
        self._value: int | float = int(value) if isinstance(value, int) else float(value)

    def _written_with(self) -> tuple[Any, ...]:
        return (self._value,)


class Input(Expression):
    """A field of the clock."""

    __slots__ = ("_name",)
    _kind = "input"

    def __init__(self, name: str) -> None:
        self._name = name

    def _written_with(self) -> tuple[Any, ...]:
        return (self._name,)


class Operation(Expression):
    """A native operation on expressions; some have a table of numbers."""

    __slots__ = ("_name", "_operands", "_table")
    _kind = "operation"

    def __init__(
        self, name: str, operands: tuple[Any, ...], table: tuple[float, ...] | None = None
    ) -> None:
        self._name = name
        self._operands = tuple(expression(operand) for operand in operands)
        self._table = table

    def _written_with(self) -> tuple[Any, ...]:
        return (self._name, self._operands, self._table)


class Named(Expression):
    """The call that it is written as, and the expression that this stands for."""

    __slots__ = ("_body", "_call")
    _kind = "named"

    def __init__(self, call: Call, body: Expression) -> None:
        self._call = Call(*call)
        self._body = body

    def _written_with(self) -> tuple[Any, ...]:
        return (self._call.name, self._call.arguments)

    def _rebuilt_from(self) -> tuple[Any, ...]:
        return (self._call, self._body)


class Cell(Expression):
    """A number that its owner changes: ``memory`` is an array of one float64."""

    __slots__ = ("memory",)
    _kind = "cell"
    _remembers = True

    def __init__(self, value: float) -> None:
        self.memory: npt.NDArray[np.float64] = np.array([value])

    def _written_with(self) -> tuple[Any, ...]:
        return (id(self),)


class Function(Expression):
    """A Python function of one number, called once for each clock, and saved by its name."""

    __slots__ = ("_call", "_name", "_time")
    _kind = "function"

    def __init__(self, call: Callable[[Any], float], time: Expression, name: str) -> None:
        self._call = call
        self._time = time
        self._name = name

    def _at(self, clock: Clock) -> float:
        """What the function gives; TypeError or ValueError where that is no number or too large."""
        at = self._time(clock)
        value = self._call(int(at) if at == np.floor(at) else at)
        if not isinstance(value, Real):
            raise TypeError(f"{self!r} must give a number, not {value!r}")
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{self!r} must give a number that fits a double") from None

    def _written_with(self) -> tuple[Any, ...]:
        call = self._call
        return (call if getattr(call, "__hash__", None) else id(call), self._time)

    def _rebuilt_from(self) -> tuple[Any, ...]:
        return (self._call, self._time, self._name)


def expression(value: Any) -> Expression:
    """An expression for a number, or the expression itself; TypeError for anything else."""
    found = constant_or_expression(value)
    if found is None:
        raise TypeError(f"an expression is made of numbers and expressions, not {value!r}")
    return found


def constant_or_expression(value: Any) -> Expression | None:
    if isinstance(value, Expression):
        return value
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return Constant(value) if is_number else None


def time(by: Unit, argument: str = "by") -> Expression:
    """The input of the clock that a curve reads."""
    return Input(check_choice(argument, by, TIMES))
