"""Curves that come back: restarts, cycles, random values."""

from __future__ import annotations

import math
from decimal import Context, Decimal, localcontext
from itertools import pairwise
from typing import Literal

from ..arguments import (
    check_choice,
    check_finite,
    check_flag,
    check_number,
    check_positive,
    check_whole,
)
from ..clock import Unit
from ..expression import Expression, exp, floor, log, minimum, where
from ..expression.nodes import Operation, expression, time
from ..expression.vocabulary import NEEDED, named
from .pieces import count, look_up
from .ramps import between, check_ends, cosine_weight, since

_MOST_CYCLES = 4096
_LAST_TIME = 2**53


@named
def cosine_restarts(
    start: float,
    end: float = 0.0,
    length: float = NEEDED,
    t_mult: float = 1,
    factor: float = 1.0,
    by: Unit = "step",
) -> Expression:
    """Cosine curves from ``start`` to ``end``, one after another.

    Cycle i is ``length * t_mult^i`` long and begins at ``start * factor^i``. The boundaries are
    known exactly, so every cycle begins at its first value.

    Args:
        start, end: any finite numbers.
        length: of the first cycle, above 0, in the unit of ``by``.
        t_mult: each cycle is that many times longer than the one before: 1, or at least 1.01.
        factor: at least 0; each cycle begins at that many times the start before.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> lr = fs.schedules.cosine_restarts(start=1.0, length=10, t_mult=2)
        >>> lr([0, 5, 10, 20, 30])
        array([1. , 0.5, 1. , 0.5, 1. ])

    Source: Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017.
    """
    shrink = expression(check_number("factor", factor))
    cycle, x = restarts(
        time(by), check_positive("length", length), check_number("t_mult", t_mult, 1)
    )
    last = expression(check_finite("end", end))
    highest = check_finite("start", start) * (shrink**cycle if factor != 1 else expression(1))
    return last + (highest - last) * cosine_weight(x)


def restarts(t: Expression, length: float, t_mult: float) -> tuple[Expression, Expression]:
    """The number of the cycle that ``t`` is in, from 0, and how much of it has passed."""
    if t_mult == 1:
        cycle = floor(t / length)
        begin, duration = cycle * length, expression(length)
    else:
        begins, durations = _cycles(length, t_mult)
        cycle = count(t, [_double_from(begin) for begin in begins]) - 1
        begin, duration = _look_up_exact(cycle, begins), _look_up_exact(cycle, durations)
    return cycle, minimum(since(t, begin) / duration, 1)


def _cycles(length: float, t_mult: float) -> tuple[list[Decimal], list[Decimal]]:
    """Where cycles begin and how long they are, to 100 digits, as far as a clock can go."""
    with localcontext(Context(prec=100)):
        begins, durations = [Decimal(0)], [Decimal(length)]
        while begins[-1] + durations[-1] < _LAST_TIME:
            begins.append(begins[-1] + durations[-1])
            durations.append(durations[-1] * Decimal(t_mult))
            if len(begins) > _MOST_CYCLES:
                raise ValueError(f"t_mult must be 1 or at least 1.01, not {t_mult!r}")
    return begins, durations


def _double_from(number: Decimal) -> float:
    """The smallest double that is not below a number."""
    nearest = float(number)
    return nearest if Decimal(nearest) >= number else math.nextafter(nearest, math.inf)


def _look_up_exact(index: Expression, numbers: list[Decimal]) -> Expression:
    """A number at an index, in twice double's precision."""
    high = [float(number) for number in numbers]
    with localcontext(Context(prec=100)):
        low = [float(number - Decimal(h)) for number, h in zip(numbers, high, strict=True)]
    return look_up(index, high) + look_up(index, low) if any(low) else look_up(index, high)


