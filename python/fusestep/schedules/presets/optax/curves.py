"""Those that are one formula of the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, TypeAlias

from ....arguments import (
    check_choice,
    check_finite,
    check_flag,
    check_list,
    check_number,
    check_positive,
    check_whole,
)
from ....expression import Expression, maximum, minimum
from ... import decays, pieces, ramps
from ..base import preset

Scales: TypeAlias = Mapping[int, float] | Sequence[Sequence[float]]


def _begun(curve: Expression, transition_begin: float) -> Expression:
    """The curve from ``transition_begin`` on; a negative one counts as 0."""
    begin = check_finite("transition_begin", transition_begin)
    return curve.shifted(begin) if begin > 0 else curve


@preset
def constant_schedule(value: float) -> Expression:
    """Always ``value``, any finite number.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.optax.constant_schedule(0.1)(1000)
        0.1
    """
    return decays.constant(check_finite("value", value))


@preset
def polynomial_schedule(
    init_value: float,
    end_value: float,
    power: float,
    transition_steps: float,
    transition_begin: float = 0,
) -> Expression:
    """A power of what is left, from ``init_value`` to ``end_value``, held.

    ``end_value + (init_value - end_value) * (1 - x)^power`` with x from 0 at ``transition_begin``
    to 1 after ``transition_steps``.

    Args:
        init_value, end_value: any finite numbers.
        power: at least 0.
        transition_steps: any finite number; 0 or less is ``init_value`` for ever.
        transition_begin: any finite number; below 0 counts as 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.optax.polynomial_schedule(1.0, 0.0, power=2, transition_steps=10)([0, 5, 10])
        array([1.  , 0.25, 0.  ])
    """
    first, last = check_finite("init_value", init_value), check_finite("end_value", end_value)
    check_number("power", power)
    check_finite("transition_begin", transition_begin)
    if check_finite("transition_steps", transition_steps) <= 0:
        return decays.constant(first)
    curve = ramps.polynomial(first, last, length=transition_steps, power=power)
    return _begun(curve, transition_begin)


@preset
def linear_schedule(
    init_value: float, end_value: float, transition_steps: float, transition_begin: float = 0
) -> Expression:
    """A straight line from ``init_value`` to ``end_value``, held.

    Args:
        init_value, end_value: any finite numbers.
        transition_steps: any finite number; 0 or less is ``init_value`` for ever.
        transition_begin: where it begins, any finite number; below 0 counts as 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.optax.linear_schedule(1.0, 0.2, transition_steps=4)([0, 2, 4, 9])
        array([1. , 0.6, 0.2, 0.2])
    """
    first, last = check_finite("init_value", init_value), check_finite("end_value", end_value)
    check_finite("transition_begin", transition_begin)
    if check_finite("transition_steps", transition_steps) <= 0:
        return decays.constant(first)
    return _begun(ramps.linear(first, last, length=transition_steps), transition_begin)


@preset
def piecewise_constant_schedule(
    init_value: float, boundaries_and_scales: Scales | None = None
) -> Expression:
    """``init_value`` times the scales of all boundaries that have come.

    Args:
        init_value: any finite number.
        boundaries_and_scales: times above 0, and scales of at least 0: a dict, or pairs.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.optax.piecewise_constant_schedule(1.0, {5: 0.5, 20: 0.1})([4, 5, 20])
        array([1.  , 0.5 , 0.05])
    """
    points = _points(init_value, boundaries_and_scales)
    return pieces.piecewise([value for _, value in points], at=[time for time, _ in points[1:]])


@preset
def piecewise_interpolate_schedule(
    interpolate_type: Literal["linear", "cosine"],
    init_value: float,
    boundaries_and_scales: Scales | None = None,
) -> Expression:
    """Through the values of `piecewise_constant_schedule` at their boundaries, held at the last.

    Args:
        interpolate_type: "linear", or "cosine" for half a wave between boundaries.
        init_value: any finite number.
        boundaries_and_scales: times above 0, and scales of at least 0: a dict, or pairs.

    Example:
        >>> from fusestep.schedules import presets
        >>> lr = presets.optax.piecewise_interpolate_schedule("linear", 1.0, {10: 0.5, 20: 2.0})
        >>> lr([0, 5, 10, 15, 99])
        array([1.  , 0.75, 0.5 , 0.75, 1.  ])
    """
    check_choice("interpolate_type", interpolate_type, ("linear", "cosine"))
    points = _points(init_value, boundaries_and_scales)
    if len(points) == 1:
        return decays.constant(init_value)
    return pieces.interpolate(points, kind=interpolate_type)


def _points(init_value: float, boundaries_and_scales: Any) -> list[tuple[float, float]]:
    """The times and the values there, from 0."""
    name, pairs = "boundaries_and_scales", boundaries_and_scales
    pairs = [] if pairs is None else [*pairs.items()] if isinstance(pairs, Mapping) else pairs
    points = [(0.0, check_finite("init_value", init_value))]
    for i, pair in enumerate(check_list(name, pairs, 0)):
        if len(check_list(f"{name}[{i}]", pair, 2)) != 2:
            raise ValueError(f"{name}[{i}] must be a time and a scale, not {pair!r}")
    scales = {check_positive(name, time): check_number(name, scale) for time, scale in pairs}
    for time, scale in sorted(scales.items()):
        points.append((time, points[-1][1] * scale))
    return points


@preset
def exponential_decay(
    init_value: float,
    transition_steps: float,
    decay_rate: float,
    transition_begin: float = 0,
    staircase: bool = False,
    end_value: float | None = None,
) -> Expression:
    """``init_value * decay_rate^((t - transition_begin) / transition_steps)`` from that time on.

    Args:
        init_value: any finite number.
        transition_steps: any finite number; 0 or less is ``init_value`` for ever.
        decay_rate: at least 0; 0 is ``init_value`` for ever.
        transition_begin: any finite number; below 0 counts as 0.
        staircase: round the exponent down.
        end_value: the least value where ``decay_rate`` is below 1, else the largest; or None.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.optax.exponential_decay(1.0, 10, 0.5, end_value=0.2)([0, 20, 99])
        array([1.  , 0.25, 0.2 ])
    """
    first, rate = check_finite("init_value", init_value), check_number("decay_rate", decay_rate)
    check_flag("staircase", staircase)
    check_finite("transition_begin", transition_begin)
    end = None if end_value is None else check_finite("end_value", end_value)
    if check_finite("transition_steps", transition_steps) <= 0 or rate == 0:
        return decays.constant(first)
    curve = decays.exponential(first, rate, every=transition_steps, staircase=staircase)
    curve = _begun(curve, transition_begin)
    if end is None:
        return curve
    return maximum(curve, end) if rate < 1 else minimum(curve, end)


@preset
def cosine_decay_schedule(
    init_value: float, decay_steps: float, alpha: float = 0.0, exponent: float = 1.0
) -> Expression:
    """Half a cosine wave from ``init_value`` to ``alpha * init_value``, held.

    ``init_value * (alpha + (1 - alpha) * ((1 + cos(pi x)) / 2)^exponent)``.

    Args:
        init_value, alpha: any finite numbers.
        decay_steps: above 0.
        exponent: at least 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.optax.cosine_decay_schedule(1.0, 10, alpha=0.2)([0, 5, 10, 11])
        array([1. , 0.6, 0.2, 0.2])
    """
    return check_finite("init_value", init_value) * ramps.cosine(
        1.0,
        check_finite("alpha", alpha),
        length=check_positive("decay_steps", decay_steps),
        exponent=check_number("exponent", exponent),
    )


@preset
def linear_onecycle_schedule(
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Expression:
    """Straight lines from ``peak_value / div_factor`` to the peak, back, and far below, held.

    The lines meet at ``pct_start``, ``pct_final`` and 1 of ``transition_steps``, rounded down; the
    last value is the first over ``final_div_factor``. torch's peak is an update earlier.

    Args:
        transition_steps: a whole number.
        peak_value: any finite number.
        pct_start, pct_final: in (0, 1); the three times must differ.
        div_factor, final_div_factor: above 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.optax.linear_onecycle_schedule(10, 1.0, div_factor=10)([0, 3, 8, 10])
        array([1.e-01, 1.e+00, 1.e-01, 1.e-05])
    """
    total = check_whole("transition_steps", transition_steps, 1)
    peak, div = check_finite("peak_value", peak_value), check_positive("div_factor", div_factor)
    first, final = peak / div, check_positive("final_div_factor", final_div_factor)
    rise = int(check_number("pct_start", pct_start, 0, 1) * total)
    back = int(check_number("pct_final", pct_final, 0, 1) * total)
    _check_times(pct_start=pct_start, pct_final=pct_final, times=[rise, back, total])
    return pieces.interpolate([(0, first), (rise, peak), (back, first), (total, first / final)])


@preset
def cosine_onecycle_schedule(
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Expression:
    """Half cosine waves from ``peak_value / div_factor`` to the peak and far below, held.

    The peak is at ``pct_start * transition_steps``, rounded down, and the end at
    ``transition_steps``: each an update later than torch's. The last value is the first over
    ``div_factor * final_div_factor``, where torch divides by the second alone.

    Args:
        transition_steps: a whole number.
        peak_value: any finite number.
        pct_start: in (0, 1); the peak must be after the start.
        div_factor, final_div_factor: above 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.optax.cosine_onecycle_schedule(10, 1.0, div_factor=10)([0, 3, 10])
        array([1.e-01, 1.e+00, 1.e-05])
    """
    total = check_whole("transition_steps", transition_steps, 1)
    peak, div = check_finite("peak_value", peak_value), check_positive("div_factor", div_factor)
    final = check_positive("final_div_factor", final_div_factor)
    rise = int(check_number("pct_start", pct_start, 0, 1) * total)
    _check_times(pct_start=pct_start, times=[rise, total])
    points = [(0, peak / div), (rise, peak), (total, peak / (div * final))]
    return pieces.interpolate(points, kind="cosine")


def _check_times(times: list[int], **fractions: float) -> None:
    if any(a >= b for a, b in pairwise([0, *times])):
        given = ", ".join(f"{name}={value!r}" for name, value in fractions.items())
        raise ValueError(f"phases must be a step long or more, not {given} of transition_steps")
