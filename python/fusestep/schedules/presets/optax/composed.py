"""Those that put one schedule after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ....arguments import check_finite, check_list, check_number, check_rising
from ....expression import Expression, step
from ... import decays, pieces, ramps
from ..base import Factor, after, called, preset
from .curves import exponential_decay


@preset
def warmup_constant_schedule(
    init_value: float, peak_value: float, warmup_steps: float
) -> Expression:
    """A straight line from ``init_value`` to ``peak_value``, held.

    Args:
        init_value, peak_value: any finite numbers.
        warmup_steps: any finite number; 0 or less is ``init_value`` for ever, not ``peak_value``.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.optax.warmup_constant_schedule(0.0, 1.0, 4)([0, 1, 4, 9])
        array([0.  , 0.25, 1.  , 1.  ])
    """
    first, peak = check_finite("init_value", init_value), check_finite("peak_value", peak_value)
    if check_finite("warmup_steps", warmup_steps) <= 0:
        return decays.constant(first)
    return ramps.linear(first, peak, length=warmup_steps)


@preset
def warmup_cosine_decay_schedule(
    init_value: float,
    peak_value: float,
    warmup_steps: float,
    decay_steps: float,
    end_value: float = 0.0,
    exponent: float = 1.0,
) -> Expression:
    """A straight rise to ``peak_value``, then half a cosine wave to ``end_value``, held.

    Args:
        init_value, peak_value, end_value: any finite numbers; where the peak is 0, the end is, too.
        warmup_steps: at least 0; 0 is no warm-up.
        decay_steps: of both, above ``warmup_steps``.
        exponent: at least 0, of what is left of the wave.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.optax.warmup_cosine_decay_schedule(0.0, 1.0, 4, 10)([0, 2, 4, 7, 10])
        array([0. , 0.5, 1. , 0.5, 0. ])
    """
    first, peak = check_finite("init_value", init_value), check_finite("peak_value", peak_value)
    warmup, end = check_number("warmup_steps", warmup_steps), check_finite("end_value", end_value)
    check_number("exponent", exponent)
    if not warmup < check_finite("decay_steps", decay_steps):
        raise ValueError(
            f"decay_steps includes the warm-up and must be greater, not "
            f"warmup_steps={warmup_steps!r}, decay_steps={decay_steps!r}"
        )
    last = end if peak else 0.0
    curve = ramps.cosine(peak, last, length=decay_steps - warmup, exponent=exponent)
    return _risen(first, peak, warmup, curve)


def _risen(first: float, peak: float, warmup: float, later: Expression) -> Expression:
    """A straight line, then another curve in its own time."""
    return after(warmup, ramps.linear(first, peak, length=warmup or 1), later)


@preset
def warmup_exponential_decay_schedule(
    init_value: float,
    peak_value: float,
    warmup_steps: float,
    transition_steps: float,
    decay_rate: float,
    transition_begin: float = 0,
    staircase: bool = False,
    end_value: float | None = None,
) -> Expression:
    """A straight rise to ``peak_value``, then `exponential_decay` in its own time.

    Args:
        init_value, peak_value: any finite numbers.
        warmup_steps: at least 0; 0 is no warm-up.
        transition_steps: not a total: the time in which the rate falls by ``decay_rate``.
        decay_rate, staircase, end_value: see there.
        transition_begin: counted from the end of the warm-up.

    Example:
        >>> from fusestep.schedules import presets
        >>> lr = presets.optax.warmup_exponential_decay_schedule(0.0, 1.0, 4, 10, 0.5)
        >>> lr([0, 2, 4, 14])
        array([0. , 0.5, 1. , 0.5])
    """
    first, peak = check_finite("init_value", init_value), check_finite("peak_value", peak_value)
    warmup = check_number("warmup_steps", warmup_steps)
    falling = exponential_decay(
        peak, transition_steps, decay_rate, transition_begin, staircase, end_value
    )
    return _risen(first, peak, warmup, falling)


@preset
def sgdr_schedule(cosine_kwargs: Sequence[Mapping[str, float]]) -> Expression:
    """`warmup_cosine_decay_schedule` again and again, each with its own arguments.

    Args:
        cosine_kwargs: the arguments of each: dicts, or pairs of name and value. Each begins when
            the ``decay_steps`` of those before have passed.

    Example:
        >>> from fusestep.schedules import presets
        >>> cycle = {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 2, "decay_steps": 4}
        >>> presets.optax.sgdr_schedule([cycle, cycle])([0, 2, 3, 4, 6, 7, 8])
        array([0. , 1. , 0.5, 0. , 1. , 0.5, 0. ])
    """
    try:
        given = [dict(arguments) for arguments in check_list("cosine_kwargs", cosine_kwargs, 1)]
    except (TypeError, ValueError) as error:
        raise TypeError(f"cosine_kwargs must be a list of dicts: {error}") from error
    curves, ends, end = [], [], 0.0
    for i, arguments in enumerate(given):
        try:
            curves.append(warmup_cosine_decay_schedule(**arguments))
        except (TypeError, ValueError) as error:
            raise type(error)(f"cosine_kwargs[{i}]: {error}") from error
        end += arguments["decay_steps"]
        ends.append(end)
    return pieces.sequence(curves, at=ends[:-1])


@preset
def join_schedules(schedules: Sequence[Factor], boundaries: Sequence[float]) -> Expression:
    """One schedule after another, each with its time counted from 0.

    Args:
        schedules: expressions, numbers, or Python functions of the step.
        boundaries: rising times above 0 where the next begins, one fewer.

    Example:
        >>> from fusestep.schedules import presets
        >>> rise = presets.optax.linear_schedule(0.0, 1.0, 2)
        >>> presets.optax.join_schedules([rise, lambda t: 1 / (1 + t)], [2])([0, 1, 2, 3])
        array([0. , 0.5, 1. , 0.5])
    """
    entries = enumerate(check_list("schedules", schedules, 1))
    curves = [called(f"schedules[{i}]", entry, step) for i, entry in entries]
    if len(check_rising("boundaries", boundaries)) != len(curves) - 1:
        raise ValueError(
            f"boundaries must be one fewer than schedules, not {len(boundaries)} for {len(curves)}"
        )
    return pieces.sequence(curves, at=boundaries)
