"""Curves without an end, and the constant one."""

from __future__ import annotations

from ..arguments import check_finite, check_flag, check_number, check_positive
from ..clock import Unit
from ..expression import Expression, maximum, minimum
from ..expression.nodes import Operation, expression, time
from ..expression.vocabulary import named


@named
def constant(value: float) -> Expression:
    """The same value at all times.

    >>> import fusestep as fs
    >>> fs.schedules.constant(0.1)(1000)
    0.1
    """
    return expression(check_finite("value", value))


@named
def exponential(
    start: float,
    rate: float,
    every: float = 1,
    staircase: bool = False,
    floor: float | None = None,
    by: Unit = "step",
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
    exponent = Operation("floor", (spans,)) if check_flag("staircase", staircase) else spans
    value = check_finite("start", start) * expression(check_positive("rate", rate)) ** exponent
    return value if floor is None else maximum(value, check_finite("floor", floor))


@named
def inverse_time(
    start: float, timescale: float, power: float = 1.0, staircase: bool = False, by: Unit = "step"
) -> Expression:
    """Falls like one over time: half of ``start`` when ``timescale`` has passed.

    ``start / (1 + t / timescale)^power``; with ``staircase`` the quotient is rounded down.

    Args:
        start: any finite number.
        timescale: above 0, in the unit of ``by``.
        power: at least 0.
        staircase: stay at a value until the next whole multiple of ``timescale``.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.inverse_time(start=1.0, timescale=10)(30)
        0.25

    Source: Robbins and Monro, "A stochastic approximation method", 1951, for the condition that
    powers in (1/2, 1] fulfil.
    """
    spans = time(by) / check_positive("timescale", timescale)
    passed = Operation("floor", (spans,)) if check_flag("staircase", staircase) else spans
    return check_finite("start", start) / (1 + passed) ** check_number("power", power)


@named
def inverse_offset(start: float, offset: float, by: Unit = "step") -> Expression:
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
def inverse_sqrt(peak: float, timescale: float, by: Unit = "step") -> Expression:
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
def noam(dim: float, warmup: float, scale: float = 1.0, by: Unit = "step") -> Expression:
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
def power(scale: float, exponent: float, cap: float | None = None, by: Unit = "step") -> Expression:
    """A power of time: ``scale * max(t, 1)^exponent``, at most ``cap``.

    Args:
        scale, exponent: any finite numbers.
        cap: the largest value, or None.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.power(scale=4.0, exponent=-0.5, cap=1.0)([1, 64])
        array([1. , 0.5])

    Source: Shen et al., "Power scheduler: a batch size and token number agnostic learning rate
    scheduler", 2024, by samples and with a warm-up.
    """
    base = maximum(time(by), 1)
    value = check_finite("scale", scale) * base ** check_finite("exponent", exponent)
    return value if cap is None else minimum(value, check_finite("cap", cap))
