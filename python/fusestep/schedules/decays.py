"""Curves that fall smoothly, and the constant one."""

from __future__ import annotations

from typing import Any

from ..arguments import check_finite, check_number, check_positive
from ..expression import Expression, cospi, floor, maximum, minimum
from ..expression.nodes import Operation, expression, time
from ..expression.vocabulary import named


def progress(length: float, by: str) -> Expression:
    """How much of a length has passed: from 0 to 1, then 1."""
    return minimum(time(by) / check_positive("length", length), 1)


def between(start: float, end: float, weight: Expression) -> Expression:
    """``start`` where the weight is 1, ``end`` where it is 0."""
    first, last = (expression(check_finite(n, v)) for n, v in (("start", start), ("end", end)))
    return last + (first - last) * weight


@named
def constant(value: float) -> Expression:
    """The same value at all times.

    >>> import fusestep as fs
    >>> fs.schedules.constant(0.1)(1000)
    0.1
    """
    return expression(check_finite("value", value))


@named
def linear(start: float, end: float, length: float, by: str = "step") -> Expression:
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
    return between(end, start, progress(length, by))


@named
def polynomial(
    start: float,
    end: float = 0.0,
    *,
    length: float,
    power: float = 1.0,
    cycle: bool = False,
    by: str = "step",
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
    check_number("power", power)
    x = progress(length, by)
    if cycle:
        t = time(by) / length
        x = t / maximum(-floor(-t), 1)
    return between(start, end, (1 - x) ** power)


@named
def exponential(
    start: float,
    rate: float,
    every: float = 1,
    staircase: bool = False,
    floor: float | None = None,
    by: str = "step",
) -> Expression:
    """Multiplied by ``rate`` in every span of ``every``, smoothly or in steps.

    ``start * rate^(t / every)``; with ``staircase`` the exponent is rounded down.

    Args:
        start: any finite number.
        rate: above 0; below 1 the curve falls.
        every: above 0, in the unit of ``by``.
        staircase: stay at a value for the whole span.
        floor: the least value, or None.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.exponential(start=1.0, rate=0.5, every=10)(20)
        0.25
    """
    spans = time(by) / check_positive("every", every)
    exponent = Operation("floor", (spans,)) if staircase else spans
    value = check_finite("start", start) * expression(check_positive("rate", rate)) ** exponent
    return value if floor is None else maximum(value, check_finite("floor", floor))


@named
def inverse_time(
    start: float, scale: float, power: float = 1.0, staircase: bool = False, by: str = "step"
) -> Expression:
    """Falls like one over time: half of ``start`` when ``scale`` has passed.

    ``start / (1 + t / scale)^power``; with ``staircase`` the quotient is rounded down.

    Args:
        start: any finite number.
        scale: above 0, in the unit of ``by``.
        power: at least 0.
        staircase: stay at a value until the next whole multiple of ``scale``.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.inverse_time(start=1.0, scale=10)(30)
        0.25

    Source: Robbins and Monro, "A stochastic approximation method", 1951, for the condition that
    powers in (1/2, 1] fulfil.
    """
    spans = time(by) / check_positive("scale", scale)
    passed = floor(spans) if staircase else spans
    return check_finite("start", start) / (1 + passed) ** check_number("power", power)


@named
def inverse_offset(start: float, offset: float, by: str = "step") -> Expression:
    """Rises to ``start`` from below: ``start - offset / max(t, 1)``.

    Args:
        start, offset: any finite numbers; the first value is ``start - offset``.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.inverse_offset(start=1.0, offset=0.5)(2)
        0.75
    """
    return check_finite("start", start) - check_finite("offset", offset) / maximum(time(by), 1)


@named
def cosine(
    start: float, end: float = 0.0, *, length: float, exponent: float = 1.0, by: str = "step"
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
    return between(start, end, cosine_weight(progress(length, by)) ** _power(exponent))


def cosine_weight(x: Expression) -> Expression:
    """(1 + cos(pi x)) / 2, without the cancellation near x = 1."""
    return cospi(x * 0.5) ** 2


def _power(exponent: float) -> float:
    return check_number("exponent", exponent)


@named
def inverse_sqrt(peak: float, timescale: float, by: str = "step") -> Expression:
    """``peak`` for the length of ``timescale``, then falling like one over the root of time.

    ``peak / sqrt(max(t, timescale) / timescale)``.

    Args:
        peak: any finite number.
        timescale: above 0, in the unit of ``by``.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.inverse_sqrt(peak=1.0, timescale=100)(400)
        0.5
    """
    scale = check_positive("timescale", timescale)
    return check_finite("peak", peak) / (maximum(time(by), scale) / scale) ** 0.5


@named
def noam(dim: float, warmup: float, scale: float = 1.0, by: str = "step") -> Expression:
    """The schedule of the first Transformer: a straight rise, then one over the root of time.

    ``scale * dim^-0.5 * min(n^-0.5, n * warmup^-1.5)`` with ``n = t + 1``.

    Args:
        dim: the width of the model, above 0.
        warmup: above 0, in the unit of ``by``; the peak is at ``t = warmup - 1``.
        scale: any finite number.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.noam(dim=256, warmup=4)(3)
        0.03125

    Source: Vaswani et al., "Attention is all you need", 2017.
    """
    n = time(by) + 1
    width, rise = (check_positive(k, v) for k, v in (("dim", dim), ("warmup", warmup)))
    falling, rising = n**-0.5, n * expression(rise) ** -1.5
    return check_finite("scale", scale) * expression(width) ** -0.5 * minimum(falling, rising)


@named
def tanh(
    start: float,
    end: float,
    length: float,
    lower: float = -7.0,
    upper: float = 3.0,
    by: str = "step",
) -> Expression:
    """A hyperbolic tangent: flat, a fall, flat again.

    ``end + (start - end) * (1 - tanh(lower * (1 - x) + upper * x)) / 2`` with
    ``x = min(t / length, 1)``. It begins a little below ``start`` and stops a little above ``end``.

    Args:
        start, end: any finite numbers.
        length: above 0, in the unit of ``by``.
        lower, upper: the part of the tangent that is used; ``lower`` below ``upper``.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.tanh(start=1.0, end=0.0, length=10)(7)
        0.5

    Source: Hsueh et al., "Stochastic gradient descent with hyperbolic-tangent decay on
    classification", 2019; the form is timm's.
    """
    if not check_finite("lower", lower) < check_finite("upper", upper):
        raise ValueError(f"lower must be below upper, not lower={lower!r}, upper={upper!r}")
    x = progress(length, by)
    bent = Operation("tanh", (lower * (1 - x) + upper * x,))
    return between(start, end, (1 - bent) / 2)


@named
def rex(start: float, end: float, length: float, by: str = "step") -> Expression:
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
    left = 1 - progress(length, by)
    return between(start, end, left / (0.5 + left / 2))


@named
def power(a: float, b: float, cap: float | None = None, by: str = "step") -> Expression:
    """A power of time: ``a * max(t, 1)^b``, at most ``cap``.

    Args:
        a, b: any finite numbers.
        cap: the largest value, or None.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.power(a=4.0, b=-0.5, cap=1.0)([1, 64])
        array([1. , 0.5])

    Source: Shen et al., "Power scheduler: a batch size and token number agnostic learning rate
    scheduler", 2024, by samples and with a warm-up.
    """
    value: Any = check_finite("a", a) * maximum(time(by), 1) ** check_finite("b", b)
    return value if cap is None else minimum(value, check_finite("cap", cap))
