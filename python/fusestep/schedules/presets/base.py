"""What the presets of all peers are made with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeAlias, TypeVar

from ...arguments import check_number
from ...control import Control
from ...expression import Expression, function, maximum
from ...expression.nodes import constant_or_expression, expression
from ...expression.traversal import substituted
from ...expression.vocabulary import VOCABULARY, named, remembering
from ..pieces import sequence

P = ParamSpec("P")
C = TypeVar("C", bound=Expression)
K = TypeVar("K", bound=Control)
Factor: TypeAlias = Expression | Callable[[Any], float] | float


def preset(build: Callable[P, Expression]) -> Callable[P, Expression]:
    """Names a preset after its module, as in "presets.torch.StepLR"."""
    return named(build, _room_of(build))


def control_preset(build: Callable[P, C]) -> Callable[P, C]:
    """Likewise where the preset is a control, which prints itself."""
    name = f"{_room_of(build)}{build.__name__}"
    VOCABULARY[name] = call = remembering(build, lambda control, _: control, name)
    return call


def control_class(kind: type[K]) -> type[K]:
    """Likewise where a control is a preset."""
    kind._room = _room_of(kind)
    VOCABULARY[f"{kind._room}{kind.__name__}"] = kind
    return kind


def _room_of(build: Callable[..., Any]) -> str:
    _, _, _, peer, *_ = build.__module__.split(".")
    return f"presets.{peer}."


def called(name: str, factor: Factor, time: Expression) -> Expression:
    """A Python function called with a time, or an expression that reads it as its step."""
    if (node := constant_or_expression(factor)) is not None:
        return expression(substituted(node, {"step": time}))
    if not callable(factor):
        raise TypeError(f"{name} must be a function of one number, or an expression: {factor!r}")
    # another part of the same expression may be asked for a time before its own
    return function(factor, maximum(time, 0))


def check_growth(name: str, value: float) -> float:
    """The value if cycles may grow by it: 1, or at least 1.01."""
    number = check_number(name, value, 1)
    if 1 < number < 1.01:
        raise ValueError(f"{name} must be 1 or at least 1.01, not {value!r}")
    return number


def after(begin: float, first: Expression, later: Expression) -> Expression:
    """An expression, and from ``begin`` on a second one, in its own time from 0."""
    return sequence([first, later], at=[begin]) if begin > 0 else later
