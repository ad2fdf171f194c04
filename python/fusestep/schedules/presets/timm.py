"""The schedulers of timm 1.0, without noise, which is drawn from torch's generator.

A warm-up goes from ``warmup_lr_init`` towards ``base`` in ``warmup_t``. With ``warmup_prefix`` the
curve begins after it; without, the curve goes on at the present time, which is a jump.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...arguments import (
    check_finite,
    check_flag,
    check_list,
    check_number,
    check_positive,
    check_whole,
)
from ...expression import Expression, step, where
from ...expression.nodes import expression
from ...expression.traversal import substituted
from .. import pieces, ramps
from ..cycles import restarts
from .base import after, check_growth, preset

__all__ = [
    "CosineLRScheduler",
    "MultiStepLRScheduler",
    "PolyLRScheduler",
    "StepLRScheduler",
    "TanhLRScheduler",
]


def __dir__() -> list[str]:
    return __all__


class _Cycles:
    """Where in its cycles a curve is."""

    def __init__(
        self,
        base: float,
        t_initial: float,
        lr_min: float,
        cycle_mul: float,
        cycle_decay: float,
        cycle_limit: int,
    ) -> None:
        length, growth = (
            check_positive("t_initial", t_initial),
            check_growth("cycle_mul", cycle_mul),
        )
        self._cycle, self.x = restarts(step, length, growth)
        decay = expression(check_number("cycle_decay", cycle_decay))
        highest = check_finite("base", base)
        self._top = highest if cycle_decay == 1 else highest * decay**self._cycle
        self._least = check_number("lr_min", lr_min)
        self._limit = check_whole("cycle_limit", cycle_limit, 1)

    def curve(self, weight: Expression) -> Expression:
        """From the top to the least value as the weight falls from 1 to 0; the least after all."""
        value = self._least + (self._top - expression(self._least)) * weight
        return where(self._cycle < self._limit, value, self._least)


def _warmed(
    curve: Expression,
    base: float | Expression,
    warmup_t: float,
    warmup_lr_init: float,
    warmup_prefix: bool,
) -> Expression:
    """A straight rise to ``base``, then a curve."""
    length, first = (
        check_number("warmup_t", warmup_t),
        check_finite("warmup_lr_init", warmup_lr_init),
    )
    is_prefix = check_flag("warmup_prefix", warmup_prefix)
    if length == 0:
        return curve
    rise = first + step * ((base - expression(first)) / length)
    return after(length, rise, curve) if is_prefix else where(step < length, rise, curve)


@preset
def CosineLRScheduler(
    base: float,
    t_initial: float,
    lr_min: float = 0.0,
    cycle_mul: float = 1.0,
    cycle_decay: float = 1.0,
    cycle_limit: int = 1,
    warmup_t: float = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = False,
    k_decay: float = 1.0,
) -> Expression:
    """Cosine waves from ``base`` to ``lr_min``, which is held after ``cycle_limit`` of them.

    ``lr_min + (top - lr_min) * (1 + cos(pi x^k_decay)) / 2`` with x the fraction of the cycle that
    has passed. timm finds the cycle with a rounded logarithm and misses some restarts, as that at
    121 of ``t_initial=1, cycle_mul=3``.

    Args:
        base: any finite number; the top of cycle i is ``base * cycle_decay^i``.
        t_initial: the length of the first cycle, above 0; cycle i is ``cycle_mul^i`` times longer.
        lr_min: at least 0.
        cycle_mul: 1, or at least 1.01.
        cycle_decay: at least 0.
        cycle_limit: a whole number, at least 1.
        warmup_t: at least 0; 0 is no warm-up.
        warmup_lr_init: any finite number.
        warmup_prefix: the cycles begin after the warm-up.
        k_decay: above 0; above 1 it stays high for longer.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.timm.CosineLRScheduler(1.0, t_initial=10, warmup_t=2)([0, 1, 2, 5, 10])
        array([0.       , 0.5      , 0.9045085, 0.5      , 0.       ])
    """
    cycles = _Cycles(base, t_initial, lr_min, cycle_mul, cycle_decay, cycle_limit)
    curve = cycles.curve(ramps.cosine_weight(cycles.x ** check_positive("k_decay", k_decay)))
    return _warmed(curve, base, warmup_t, warmup_lr_init, warmup_prefix)


@preset
def TanhLRScheduler(
    base: float,
    t_initial: float,
    lb: float = -7.0,
    ub: float = 3.0,
    lr_min: float = 0.0,
    cycle_mul: float = 1.0,
    cycle_decay: float = 1.0,
    cycle_limit: int = 1,
    warmup_t: float = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = False,
) -> Expression:
    """Hyperbolic tangents from nearly ``base`` to nearly ``lr_min``, held after ``cycle_limit``.

    ``lr_min + (top - lr_min) * (1 - tanh(lb * (1 - x) + ub * x)) / 2`` with x the fraction of the
    cycle that has passed. Without ``warmup_prefix`` the warm-up goes to the curve's own value.
    Without a warm-up update 0 has ``base``: timm computes nothing for it.

    Args:
        base: any finite number; the top of cycle i is ``base * cycle_decay^i``.
        t_initial: the length of the first cycle, above 0; cycle i is ``cycle_mul^i`` times longer.
        lb, ub: the range of the tangent that is used; ``lb`` below ``ub``.
        lr_min: at least 0.
        cycle_mul: 1, or at least 1.01.
        cycle_decay: at least 0.
        cycle_limit: a whole number, at least 1.
        warmup_t: at least 0; 0 is no warm-up.
        warmup_lr_init: any finite number.
        warmup_prefix: the cycles begin after the warm-up.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.timm.TanhLRScheduler(1.0, t_initial=10)([7, 10])
        array([0.5, 0. ])
    """
    if not check_finite("lb", lb) < check_finite("ub", ub):
        raise ValueError(f"lb must be below ub, not lb={lb!r}, ub={ub!r}")
    cycles = _Cycles(base, t_initial, lr_min, cycle_mul, cycle_decay, cycle_limit)
    curve = cycles.curve(ramps.tanh_weight(cycles.x, lb, ub))
    there = substituted(curve, {"step": expression(check_number("warmup_t", warmup_t))})
    top = base if check_flag("warmup_prefix", warmup_prefix) else there
    if warmup_t == 0:
        curve = where(step < 1, base, curve)
    return _warmed(curve, top, warmup_t, warmup_lr_init, warmup_prefix)


@preset
def PolyLRScheduler(
    base: float,
    t_initial: float,
    power: float = 0.5,
    lr_min: float = 0.0,
    cycle_mul: float = 1.0,
    cycle_decay: float = 1.0,
    cycle_limit: int = 1,
    warmup_t: float = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = False,
    k_decay: float = 1.0,
) -> Expression:
    """Powers of what is left, from ``base`` to ``lr_min``, which is held after ``cycle_limit``.

    ``lr_min + (top - lr_min) * (1 - x^k_decay)^power`` with x the fraction of the cycle that has
    passed. The power is a half by default.

    Args:
        base: any finite number; the top of cycle i is ``base * cycle_decay^i``.
        t_initial: the length of the first cycle, above 0; cycle i is ``cycle_mul^i`` times longer.
        power: at least 0.
        lr_min: at least 0.
        cycle_mul: 1, or at least 1.01.
        cycle_decay: at least 0.
        cycle_limit: a whole number, at least 1.
        warmup_t: at least 0; 0 is no warm-up.
        warmup_lr_init: any finite number.
        warmup_prefix: the cycles begin after the warm-up.
        k_decay: above 0; above 1 it stays high for longer.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.timm.PolyLRScheduler(1.0, t_initial=8)([0, 6, 8])
        array([1. , 0.5, 0. ])
    """
    cycles = _Cycles(base, t_initial, lr_min, cycle_mul, cycle_decay, cycle_limit)
    left = 1 - cycles.x ** check_positive("k_decay", k_decay)
    curve = cycles.curve(left ** check_number("power", power))
    return _warmed(curve, base, warmup_t, warmup_lr_init, warmup_prefix)


@preset
def StepLRScheduler(
    base: float,
    decay_t: float,
    decay_rate: float = 1.0,
    warmup_t: float = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = True,
) -> Expression:
    """``base * decay_rate^floor(t / decay_t)``, after a warm-up.

    Args:
        base: any finite number.
        decay_t: above 0.
        decay_rate: at least 0; 1, the default, is no decay.
        warmup_t: at least 0; 0 is no warm-up.
        warmup_lr_init: any finite number.
        warmup_prefix: the curve begins after the warm-up; here it does by default.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.timm.StepLRScheduler(1.0, decay_t=10, decay_rate=0.5)([9, 10, 29])
        array([1.  , 0.5 , 0.25])
    """
    curve = pieces.step(
        check_finite("base", base),
        factor=check_number("decay_rate", decay_rate),
        every=check_positive("decay_t", decay_t),
    )
    return _warmed(curve, base, warmup_t, warmup_lr_init, warmup_prefix)


@preset
def MultiStepLRScheduler(
    base: float,
    decay_t: Sequence[float],
    decay_rate: float = 1.0,
    warmup_t: float = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = True,
) -> Expression:
    """``base * decay_rate^n`` with n the number of times in ``decay_t`` up to ``t + 1``.

    So each decay comes an update before that of torch's MultiStepLR. Without a warm-up update 0 has
    ``base``: timm computes nothing for it.

    Args:
        base: any finite number.
        decay_t: times of at least 0, in any order; timm needs them sorted.
        decay_rate: at least 0; 1, the default, is no decay.
        warmup_t: at least 0; 0 is no warm-up.
        warmup_lr_init: any finite number.
        warmup_prefix: the curve begins after the warm-up; here it does by default.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.timm.MultiStepLRScheduler(1.0, decay_t=[30, 60], decay_rate=0.5)([28, 29, 59])
        array([1.  , 0.5 , 0.25])
    """
    entries = enumerate(check_list("decay_t", decay_t, 0))
    times = sorted(check_number(f"decay_t[{i}]", entry) for i, entry in entries)
    rate = expression(check_number("decay_rate", decay_rate))
    curve = check_finite("base", base) * rate ** pieces.count(step + 1, times)
    if warmup_t == 0:
        curve = where(step < 1, base, curve)
    return _warmed(curve, base, warmup_t, warmup_lr_init, warmup_prefix)
