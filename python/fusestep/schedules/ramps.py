"""Curves from one value to another over a length, held from then on."""

from __future__ import annotations

from ..arguments import check_finite, check_flag, check_number, check_positive
from ..clock import Unit
from ..expression import Expression, cospi, maximum, minimum
from ..expression.nodes import Operation, expression, time
from ..expression.vocabulary import NEEDED, named


def progress(length: float, by: Unit) -> Expression:
    """How much of a length has passed: from 0 to 1, then 1."""
    return minimum(time(by) / check_positive("length", length), 1)


def since(t: Expression, begin: float | Expression) -> Expression:
    """The time since a boundary; 0 where rounding alone puts the time before it."""
    return Operation("elapsed", (t, begin))


def between(start: float, end: float, weight: Expression) -> Expression:
    """``start`` where the weight is 1, ``end`` where it is 0."""
    return end + (expression(start) - end) * weight


def check_ends(**values: float) -> None:
    """Raises unless all are finite numbers."""
    for name, value in values.items():
        check_finite(name, value)


def cosine_weight(x: Expression) -> Expression:
    """(1 + cos(pi x)) / 2, without the cancellation near x = 1."""
    return cospi(x * 0.5) ** 2


def tanh_weight(x: Expression, lower: float, upper: float) -> Expression:
    """(1 - tanh) / 2 from ``lower`` to ``upper``: nearly 1 at first and nearly 0 at last."""
    return (1 - Operation("tanh", (lower * (1 - x) + upper * x,))) / 2


@named
def linear(start: float, end: float, length: float, by: Unit = "step") -> Expression:
    """A straight line from ``start`` to ``end``, held from then on.

    ``start + (end - start) * x`` with ``x = min(t / length, 1)``.

    Args:
        start, end: any finite numbers.
        length: above 0, in the unit of ``by``.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.linear(start=1.0, end=0.2, length=4)(2)
        0.6
    """
    check_ends(start=start, end=end)
    return between(end, start, progress(length, by))


@named
def polynomial(
    start: float,
    end: float = 0.0,
    length: float = NEEDED,
    power: float = 1.0,
    cycle: bool = False,
    by: Unit = "step",
) -> Expression:
    """A power of what is left, from ``start`` to ``end``.

    ``end + (start - end) * (1 - x)^power`` with ``x = min(t / length, 1)``. With ``cycle`` the
    length is doubled, tripled and so on whenever ``t`` has passed it, so the curve jumps up and
    falls to ``end`` again.

    Args:
        start, end: any finite numbers.
        length: above 0, in the unit of ``by``.
        power: at least 0.
        cycle: go on after ``length`` as said above; False holds ``end``.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.polynomial(start=1.0, length=10, power=2)(5)
        0.25

    Source: with ``cycle`` it is Keras' PolynomialDecay, which ends at 1e-4 where it is not told.
    """
    check_ends(start=start, end=end)
    check_number("power", power)
    x = progress(length, by)
    if check_flag("cycle", cycle):
        t = time(by) / length
        x = minimum(t / maximum(-Operation("floor", (-t,)), 1), 1)
    return between(start, end, (1 - x) ** power)


@named
def cosine(
    start: float,
    end: float = 0.0,
    length: float = NEEDED,
    exponent: float = 1.0,
    by: Unit = "step",
) -> Expression:
    """Half a cosine wave from ``start`` to ``end``, held from then on.

    ``end + (start - end) * ((1 + cos(pi x)) / 2)^exponent`` with ``x = min(t / length, 1)``.

    Args:
        start, end: any finite numbers; ``end`` is a value, not a fraction of ``start``.
        length: above 0, in the unit of ``by``.
        exponent: at least 0.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.cosine(start=1.0, end=0.2, length=10)(5)
        0.6

    Source: Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017.
    torch's CosineAnnealingLR rises again after its length.
    """
    check_ends(start=start, end=end)
    weight = cosine_weight(progress(length, by)) ** check_number("exponent", exponent)
    return between(start, end, weight)


@named
def tanh(
    start: float,
    end: float,
    length: float,
    lower: float = -7.0,
    upper: float = 3.0,
    by: Unit = "step",
) -> Expression:
    """A hyperbolic tangent: flat, a fall, flat again.

    ``end + (start - end) * (1 - tanh(lower * (1 - x) + upper * x)) / 2`` with
    ``x = min(t / length, 1)``. It begins a little below ``start`` and stops a little above ``end``.

    Args:
        start, end: any finite numbers.
        length: above 0, in the unit of ``by``.
        lower, upper: the range of the tangent that is used; ``lower`` below ``upper``.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.tanh(start=1.0, end=0.0, length=10)(7)
        0.5

    Source: Hsueh et al., "Stochastic gradient descent with hyperbolic-tangent decay on
    classification", 2019; the form is timm's.
    """
    check_ends(start=start, end=end)
    if not check_finite("lower", lower) < check_finite("upper", upper):
        raise ValueError(f"lower must be below upper, not lower={lower!r}, upper={upper!r}")
    return between(start, end, tanh_weight(progress(length, by), lower, upper))


@named
def rex(start: float, end: float, length: float, by: Unit = "step") -> Expression:
    """Falls slowly at first and fast at the end.

    ``end + (start - end) * (1 - x) / (1/2 + (1 - x) / 2)`` with ``x = min(t / length, 1)``.

    Args:
        start, end: any finite numbers.
        length: above 0, in the unit of ``by``.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.rex(start=1.0, end=0.0, length=9)(6)
        0.5

    Source: Chen, Wolfe and Kyrillidis, "REX: revisiting budgeted training with an improved
    schedule", 2022.
    """
    check_ends(start=start, end=end)
    left = 1 - progress(length, by)
    return between(start, end, left / (0.5 + left / 2))