@named
def one_cycle(
    peak: float,
    total: float,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    anneal_strategy: Literal["cosine", "linear"] = "cosine",
    three_phase: bool = False,
    by: Unit = "step",
) -> Expression:
    """One rise to a high peak and one long fall far below the start.

    From ``peak / div_factor`` at 0 to ``peak`` at ``pct_start * total - 1``, then to
    ``peak / div_factor / final_div_factor`` at ``total - 1``, held from then on. With
    ``three_phase`` it falls to the first value at ``2 * pct_start * total - 2``, then to the last.

    Args:
        peak: any finite number.
        total: the whole length, in the unit of ``by``.
        pct_start: the fraction of it that rises; ``pct_start * total`` must be above 1.
        div_factor, final_div_factor: above 0.
        anneal_strategy: "cosine" or "linear" between those values.
        three_phase: as said above; the rise and the first fall must end before the last.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.one_cycle(peak=1.0, total=10)([0, 2, 9])
        array([4.e-02, 1.e+00, 4.e-06])

    Source: Smith and Topin, "Super-convergence", 2019; phases and words are those of torch's
    OneCycleLR, which fails after ``total``.
    """
    check_choice("anneal_strategy", anneal_strategy, ("cosine", "linear"))
    high = expression(check_finite("peak", peak))
    first = high / check_positive("div_factor", div_factor)
    last = first / check_positive("final_div_factor", final_div_factor)
    up = check_positive("pct_start", pct_start) * check_positive("total", total) - 1
    three = check_flag("three_phase", three_phase)
    ends = [0.0, up, 2 * up, total - 1.0] if three else [0.0, up, total - 1.0]
    if any(a >= b for a, b in pairwise(ends)):
        raise ValueError(
            f"pct_start * total must be above 1 and leave time to fall, not "
            f"pct_start={pct_start!r}, total={total!r}"
        )
    values = [first, high, first, last] if three else [first, high, last]
    t = time(by)
    result = values[-1]
    for k in reversed(range(len(ends) - 1)):
        x = since(t, ends[k]) / (expression(ends[k + 1]) - ends[k])
        weight = 1 - x if anneal_strategy == "linear" else cosine_weight(x)
        phase = values[k + 1] + (values[k] - values[k + 1]) * weight
        result = where(t < ends[k + 1], phase, result)
    return result


@named
def cyclic(
    low: float,
    high: float,
    up: float,
    down: float | None = None,
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
    gamma: float = 1.0,
    by: Unit = "step",
) -> Expression:
    """Straight from ``low`` to ``high`` and back, again and again.

    ``low + (high - low) * h * scale``, where h rises from 0 to 1 over ``up`` and falls back over
    ``down``. The scale is 1 for "triangular", halves with every cycle for "triangular2", and is
    ``gamma^t`` for "exp_range".

    Args:
        low, high: any finite numbers.
        up, down: above 0, in the unit of ``by``; ``down`` None is as long as ``up``.
        mode: "triangular", "triangular2" or "exp_range".
        gamma: above 0; for "exp_range".
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> fs.schedules.cyclic(low=0.0, high=1.0, up=4)([0, 2, 4, 6, 8])
        array([0. , 0.5, 1. , 0.5, 0. ])

    Source: Smith, "Cyclical learning rates for training neural networks", 2017; torch's CyclicLR.
    """
    check_choice("mode", mode, ("triangular", "triangular2", "exp_range"))
    rise = check_positive("up", up)
    fall = rise if down is None else check_positive("down", down)
    t = time(by)
    total = expression(rise) + fall
    cycle = floor(t / total)
    within = since(t, cycle * total)
    height = minimum(within / rise, (total - within) / fall)
    base = expression(check_positive("gamma", gamma))
    scales = {"triangular": expression(1), "triangular2": expression(0.5) ** cycle}
    check_ends(low=low, high=high)
    return between(high, low, height * scales.get(mode, base**t))


@named
def random(
    low: float,
    high: float,
    distribution: Literal["uniform", "loguniform"] = "uniform",
    every: float = 1,
    seed: int = 0,
    by: Unit = "step",
) -> Expression:
    """A random value that depends on the seed and the time alone.

    Number ``floor(t / every)`` of a counter-based generator (Philox4x32-10), so any order of
    evaluation, and a run that was stopped and resumed, see the same values.

    Args:
        low, high: the values lie between them.
        distribution: "uniform", or "loguniform", for which both must be above 0.
        every: how long a value is kept, above 0, in the unit of ``by``.
        seed: a whole number from 0 to 2^63 - 1.
        by: what ``t`` is: "step", "samples" or "epoch".

    Example:
        >>> import fusestep as fs
        >>> lr = fs.schedules.random(low=0.0, high=1.0, every=10, seed=1)
        >>> lr(0) == lr(9), lr(9) == lr(10)
        (True, False)

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
    """
    check_choice("distribution", distribution, ("uniform", "loguniform"))
    logarithmic = distribution == "loguniform"
    for name, value in (("low", low), ("high", high)):
        check_positive(name, value) if logarithmic else check_finite(name, value)
    if not low < high:
        raise ValueError(f"low must be below high, not low={low!r}, high={high!r}")
    number = check_whole("seed", seed, 0)
    index = time(by) / check_positive("every", every)
    uniform = Operation("random", (index, number % 2**32, number // 2**32))
    if logarithmic:
        return low * exp(uniform * log(expression(high) / low))
    return low + (expression(high) - low) * uniform
