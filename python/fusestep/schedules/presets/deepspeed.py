"""The schedulers of DeepSpeed 0.19.

The update after ``scheduler.step()`` number n uses its batch n - 1, and update 0 the least value:
these curves are an update later than the formulas say.
"""

from __future__ import annotations

from typing import Literal

from ...arguments import (
    check_choice,
    check_finite,
    check_flag,
    check_number,
    check_positive,
    check_whole,
)
from ...expression import Expression, floor, log, maximum, minimum, step, where
from ...expression.nodes import expression
from .. import ramps
from .base import preset

__all__ = ["LRRangeTest", "OneCycle", "WarmupCosineLR", "WarmupDecayLR", "WarmupLR"]


def __dir__() -> list[str]:
    return __all__


def _warmup(warmup_num_steps: int, warmup_type: str) -> tuple[int, Expression]:
    """How long the warm-up is, at least 2, and what it rises by, from 0 to 1."""
    length = max(check_whole("warmup_num_steps", warmup_num_steps, 1), 2)
    if check_choice("warmup_type", warmup_type, ("log", "linear")) == "linear":
        return length, ramps.linear(0.0, 1.0, length=length).shifted(1)
    return length, minimum(log(maximum(step, 1)) / log(expression(length)), 1)


@preset
def WarmupLR(
    base: float,
    warmup_min_lr: float = 0.0,
    warmup_max_lr: float | None = None,
    warmup_num_steps: int = 1000,
    warmup_type: Literal["log", "linear"] = "log",
) -> Expression:
    """From ``warmup_min_lr`` to ``warmup_max_lr``, held: by the logarithm of t, or straight.

    ``min + (max - min) * w`` with ``w = ln(t) / ln(warmup_num_steps)``, 0 in updates 0 and 1, or
    ``w = (t - 1) / warmup_num_steps``; at most 1.

    Args:
        base: what ``warmup_max_lr`` is where it is None: any finite number.
        warmup_min_lr, warmup_max_lr: any finite numbers.
        warmup_num_steps: a whole number, at least 1; 1 counts as 2.
        warmup_type: "log" or "linear".

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.deepspeed.WarmupLR(1.0, warmup_num_steps=16)([0, 1, 4, 16, 17])
        array([0. , 0. , 0.5, 1. , 1. ])
    """
    begin, low = check_finite("base", base), check_finite("warmup_min_lr", warmup_min_lr)
    high = begin if warmup_max_lr is None else check_finite("warmup_max_lr", warmup_max_lr)
    _, rise = _warmup(warmup_num_steps, warmup_type)
    return ramps.between(high, low, rise)


@preset
def WarmupDecayLR(
    total_num_steps: int,
    warmup_min_lr: float = 0.0,
    warmup_max_lr: float = 0.001,
    warmup_num_steps: int = 1000,
    warmup_type: Literal["log", "linear"] = "log",
) -> Expression:
    """The rise of `WarmupLR`, then straight back to ``warmup_min_lr`` at ``total_num_steps + 1``.

    Args:
        total_num_steps: with the warm-up: a whole number, at least 1. Where it is less than the
            warm-up, that is followed by ``warmup_min_lr``.
        warmup_min_lr, warmup_max_lr: any finite numbers; the rate of the optimizer is not used.
        warmup_num_steps: a whole number, at least 1; 1 counts as 2.
        warmup_type: "log" or "linear".

    Example:
        >>> from fusestep.schedules import presets
        >>> lr = presets.deepspeed.WarmupDecayLR(6, 0.0, 1.0, warmup_num_steps=2)
        >>> lr([0, 1, 2, 3, 5, 7])
        array([0. , 0. , 1. , 1. , 0.5, 0. ])
    """
    total = check_whole("total_num_steps", total_num_steps, 1)
    low, high = (
        check_finite("warmup_min_lr", warmup_min_lr),
        check_finite("warmup_max_lr", warmup_max_lr),
    )
    warmup, rise = _warmup(warmup_num_steps, warmup_type)
    fall = maximum((total + 1 - step) / max(total - warmup, 1), 0)
    return ramps.between(high, low, where(step < warmup + 1, rise, fall))


