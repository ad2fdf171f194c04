"""Curves that begin with a rise. A total includes its warm-up."""

from __future__ import annotations

from typing import Literal

from ..arguments import check_choice, check_finite, check_number, check_positive
from ..clock import Unit
from ..expression import Expression, clip, exp, log, minimum, sqrt, where
from ..expression.nodes import expression, time
from ..expression.vocabulary import named
from .ramps import between, check_ends, cosine_weight, since


@named
def warmup(
    length: float,
    start: float = 0.0,
    shape: Literal["linear", "cosine", "exponential"] = "linear",
    by: Unit = "step",
) -> Expression:
    """A factor that rises from ``start`` to 1: multiply any curve by it.

    With ``x = min(t / length, 1)``: "linear" is ``start + (1 - start) * x``; "cosine" is
    ``start + (1 - start) * (1 - cos(pi x)) / 2``; "exponential" is ``start^(1 - x)``.

    Args:
        length: at least 0, in the unit of ``by``; 0 is no warm-up.
        start: any finite number; above 0 for "exponential".
        shape: "linear", "cosine" or "exponential".
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> lr = fs.schedules.warmup(4) * fs.schedules.cosine(start=1.0, length=100)
        >>> lr([0, 2, 100])
        array([0.        , 0.49950668, 0.        ])
    """
    check_choice("shape", shape, ("linear", "cosine", "exponential"))
    check_finite("start", start)
    t = time(by)
    if check_number("length", length) == 0:
        return expression(1)
    x = minimum(t / length, 1)
    if shape == "exponential":
        return expression(check_positive("start", start)) ** (1 - x)
    return between(1, start, x if shape == "linear" else cosine_weight(1 - x))


def _after_warmup(
    peak: float, warmup: float, start: float, later: Expression, by: Unit
) -> Expression:
    """A straight line from ``start`` to ``peak``, then another expression."""
    check_ends(peak=peak, start=start)
    if check_number("warmup", warmup) == 0:
        return later
    t = time(by)
    return where(t < warmup, between(peak, start, t / warmup), later)


def _decay(warmup: float, total: float, by: Unit) -> Expression:
    """How much of the time after the warm-up has passed, 1 at the end; not for before it."""
    if not check_number("warmup", warmup) < check_number("total", total):
        raise ValueError(
            f"total includes the warm-up and must be greater, not warmup={warmup!r}, "
            f"total={total!r}"
        )
    return minimum(since(time(by), warmup) / (expression(total) - warmup), 1)


@named
def warmup_cosine(
    peak: float,
    warmup: float,
    total: float,
    end: float = 0.0,
    start: float = 0.0,
    by: Unit = "step",
) -> Expression:
    """A straight rise to ``peak``, then half a cosine wave down to ``end``, held from then on.

    ``start + (peak - start) * t / warmup`` before ``warmup``; then
    ``end + (peak - end) * (1 + cos(pi x)) / 2`` with x the fraction of the rest that has passed.

    Args:
        peak, end, start: any finite numbers.
        warmup: at least 0, in the unit of ``by``; 0 is no warm-up.
        total: the whole length, above ``warmup``.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.warmup_cosine(peak=1.0, warmup=4, total=10)([0, 2, 4, 7, 10, 99])
        array([0. , 0.5, 1. , 0.5, 0. , 0. ])
    """
    check_ends(peak=peak, end=end)
    falling = between(peak, end, cosine_weight(_decay(warmup, total, by)))
    return _after_warmup(peak, warmup, start, falling, by)


@named
def warmup_linear(
    peak: float,
    warmup: float,
    total: float,
    end: float = 0.0,
    start: float = 0.0,
    by: Unit = "step",
) -> Expression:
    """A straight rise to ``peak``, then a straight fall to ``end``, held from then on.

    ``start + (peak - start) * t / warmup`` before ``warmup``; then ``peak + (end - peak) * x`` with
    ``x = min((t - warmup) / (total - warmup), 1)``.

    Args:
        peak, end, start: any finite numbers.
        warmup: at least 0, in the unit of ``by``; 0 is no warm-up.
        total: the whole length, above ``warmup``.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.warmup_linear(peak=1.0, warmup=4, total=8)([2, 4, 6, 8])
        array([0.5, 1. , 0.5, 0. ])
    """
    check_ends(peak=peak, end=end)
    falling = between(end, peak, _decay(warmup, total, by))
    return _after_warmup(peak, warmup, start, falling, by)


