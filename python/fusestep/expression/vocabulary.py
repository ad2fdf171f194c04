"""The names that expressions are written with."""

from __future__ import annotations

import functools
import inspect
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

from ..arguments import nearest
from .nodes import Constant, Expression, Function, Input, Named, Operation, expression
from .writing import Call

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=Callable[..., Expression])

VOCABULARY: dict[str, Callable[..., Expression]] = {}
step: Expression = Input("step")
samples: Expression = Input("samples")
epoch: Expression = Input("epoch")
batch_size: Expression = Input("batch_size")
# two doubles are all of pi that the precision of an expression can tell
pi: Expression = Named(Call("pi"), Constant(3.141592653589793) + Constant(1.2246467991473532e-16))
NAMES: dict[str, Expression] = {
    "step": step,
    "samples": samples,
    "epoch": epoch,
    "batch_size": batch_size,
    "pi": pi,
}

# earlier names: from_json reads them, everything else raises an error with the present one
RENAMED = {
    "noise_curve": "scaling.noise_curve",
    "scale_linear": "scaling.linear",
    "scale_power": "scaling.power",
    "scale_sqrt": "scaling.sqrt",
}
RENAMED_ARGUMENTS: dict[str, dict[str, str]] = {
    "Plateau": {"min_value": "lower"},
    "cosine_restarts": {"decay": "factor"},
    "gradual_warmup": {"k": "factor"},
    "inverse_time": {"scale": "timescale"},
    "one_cycle": {
        "warm": "pct_start",
        "start_div": "div_factor",
        "end_div": "final_div_factor",
        "anneal": "anneal_strategy",
    },
    "power": {"a": "scale", "b": "exponent"},
    "staircase_linear": {"decay": "fraction"},
}


def known(name: Any, names: Mapping[str, Any], what: str) -> Any:
    """What has a name; ValueError with the name that was meant, or all, if there is none."""
    if isinstance(name, str) and RENAMED.get(name) in names:
        raise ValueError(f"{name} is called {RENAMED[name]} now")
    if not isinstance(name, str) or name not in names:
        text = name[:100] if isinstance(name, str) else ""
        room = text.rpartition(".")[0]
        neighbours = sorted(other for other in names if other.rpartition(".")[0] == room)
        instead = nearest(text, neighbours or sorted(names))
        raise ValueError(f"no {what} {reprlib.repr(name)}{instead}")
    return names[name]


# the default of an argument that must be given, though it follows some that need not be
NEEDED: Any = inspect.Parameter.empty


def in_vocabulary(call: C) -> C:
    """Registers a function for `parse` and `from_json`; what it returns must print itself."""
    VOCABULARY[call.__name__] = call
    return call


def named(build: Callable[P, Expression], room: str = "") -> Callable[P, Expression]:
    """Registers a function likewise; what it returns prints as the call that built it.

    ``room`` goes before its name, as in "scaling.".
    """
    name = f"{room}{build.__name__}"
    call = remembering(build, lambda body, call: Named(call, body), name, in_curve=True)
    call.__signature__ = inspect.signature(build, eval_str=True)  # type: ignore[attr-defined]
    VOCABULARY[name] = call
    return call


