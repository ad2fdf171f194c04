"""The nodes of expressions."""

from __future__ import annotations

import copyreg
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any, ClassVar

from .. import _core
from ..arguments import check_choice, check_finite
from ..clock import Clock, Unit
from .combinators import METHODS, Combinators
from .drawing import draw
from .program import compiled, values, values_with_functions
from .saved import saved
from .traversal import expressions_in, substituted, tabulated
from .typed import typed

TIMES = ("step", "samples", "epoch")


class Expression(Combinators):
    """Arithmetic on the clock: a learning rate, or anything else that changes during training.

    Expressions come from `fusestep.schedules`, `fusestep.control` and the names in
    `fusestep.expression` (``step``, ``samples``, ``epoch``, ``batch_size``, ``minimum``, ``where``
    and so on), and combine with numbers by ``+ - * / ** // % abs()``. Comparisons (``< <= > >=``)
    give 1 or 0, for ``where``. They never change; copies are not needed.

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

    __slots__ = ("__weakref__", "_compiled")

    kind: ClassVar[str]
    remembers: ClassVar[bool] = False  # what it was typed with is not all that there is to it
    _compiled: tuple[_core.Program, tuple[Any, ...]]
    __array_ufunc__ = None  # NumPy's numbers leave the operators to expressions

    def __call__(
        self, step: Any = None, *, samples: Any = None, epoch: Any = None, batch_size: Any = None
    ) -> Any:
        if isinstance(step, Clock):
            step, samples, epoch, batch_size = step
        try:
            program, functions = self._compiled
        except AttributeError:
            program, functions = self._compiled = compiled([self])
        if not functions:
            value = program.value(step, samples, epoch, batch_size)
            if value is not None:
                return value
            return values(program, Clock(step, samples, epoch, batch_size))
        return values_with_functions(program, functions, Clock(step, samples, epoch, batch_size))

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
            label: for the legend. None: the expression as it is typed.

        Needs matplotlib: ``pip install "fusestep[plot]"``.
        """
        return draw(self, stop, by=by, ax=ax, label=repr(self) if label is None else label)

    def __bool__(self) -> bool:
        raise TypeError("an expression is neither true nor false; where(...) chooses by its value")

    def __eq__(self, other: object) -> bool:
        """Whether both are typed the same way."""
        if not isinstance(other, Expression):
            return False
        keys = (tabulated(each, exact=False)[0] for each in (self, other))
        return self is other or next(keys) == next(keys)

    def __hash__(self) -> int:
        return hash(tuple(tabulated(self, exact=False)[0]))

    def __repr__(self) -> str:
        return typed(self)

    def __reduce__(self) -> Any:
        """For pickle and copy: a flat table, without the native program, which is compiled again.

        What has memories goes as the object that it is, so that those who share it still do.
        """
        from .copying import assembled, taken_apart

        if not self.remembers:
            return assembled, (taken_apart(self),)
        slots = {name for kind in type(self).__mro__ for name in getattr(kind, "__slots__", ())}
        slots -= {"__weakref__", "_compiled"}
        state = {name: getattr(self, name) for name in slots if hasattr(self, name)}
        return copyreg.__newobj__, (type(self),), (None, state)  # type: ignore[attr-defined]

    def _combine(self, name: str, *operands: Any) -> Any:
        nodes = [constant_or_expression(operand) for operand in operands]
        if name == "negative" and isinstance(nodes[0], Constant):
            return Constant(-nodes[0].value)  # as it is typed
        return NotImplemented if None in nodes else Operation(name, tuple(nodes))

    def _itself(self) -> Expression:
        return self

    def _retimed(
        self, name: str, arguments: Mapping[str, Any], clock: Callable[[str], Any]
    ) -> Expression:
        inputs = {by: clock(by) for by in TIMES}
        return Named(name, {"expression": self, **arguments}, substituted(self, inputs))

    def _input(self, name: str) -> Expression:
        return Input(name)

    def typed_with(self) -> tuple[Any, ...]:
        """What tells it from others of its kind, with the expressions that it was made of."""
        raise NotImplementedError

    def fields(self) -> tuple[Any, ...]:
        """What its class is called with to make the same again."""
        return self.typed_with()

    def parts(self) -> Iterator[Expression]:
        """The expressions that this one was made of."""
        return expressions_in(self.typed_with())


class Constant(Expression):
    """A finite number."""

    __slots__ = ("value",)
    kind = "constant"

    def __init__(self, value: Any) -> None:
        check_finite("a number in an expression", value)
        self.value: int | float = int(value) if isinstance(value, int) else float(value)

    def typed_with(self) -> tuple[Any, ...]:
        return (self.value,)


class Input(Expression):
    """A field of the clock."""

    __slots__ = ("name",)
    kind = "input"

    def __init__(self, name: str) -> None:
        self.name = name

    def typed_with(self) -> tuple[Any, ...]:
        return (self.name,)


class Operation(Expression):
    """A native operation on expressions; some have a table of numbers."""

    __slots__ = ("name", "operands", "table")
    kind = "operation"

    def __init__(
        self, name: str, operands: tuple[Any, ...], table: tuple[float, ...] | None = None
    ) -> None:
        self.name = name
        self.operands = tuple(expression(operand) for operand in operands)
        self.table = table

    def typed_with(self) -> tuple[Any, ...]:
        return (self.name, self.operands, self.table)


class Named(Expression):
    """What was typed, a function and its arguments, and the expression it stands for.

    Without arguments it is a name alone. A method is typed after its first argument.
    """

    __slots__ = ("arguments", "body", "defaults", "name")
    kind = "named"

    def __init__(
        self,
        name: str,
        arguments: Mapping[str, Any] | None,
        body: Expression,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.arguments = arguments
        self.body = body
        self.defaults = defaults or {}

    @property
    def is_method(self) -> bool:
        return self.name in METHODS

    def is_default(self, argument: str) -> bool:
        """Whether an argument has the value it would have if it were not typed."""
        assert self.arguments is not None
        value = self.arguments[argument]
        default = self.defaults.get(argument, inspect.Parameter.empty)
        return type(value) is type(default) and repr(value) == repr(default)

    def typed_with(self) -> tuple[Any, ...]:
        return (self.name, self.arguments)

    def fields(self) -> tuple[Any, ...]:
        return (self.name, self.arguments, self.body, self.defaults)


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