@named
def warmup_constant(
    peak: float, warmup: float, start: float = 0.0, by: Unit = "step"
) -> Expression:
    """A straight rise to ``peak``, which is held.

    Args:
        peak, start: any finite numbers.
        warmup: at least 0, in the unit of ``by``; 0 is no warm-up.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.warmup_constant(peak=1.0, warmup=4)([0, 1, 4, 99])
        array([0.  , 0.25, 1.  , 1.  ])
    """
    check_ends(peak=peak)
    return _after_warmup(peak, warmup, start, expression(peak), by)


@named
def gradual_warmup(base: float, factor: float, length: float, by: Unit = "step") -> Expression:
    """From the rate for one worker to that for several, in equal steps, held from then on.

    ``base + (factor * base - base) * min(t / length, 1)``.

    Args:
        base: any finite number.
        factor: any finite number: how many workers there are.
        length: above 0, in the unit of ``by``; five epochs in the source.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.gradual_warmup(base=0.1, factor=8, length=5, by="epoch")(epoch=2.5)
        0.45

    Source: Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017.
    """
    small = expression(check_finite("base", base))
    x = minimum(time(by) / check_positive("length", length), 1)
    return small + (check_finite("factor", factor) * small - small) * x


@named
def wsd(
    peak: float,
    warmup: float,
    stable: float,
    decay: float,
    start: float = 0.0,
    end: float = 0.0,
    shape: Literal["linear", "cosine", "1-sqrt"] = "linear",
    by: Unit = "step",
) -> Expression:
    """Warm-up, stable, decay: a straight rise, ``peak`` for long, then a short fall, held.

    With x the fraction of the decay that has passed, what remains of ``peak - end`` is ``1 - x``
    for "linear", ``(1 + cos(pi x)) / 2`` for "cosine", ``1 - sqrt(x)`` for "1-sqrt".

    Args:
        peak, end, start: any finite numbers.
        warmup, stable: at least 0, in the unit of ``by``.
        decay: above 0.
        shape: "linear", "cosine" or "1-sqrt".
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.wsd(peak=1.0, warmup=2, stable=4, decay=2)([0, 1, 2, 6, 7, 8])
        array([0. , 0.5, 1. , 1. , 0.5, 0. ])

    Source: Hu et al., "MiniCPM", 2024; "1-sqrt": Hägele et al., "Scaling laws and compute-optimal
    training beyond fixed training durations", 2024.
    """
    check_ends(peak=peak, end=end)
    check_choice("shape", shape, ("linear", "cosine", "1-sqrt"))
    begin = expression(check_number("warmup", warmup)) + check_number("stable", stable)
    x = clip((time(by) - begin) / check_positive("decay", decay), 0, 1)
    left = {"linear": 1 - x, "cosine": cosine_weight(x), "1-sqrt": 1 - sqrt(x)}[shape]
    return _after_warmup(peak, warmup, start, between(peak, end, left), by)


@named
def ademamix_alpha(alpha: float, length: float, by: Unit = "step") -> Expression:
    """AdEMAMix's share of the slow average: a straight rise to ``alpha``, held from then on.

    ``alpha * min(n / length, 1)`` with ``n = t + 1``.

    Args:
        alpha: any finite number; the paper has 5 to 10.
        length: above 0, in the unit of ``by``; the paper has the whole training.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.ademamix_alpha(5.0, length=4)([0, 1, 3, 99])
        array([1.25, 2.5 , 5.  , 5.  ])

    Source: Pagliardini et al., "The AdEMAMix optimizer: better, faster, older", 2024.
    """
    x = minimum((time(by) + 1) / check_positive("length", length), 1)
    return check_finite("alpha", alpha) * x


@named
def ademamix_beta3(beta1: float, beta3: float, length: float, by: Unit = "step") -> Expression:
    """AdEMAMix's slow beta: from near ``beta1`` to ``beta3``, with a half-life that rises evenly.

    ``exp(ln(beta1) ln(beta3) / ((1 - x) ln(beta3) + x ln(beta1)))`` with
    ``x = min(n / length, 1)`` and ``n = t + 1``.

    Args:
        beta1, beta3: between 0 and 1.
        length: above 0, in the unit of ``by``; the paper has the whole training.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.ademamix_beta3(0.9, 0.9999, length=100)([0, 49, 99]).round(5)
        array([0.9909, 0.9998, 0.9999])

    Source: Pagliardini et al., "The AdEMAMix optimizer: better, faster, older", 2024.
    """
    x = minimum((time(by) + 1) / check_positive("length", length), 1)
    first, last = (log(expression(_beta(k, v))) for k, v in (("beta1", beta1), ("beta3", beta3)))
    return exp(first * last / ((1 - x) * last + x * first))


def _beta(name: str, value: float) -> float:
    return check_number(name, value, 5e-324, 1.0, below_upper=True)
