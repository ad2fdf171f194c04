"""Those that are a formula of the step."""

from __future__ import annotations

from typing import Literal

from ....arguments import (
    check_choice,
    check_finite,
    check_number,
    check_positive,
    check_whole,
)
from ....expression import Expression, sqrt, step, where
from ....expression.nodes import expression
from ... import decays, pieces, ramps, warmups
from ..base import after, preset


def _lengths(num_warmup_steps: int, num_training_steps: int) -> tuple[int, int]:
    """Of the warm-up, and of what comes after it."""
    warmup = check_whole("num_warmup_steps", num_warmup_steps, 0)
    total = check_whole("num_training_steps", num_training_steps, 1)
    if not warmup < total:
        raise ValueError(
            f"num_training_steps includes the warm-up and must be greater, not "
            f"num_warmup_steps={warmup!r}, num_training_steps={total!r}"
        )
    return warmup, total - warmup


def _warmed(base: float, warmup: int, later: Expression) -> Expression:
    """A straight rise from 0, then another curve in its own time."""
    return after(warmup, ramps.linear(0.0, base, length=max(warmup, 1)), later)


def _waves(num_cycles: float, length: int) -> Expression:
    """Cosine waves from 1; half a cycle goes to 0 at ``length``, and rises again after it."""
    return ramps.cosine_weight(2 * check_number("num_cycles", num_cycles) * step / length)


def _rate(base: float, min_lr: float | None, min_lr_rate: float | None) -> float:
    """The lowest value over ``base``."""
    if (min_lr is None) == (min_lr_rate is None):
        raise ValueError("one of min_lr and min_lr_rate must be given, and not both")
    if min_lr is not None:
        return check_number("min_lr", min_lr, 0, base) / base
    return check_number("min_lr_rate", min_lr_rate, 0, 1)


@preset
def get_constant_schedule(base: float) -> Expression:
    """Always ``base``, any finite number.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.transformers.get_constant_schedule(0.1)(1000)
        0.1
    """
    return decays.constant(check_finite("base", base))


@preset
def get_constant_schedule_with_warmup(base: float, num_warmup_steps: int) -> Expression:
    """``base * t / num_warmup_steps`` up to ``base``, which is held.

    Args:
        base: any finite number.
        num_warmup_steps: a whole number, at least 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.transformers.get_constant_schedule_with_warmup(1.0, 4)([0, 1, 4, 9])
        array([0.  , 0.25, 1.  , 1.  ])
    """
    return warmups.warmup_constant(
        check_finite("base", base), warmup=check_whole("num_warmup_steps", num_warmup_steps, 0)
    )


@preset
def get_linear_schedule_with_warmup(
    base: float, num_warmup_steps: int, num_training_steps: int
) -> Expression:
    """A straight rise to ``base``, then a straight fall to 0 at ``num_training_steps``, held.

    Args:
        base: any finite number.
        num_warmup_steps: a whole number, at least 0.
        num_training_steps: a whole number, greater than the warm-up.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.transformers.get_linear_schedule_with_warmup(1.0, 2, 6)([0, 1, 2, 4, 6])
        array([0. , 0.5, 1. , 0.5, 0. ])
    """
    warmup, rest = _lengths(num_warmup_steps, num_training_steps)
    return warmups.warmup_linear(check_finite("base", base), warmup=warmup, total=warmup + rest)


@preset
def get_cosine_schedule_with_warmup(
    base: float, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5
) -> Expression:
    """A straight rise to ``base``, then cosine waves, which go on after ``num_training_steps``.

    ``base * (1 + cos(2 pi num_cycles p)) / 2`` with p the fraction of the time after the warm-up
    that has passed: by default 0 at ``num_training_steps``, and rising again after it.

    Args:
        base: any finite number.
        num_warmup_steps: a whole number, at least 0.
        num_training_steps: a whole number, greater than the warm-up.
        num_cycles: at least 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.transformers.get_cosine_schedule_with_warmup(1.0, 2, 6)([1, 2, 4, 6, 8])
        array([0.5, 1. , 0.5, 0. , 0.5])
    """
    begin = check_finite("base", base)
    warmup, rest = _lengths(num_warmup_steps, num_training_steps)
    return _warmed(begin, warmup, begin * _waves(num_cycles, rest))


