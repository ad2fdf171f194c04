"""Curves made of pieces. At a boundary the later piece applies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from ..arguments import (
    check_choice,
    check_finite,
    check_list,
    check_number,
    check_positive,
    check_rising,
)
from ..clock import Unit
from ..expression import Expression, clip, floor, minimum, where
from ..expression.nodes import Operation, constant_or_expression, expression, time
from ..expression.traversal import substituted
from ..expression.vocabulary import named
from .ramps import cosine_weight, since


def count(t: Expression, boundaries: Sequence[float]) -> Expression:
    """How many of the rising boundaries are at most t."""
    return Operation("count", (t,), tuple(boundaries)) if boundaries else expression(0)


def look_up(index: Expression, values: Sequence[float]) -> Expression:
    """The value at an index, rounded down; the first or last one beyond the ends."""
    return Operation("table", (index,), tuple(values))


def _numbers(name: str, values: Sequence[float]) -> list[float]:
    entries = enumerate(check_list(name, values, 1))
    return [check_finite(f"{name}[{i}]", value) for i, value in entries]


@named
def step(start: float, factor: float, every: float, by: Unit = "step") -> Expression:
    """Multiplied by ``factor`` after every span of ``every``.

    ``start * factor^floor(t / every)``.

    Args:
        start: any finite number.
        factor: at least 0.
        every: above 0, in the unit of ``by``.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.step(start=1.0, factor=0.5, every=10)([9, 10, 29])
        array([1.  , 0.5 , 0.25])
    """
    base = expression(check_number("factor", factor))
    spans = floor(time(by) / check_positive("every", every))
    return check_finite("start", start) * base**spans


@named
def multistep(start: float, factor: float, at: Sequence[float], by: Unit = "step") -> Expression:
    """Multiplied by ``factor`` at each of some times.

    ``start * factor^n`` with n the number of times in ``at`` that have come.

    Args:
        start: any finite number.
        factor: at least 0.
        at: rising times above 0, in the unit of ``by``.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.multistep(start=1.0, factor=0.5, at=[30, 60])([29, 30, 60])
        array([1.  , 0.5 , 0.25])
    """
    base = expression(check_number("factor", factor))
    return check_finite("start", start) * base ** count(time(by), check_rising("at", at))


@named
def staircase_linear(
    start: float, fraction: float, every: float, length: float, by: Unit = "step"
) -> Expression:
    """A straight fall in steps: in all by a ``fraction`` of ``start`` over ``length``, then held.

    ``start * (1 - fraction * floor(t / every) * every / length)`` with t at most ``length``.

    Args:
        start, fraction: any finite numbers.
        every: how long a step is, above 0, in the unit of ``by``.
        length: above 0, in the unit of ``by``.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.staircase_linear(start=1.0, fraction=0.5, every=10, length=40)([9, 10, 99])
        array([1.   , 0.875, 0.5  ])
    """
    t = minimum(time(by), check_positive("length", length))
    passed = floor(t / check_positive("every", every)) * every / length
    return check_finite("start", start) * (1 - check_finite("fraction", fraction) * passed)


@named
def piecewise(values: Sequence[float], at: Sequence[float], by: Unit = "step") -> Expression:
    """One value after another.

    Args:
        values: any finite numbers, one more than there are boundaries.
        at: rising times above 0 where the next value begins, in the unit of ``by``.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.piecewise([1.0, 0.5, 0.1], at=[30, 60])([29, 30, 60])
        array([1. , 0.5, 0.1])

    In Keras' PiecewiseConstantDecay the boundary itself belongs to the earlier value.
    """
    numbers, boundaries = _numbers("values", values), check_rising("at", at)
    if len(numbers) != len(boundaries) + 1:
        raise ValueError(
            f"values must be one more than the times in at, not {len(numbers)} for "
            f"{len(boundaries)}"
        )
    return look_up(count(time(by), boundaries), numbers)


@named
def interpolate(
    points: Sequence[tuple[float, float]],
    kind: Literal["linear", "cosine"] = "linear",
    by: Unit = "step",
) -> Expression:
    """Through given points; the first and the last value are held beyond them.

    Args:
        points: two or more pairs (time, value), in the unit of ``by``; times rise from 0 or later.
        kind: "linear", or "cosine" for half a cosine wave between points.
        by: what the times are: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.interpolate([(0, 0.0), (10, 1.0), (20, 0.5)])([5, 10, 15, 99])
        array([0.5 , 1.  , 0.75, 0.5 ])
    """
    check_choice("kind", kind, ("linear", "cosine"))
    for k, point in enumerate(check_list("points", points, 2)):
        if len(check_list(f"points[{k}]", point, 2)) != 2:
            raise ValueError(f"points[{k}] must be a pair (time, value), not {point!r}")
    times = [check_number(f"points[{k}][0]", t) for k, (t, _) in enumerate(points)]
    values = [check_finite(f"points[{k}][1]", value) for k, (_, value) in enumerate(points)]
    if any(a >= b for a, b in pairwise(times)):
        raise ValueError(f"points must rise in time from each to the next, not {points!r}")
    t = time(by)
    i = clip(count(t, times) - 1, 0, len(points) - 2)
    left, right = look_up(i, times), look_up(i + 1, times)
    x = clip((t - left) / (right - left), 0, 1)
    weight = x if kind == "linear" else cosine_weight(1 - x)
    begin, end = look_up(i, values), look_up(i + 1, values)
    return begin + (end - begin) * weight


@named
def table(values: Sequence[float], by: Unit = "step") -> Expression:
    """A value for every step; the last one is held.

    ``values[min(floor(t), n - 1)]``.

    Args:
        values: one or more finite numbers.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.table([0.3, 0.2, 0.1])([0, 1, 99])
        array([0.3, 0.2, 0.1])
    """
    return look_up(time(by), _numbers("values", values))


@named
def sequence(pieces: Sequence[Expression], at: Sequence[float], by: Unit = "step") -> Expression:
    """One curve after another, each with its time counted from 0.

    Args:
        pieces: expressions or numbers, one more than there are boundaries.
        at: rising times above 0 where the next piece begins, in the unit of ``by``.
        by: "step", "samples" or "epoch": what ``at`` is, and the input that is counted from 0 in
            each piece. Other inputs that a piece reads stay as they are.

    Example:
        >>> import fusestep as fs
        >>> lr = fs.schedules.sequence([0.5, fs.schedules.linear(1.0, 0.0, length=10)], at=[100])
        >>> lr([99, 100, 105])
        array([0.5, 1. , 0.5])
    """
    boundaries = check_rising("at", at)
    if len(check_list("pieces", pieces, 1)) != len(boundaries) + 1:
        raise ValueError(
            f"pieces must be one more than the times in at, not {len(pieces)} for {len(boundaries)}"
        )
    t = time(by)
    nodes: list[Any] = [constant_or_expression(piece) for piece in pieces]
    if any(node is None for node in nodes):
        raise TypeError(f"pieces must be expressions and numbers, not {pieces!r}")
    result: Expression = nodes[0]
    for piece, boundary in zip(nodes[1:], boundaries, strict=True):
        result = where(t < boundary, result, substituted(piece, {by: since(t, boundary)}))
    return result