@preset
def WarmupCosineLR(
    base: float,
    total_num_steps: int,
    warmup_min_ratio: float = 0.0,
    warmup_num_steps: int = 1000,
    cos_min_ratio: float = 1e-4,
    warmup_type: Literal["log", "linear"] = "log",
) -> Expression:
    """A rise from ``base * warmup_min_ratio``, then half a cosine wave, held; 0 in update 0.

    The rise is that of `WarmupLR`; the wave, ``cos_min_ratio + (1 - cos_min_ratio) *
    (1 + cos(pi x)) / 2``, has ``x = (t - warmup_num_steps) / (total_num_steps - warmup_num_steps)``
    from ``t = warmup_num_steps + 1`` on, so it does not begin at 1.

    Args:
        base: any finite number.
        total_num_steps: with the warm-up: a whole number, at least 1.
        warmup_min_ratio, cos_min_ratio: in [0, 1].
        warmup_num_steps: a whole number, at least 1; 1 counts as 2.
        warmup_type: "log" or "linear".

    Example:
        >>> from fusestep.schedules import presets
        >>> lr = presets.deepspeed.WarmupCosineLR(1.0, 10, warmup_num_steps=4, cos_min_ratio=0.2)
        >>> lr([0, 1, 2, 4, 7, 10])
        array([0. , 0. , 0.5, 1. , 0.6, 0.2])
    """
    begin, total = check_finite("base", base), check_whole("total_num_steps", total_num_steps, 1)
    first = check_number("warmup_min_ratio", warmup_min_ratio, 0, 1)
    last = check_number("cos_min_ratio", cos_min_ratio, 0, 1)
    warmup, rise = _warmup(warmup_num_steps, warmup_type)
    wave = ramps.cosine(1.0, last, length=max(total - warmup, 1)).shifted(warmup)
    curve = where(step < warmup + 1, ramps.between(1.0, first, rise), wave)
    return begin * where(step < 1, 0.0, curve)


@preset
def LRRangeTest(
    lr_range_test_min_lr: float = 1e-3,
    lr_range_test_step_size: int = 2000,
    lr_range_test_step_rate: float = 1.0,
    lr_range_test_staircase: bool = False,
) -> Expression:
    """A rise without end: ``min_lr * (1 + step_rate * t / step_size)``.

    Args:
        lr_range_test_min_lr, lr_range_test_step_rate: any finite numbers.
        lr_range_test_step_size: a whole number, at least 1.
        lr_range_test_staircase: round ``t / step_size`` down.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.deepspeed.LRRangeTest(0.1, 10)([0, 5, 20])
        array([0.1 , 0.15, 0.3 ])
    """
    spans = step / check_whole("lr_range_test_step_size", lr_range_test_step_size, 1)
    passed = (
        floor(spans) if check_flag("lr_range_test_staircase", lr_range_test_staircase) else spans
    )
    rate = check_finite("lr_range_test_step_rate", lr_range_test_step_rate)
    return check_finite("lr_range_test_min_lr", lr_range_test_min_lr) * (1 + rate * passed)


@preset
def OneCycle(
    cycle_min_lr: float,
    cycle_max_lr: float,
    decay_lr_rate: float = 0.0,
    cycle_first_step_size: float = 2000,
    cycle_second_step_size: float | None = None,
    cycle_first_stair_count: int = 0,
    cycle_second_stair_count: int | None = None,
    decay_step_size: float = 0,
) -> Expression:
    """Straight from ``cycle_min_lr`` to ``cycle_max_lr`` and back once, then a slow decay.

    The decay, after the two step sizes, is ``cycle_min_lr / (1 + decay_lr_rate * t /
    decay_step_size)`` with t counted from there. A stair count cuts a half into as many steps.

    Args:
        cycle_min_lr, cycle_max_lr: any finite numbers.
        decay_lr_rate: at least 0.
        cycle_first_step_size: above 0.
        cycle_second_step_size: above 0, or None for the same as the first.
        cycle_first_stair_count: a whole number, at least 0; 0 is a straight line.
        cycle_second_stair_count: likewise, or None for the same as the first.
        decay_step_size: at least 0; 0 is no decay.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.deepspeed.OneCycle(0.1, 0.5, 1.0, 4, decay_step_size=8)([0, 2, 4, 6, 8, 16])
        array([0.1 , 0.3 , 0.5 , 0.3 , 0.1 , 0.05])
    """
    low, high = (
        check_finite("cycle_min_lr", cycle_min_lr),
        check_finite("cycle_max_lr", cycle_max_lr),
    )
    up = check_positive("cycle_first_step_size", cycle_first_step_size)
    down, stairs = up, check_whole("cycle_first_stair_count", cycle_first_stair_count, 0)
    if cycle_second_step_size is not None:
        down = check_positive("cycle_second_step_size", cycle_second_step_size)
    later = stairs
    if cycle_second_stair_count is not None:
        later = check_whole("cycle_second_stair_count", cycle_second_stair_count, 0)
    rate = check_number("decay_lr_rate", decay_lr_rate)
    size = check_number("decay_step_size", decay_step_size)
    end = expression(up) + down
    rise, fall = _stairs(step, up, stairs), _stairs(end - step, down, later)
    cycle = ramps.between(high, low, where(step <= up, rise, fall))
    decay = expression(low) if size == 0 else low / (1 + rate * ((step - end) / size))
    return where(step < end, cycle, decay)


def _stairs(passed: Expression, length: float, count: int) -> Expression:
    """The fraction of a length that has passed, rounded down to one of ``count``; 0 is not."""
    return passed / length if count == 0 else floor(passed * count / length) / count