@preset
def get_cosine_with_hard_restarts_schedule_with_warmup(
    base: float, num_warmup_steps: int, num_training_steps: int, num_cycles: int = 1
) -> Expression:
    """A straight rise to ``base``, then half cosine waves down to 0, one after another.

    ``base * (1 + cos(pi (num_cycles p mod 1))) / 2``, 0 from ``num_training_steps`` on. Rounding
    makes transformers miss a few restarts, as that at step 15 of 22 cycles in 22 steps.

    Args:
        base: any finite number.
        num_warmup_steps: a whole number, at least 0.
        num_training_steps: a whole number, greater than the warm-up.
        num_cycles: a whole number, at least 1.

    Example:
        >>> from fusestep.schedules import presets
        >>> lr = presets.transformers.get_cosine_with_hard_restarts_schedule_with_warmup
        >>> lr(1.0, 2, 10, num_cycles=2)([1, 2, 4, 6, 8, 10])
        array([0.5, 1. , 0.5, 1. , 0.5, 0. ])
    """
    begin = check_finite("base", base)
    warmup, rest = _lengths(num_warmup_steps, num_training_steps)
    x = step * check_whole("num_cycles", num_cycles, 1) % rest / rest
    return _warmed(begin, warmup, begin * where(step < rest, ramps.cosine_weight(x), 0.0))


@preset
def get_polynomial_decay_schedule_with_warmup(
    base: float,
    num_warmup_steps: int,
    num_training_steps: int,
    lr_end: float = 1e-7,
    power: float = 1.0,
) -> Expression:
    """A straight rise to ``base``, then a power of what is left down to ``lr_end``, held.

    ``lr_end + (base - lr_end) * (1 - p)^power`` with p the fraction of the time after the warm-up
    that has passed.

    Args:
        base: any finite number.
        num_warmup_steps: a whole number, at least 0.
        num_training_steps: a whole number, greater than the warm-up.
        lr_end: below ``base``.
        power: at least 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> lr = presets.transformers.get_polynomial_decay_schedule_with_warmup
        >>> lr(1.0, 2, 6, lr_end=0.2)([0, 1, 2, 4, 6, 9])
        array([0. , 0.5, 1. , 0.6, 0.2, 0.2])
    """
    begin, end = check_finite("base", base), check_finite("lr_end", lr_end)
    if not end < begin:
        raise ValueError(f"lr_end must be below base, not lr_end={lr_end!r}, base={base!r}")
    warmup, rest = _lengths(num_warmup_steps, num_training_steps)
    falling = ramps.polynomial(begin, end, length=rest, power=check_number("power", power))
    return _warmed(begin, warmup, falling)


@preset
def get_inverse_sqrt_schedule(
    base: float, num_warmup_steps: int, timescale: float | None = None
) -> Expression:
    """A straight rise to ``base``, then ``base / sqrt(1 + (t - num_warmup_steps) / timescale)``.

    Args:
        base: any finite number.
        num_warmup_steps: a whole number, at least 0.
        timescale: above 0. None: ``num_warmup_steps``, or 10,000 where that is 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.transformers.get_inverse_sqrt_schedule(1.0, 100)([50, 100, 400])
        array([0.5, 1. , 0.5])
    """
    begin, warmup = check_finite("base", base), check_whole("num_warmup_steps", num_warmup_steps, 0)
    scale = (warmup or 10_000) if timescale is None else check_positive("timescale", timescale)
    return _warmed(begin, warmup, decays.inverse_time(begin, timescale=scale, power=0.5))


