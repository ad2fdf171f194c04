"""Arithmetic on the clock: the inputs, functions and constants that expressions are made of."""

from .nodes import Expression
from .reading import from_json, parse
from .vocabulary import (
    batch_size,
    clip,
    cos,
    cospi,
    epoch,
    exp,
    floor,
    function,
    log,
    maximum,
    minimum,
    pi,
    samples,
    sin,
    sqrt,
    step,
    where,
)

__all__ = [
    "Expression",
    "batch_size",
    "clip",
    "cos",
    "cospi",
    "epoch",
    "exp",
    "floor",
    "from_json",
    "function",
    "log",
    "maximum",
    "minimum",
    "parse",
    "pi",
    "samples",
    "sin",
    "sqrt",
    "step",
    "where",
]


def __dir__() -> list[str]:
    return __all__