def remembering(
    build: Callable[P, T],
    keep: Callable[[T, Call], T],
    name: str,
    options: Iterable[str] = (),
    in_curve: bool = False,
) -> Callable[P, T]:
    """The same function, which returns ``keep(result, the call as it was written)``.

    ``name`` is the function's in that call, and what errors about its arguments begin with;
    ``options`` are the arguments that it takes beside those of its signature; ``in_curve`` as in
    `as_python`.
    """
    signature = inspect.signature(build)
    defaults = defaults_of(build)
    more = [p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
    accepted = [*(argument for argument in defaults if argument not in more), *options]
    earlier = RENAMED_ARGUMENTS.get(name, {})

    @functools.wraps(build)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        for given in kwargs:
            if given not in accepted:
                now = earlier.get(given)
                instead = f": use {now!r}" if now else nearest(given, accepted)
                raise TypeError(f"{name} has no argument {given!r}{instead}")
        try:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            result = build(*bound.args, **bound.kwargs)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            # another function of the same name may have named itself
            text = str(error).removeprefix(f"{build.__name__}: ")
            raise kind(f"{name}: {text}") from error
        arguments = bound.arguments
        for argument in more:
            arguments.update(arguments.pop(argument))
        pairs = {key: as_python(value, in_curve) for key, value in arguments.items()}
        return keep(result, Call(name, pairs, defaults))

    return call


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a function and their defaults; ``inspect.Parameter.empty`` for none."""
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


def as_python(value: Any, in_curve: bool = False) -> Any:
    """An argument with Python's numbers and lists for NumPy's, and for constants.

    What a curve keeps is what text and JSON can hold: pairs for a dict, and an expression that
    calls it for a Python function.
    """
    if isinstance(value, Constant):
        return value._value
    if isinstance(value, (Expression, str, bool, type(None))):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if in_curve and isinstance(value, Mapping):
        value = [*value.items()]
    if isinstance(value, Sequence) or hasattr(value, "tolist"):
        return [as_python(entry, in_curve) for entry in value]
    return function(value) if in_curve and callable(value) else value


@in_vocabulary
def minimum(first: Any, *others: Any) -> Expression:
    """The smallest of numbers and expressions.

    >>> import fusestep.expression as fe
    >>> fe.minimum(fe.step, 3)(step=5)
    3.0
    """
    return functools.reduce(lambda a, b: Operation("minimum", (a, b)), others, expression(first))


@in_vocabulary
def maximum(first: Any, *others: Any) -> Expression:
    """The largest of numbers and expressions.

    >>> import fusestep.expression as fe
    >>> fe.maximum(fe.step, 3)(step=5)
    5.0
    """
    return functools.reduce(lambda a, b: Operation("maximum", (a, b)), others, expression(first))


@named
def clip(value: Any, lower: Any, upper: Any) -> Expression:
    """The value, at least ``lower`` and at most ``upper``.

    >>> import fusestep.expression as fe
    >>> fe.clip(fe.step, 2, 4)(step=7)
    4.0
    """
    return minimum(maximum(value, lower), upper)


@in_vocabulary
def where(condition: Any, value: Any, otherwise: Any) -> Expression:
    """One of two values: the second where the condition is 0.

    >>> import fusestep.expression as fe
    >>> fe.where(fe.step < 3, 1.0, 0.5)(step=3)
    0.5
    """
    return Operation("where", (condition, value, otherwise))


@in_vocabulary
def floor(value: Any) -> Expression:
    """The largest whole number that is not above the value.

    >>> import fusestep.expression as fe
    >>> fe.floor(fe.epoch)(epoch=2.75)
    2.0
    """
    return Operation("floor", (value,))


@in_vocabulary
def sqrt(value: Any) -> Expression:
    """The square root; NaN for a negative value.

    >>> import fusestep.expression as fe
    >>> fe.sqrt(fe.step)(step=16)
    4.0
    """
    return Operation("sqrt", (value,))


@in_vocabulary
def exp(value: Any) -> Expression:
    """e to the power of the value.

    >>> import fusestep.expression as fe
    >>> fe.exp(-fe.step)(step=0)
    1.0
    """
    return Operation("exp", (value,))


@in_vocabulary
def log(value: Any) -> Expression:
    """The natural logarithm; -infinity for 0, NaN for a negative value.

    >>> import fusestep.expression as fe
    >>> fe.log(fe.step)(step=1)
    0.0
    """
    return Operation("log", (value,))


@in_vocabulary
def cospi(value: Any) -> Expression:
    """The cosine of pi times the value: exact where it is 1, 0 or -1.

    >>> import fusestep.expression as fe
    >>> fe.cospi(fe.step / 2)(step=1)
    0.0
    """
    return Operation("cospi", (value,))


@named
def cos(value: Any) -> Expression:
    """The cosine of an angle in radians.

    >>> import fusestep.expression as fe
    >>> fe.cos(fe.step * fe.pi / 3)(step=1)
    0.5
    """
    return cospi(expression(value) / pi)


@named
def sin(value: Any) -> Expression:
    """The sine of an angle in radians.

    >>> import fusestep.expression as fe
    >>> fe.sin(fe.step * fe.pi / 6)(step=1)
    0.5
    """
    return cospi(expression(value) / pi - 0.5)


def function(
    call: Callable[[Any], float], time: Expression = step, *, name: str | None = None
) -> Expression:
    """A Python function, for what has no formula: it is called once for each clock.

    Saved state and JSON keep its name alone: a program that reads them must have the function, see
    `from_json`. Settings of an optimizer take a bare Python function as this, by step.

    Args:
        call: takes one number, an int where it is whole, and gives one.
        time: what to call it with: ``step``, ``epoch`` or any other expression.
        name: what it is saved under. None: ``module:qualified_name``, as in "train:decay"; give one
            where that says too little, as for a lambda or functools.partial.

    Raises:
        TypeError: ``call`` can't be called, or, later, gives no number.

    Example:
        >>> import fusestep.expression as fe
        >>> (fe.function(lambda t: [3.0, 2.0, 1.0][t]) * 2)(step=1)
        4.0
        >>> fe.function(abs, fe.epoch, name="root")
        function('root', time=epoch)
    """
    if not callable(call):
        raise TypeError(f"call must be a function of one number, not {call!r}")
    if name is None:
        named = call if hasattr(call, "__qualname__") else type(call)
        module = getattr(named, "__module__", None) or "builtins"
        name = f"{module}:{named.__qualname__}"
    elif not isinstance(name, str) or not name:
        raise TypeError(f"name must be text, not {name!r}")
    return Function(call, expression(time), name)


VOCABULARY["abs"] = lambda value: abs(expression(value))