@preset
def get_cosine_with_min_lr_schedule_with_warmup(
    base: float,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> Expression:
    """A straight rise to ``base``, then cosine waves between that and a least value.

    ``base * (r + (1 - r) * (1 + cos(2 pi num_cycles p)) / 2)`` with r the least value over
    ``base``: like `get_cosine_schedule_with_warmup` it rises again after ``num_training_steps``.

    Args:
        base: above 0.
        num_warmup_steps: a whole number, at least 0.
        num_training_steps: a whole number, greater than the warm-up.
        num_cycles: at least 0.
        min_lr: the least value, from 0 to ``base``; or
        min_lr_rate: the same over ``base``, in [0, 1].

    Example:
        >>> from fusestep.schedules import presets
        >>> lr = presets.transformers.get_cosine_with_min_lr_schedule_with_warmup
        >>> lr(1.0, 2, 6, min_lr_rate=0.2)([1, 2, 4, 6, 8])
        array([0.5, 1. , 0.6, 0.2, 0.6])
    """
    begin = check_positive("base", base)
    warmup, rest = _lengths(num_warmup_steps, num_training_steps)
    least = _rate(begin, min_lr, min_lr_rate)
    falling = begin * ramps.between(1.0, least, _waves(num_cycles, rest))
    return _warmed(begin, warmup, falling)


@preset
def get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
    base: float,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> Expression:
    """The same with a rise that does not begin at 0, and waves that are an update early.

    The rise is ``base * (t + 1) / num_warmup_steps``, or from ``base * warmup_lr_rate`` to ``base``
    at ``num_warmup_steps - 1``. The waves begin there, too, but are as long as without.

    Args:
        base: above 0.
        num_warmup_steps: a whole number, at least 0.
        num_training_steps: a whole number, greater than the warm-up.
        num_cycles: at least 0.
        min_lr: the least value, from 0 to ``base``; or
        min_lr_rate: the same over ``base``, in [0, 1].
        warmup_lr_rate: the first value over ``base``, in [0, 1], or None.

    Example:
        >>> from fusestep.schedules import presets
        >>> lr = presets.transformers.get_cosine_with_min_lr_schedule_with_warmup_lr_rate
        >>> lr(1.0, 2, 6, min_lr_rate=0.2)([0, 1, 3, 5, 7])
        array([0.5, 1. , 0.6, 0.2, 0.6])
    """
    begin = check_positive("base", base)
    warmup, rest = _lengths(num_warmup_steps, num_training_steps)
    least = _rate(begin, min_lr, min_lr_rate)
    if warmup_lr_rate is None:
        rise = (step + 1) / max(warmup, 1)
    else:
        first = check_number("warmup_lr_rate", warmup_lr_rate, 0, 1)
        rise = ramps.between(1.0, first, step / max(warmup - 1, 1))
    waves = ramps.cosine_weight(2 * check_number("num_cycles", num_cycles) * (step + 1) / rest)
    return begin * after(warmup, rise, ramps.between(1.0, least, waves))


@preset
def get_wsd_schedule(
    base: float,
    num_warmup_steps: int,
    num_decay_steps: int,
    num_training_steps: int | None = None,
    num_stable_steps: int | None = None,
    warmup_type: Literal["linear", "cosine", "1-sqrt"] = "linear",
    decay_type: Literal["linear", "cosine", "1-sqrt"] = "cosine",
    min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5,
) -> Expression:
    """Warm-up from ``base * min_lr_ratio`` to ``base``, stable, and a decay back, held.

    With p the fraction of a phase that has passed, the rise is p, ``(1 - cos(pi p)) / 2`` or
    ``1 - sqrt(1 - p)``; what is left in the decay is ``1 - p``,
    ``(1 + cos(2 pi num_cycles p)) / 2`` or ``1 - sqrt(p)``.

    Args:
        base: any finite number.
        num_warmup_steps, num_decay_steps: whole numbers, at least 0.
        num_training_steps: of all phases, used where ``num_stable_steps`` is None.
        num_stable_steps: a whole number, at least 0, or None.
        warmup_type, decay_type: "linear", "cosine" or "1-sqrt".
        min_lr_ratio: in [0, 1].
        num_cycles: at least 0; for a "cosine" decay, after which it falls to the least at once.

    Example:
        >>> from fusestep.schedules import presets
        >>> lr = presets.transformers.get_wsd_schedule
        >>> lr(1.0, 2, 4, num_stable_steps=10, min_lr_ratio=0.2)([0, 1, 2, 12, 14, 16])
        array([0.2, 0.6, 1. , 1. , 0.6, 0.2])
    """
    begin, least = check_finite("base", base), check_number("min_lr_ratio", min_lr_ratio, 0, 1)
    warmup = check_whole("num_warmup_steps", num_warmup_steps, 0)
    decay = check_whole("num_decay_steps", num_decay_steps, 0)
    if num_stable_steps is not None:
        stable = check_whole("num_stable_steps", num_stable_steps, 0)
    elif num_training_steps is None:
        raise ValueError("num_training_steps or num_stable_steps must be given")
    else:
        check_whole("num_training_steps", num_training_steps, warmup + decay)
        stable = num_training_steps - warmup - decay
    shapes = ("linear", "cosine", "1-sqrt")
    check_choice("warmup_type", warmup_type, shapes)
    check_choice("decay_type", decay_type, shapes)
    x, p = step / max(warmup, 1), step / max(decay, 1)
    left = {"linear": 1 - x, "cosine": ramps.cosine_weight(x), "1-sqrt": sqrt(1 - x)}[warmup_type]
    waves = _waves(num_cycles, max(decay, 1))
    remains = {"linear": 1 - p, "cosine": waves, "1-sqrt": 1 - sqrt(p)}[decay_type]
    rise, fall = ramps.between(least, 1.0, left), ramps.between(1.0, least, remains)
    phases = [(warmup, rise), (stable, expression(1.0)), (decay, fall)]
    curves = [curve for length, curve in phases if length > 0]
    ends = [
        sum(n for n, _ in phases[: k + 1]) for k, (length, _) in enumerate(phases) if length > 0
    ]
    return begin * pieces.sequence([*curves, expression(least)], at=ends)
