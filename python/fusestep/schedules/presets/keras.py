"""The schedules of Keras 3. Keras computes them in its ``floatx``, which is float32 by default."""

from __future__ import annotations

from collections.abc import Sequence

from ...arguments import check_finite, check_flag, check_list, check_number, check_positive
from ...expression import Expression, floor, step
from ...expression.nodes import expression
from .. import cycles, decays, pieces, ramps
from .base import after, check_growth, preset

__all__ = [
    "CosineDecay",
    "CosineDecayRestarts",
    "ExponentialDecay",
    "InverseTimeDecay",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
]


def __dir__() -> list[str]:
    return __all__


@preset
def ExponentialDecay(
    initial_learning_rate: float, decay_steps: float, decay_rate: float, staircase: bool = False
) -> Expression:
    """``initial_learning_rate * decay_rate^(t / decay_steps)``.

    Args:
        initial_learning_rate: any finite number.
        decay_steps: above 0.
        decay_rate: above 0.
        staircase: round the exponent down.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.keras.ExponentialDecay(1.0, 10, 0.5)([0, 20])
        array([1.  , 0.25])
    """
    return decays.exponential(
        check_finite("initial_learning_rate", initial_learning_rate),
        rate=check_positive("decay_rate", decay_rate),
        every=check_positive("decay_steps", decay_steps),
        staircase=check_flag("staircase", staircase),
    )


@preset
def PiecewiseConstantDecay(boundaries: Sequence[float], values: Sequence[float]) -> Expression:
    """One value after another; a boundary itself belongs to the value before it.

    Args:
        boundaries: times of at least 0 that do not fall.
        values: finite numbers, one more than there are boundaries.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.keras.PiecewiseConstantDecay([5], [1.0, 0.5])([4, 5, 6])
        array([1. , 1. , 0.5])
    """
    entries = enumerate(check_list("boundaries", boundaries, 1))
    times = [check_number(f"boundaries[{i}]", time) for i, time in entries]
    if times != sorted(times):
        raise ValueError(f"boundaries must not fall, not {boundaries!r}")
    rest = enumerate(check_list("values", values, 1))
    numbers = [check_finite(f"values[{i}]", value) for i, value in rest]
    if len(numbers) != len(times) + 1:
        raise ValueError(
            f"values must be one more than boundaries, not {len(numbers)} for {len(times)}"
        )
    to_come = pieces.count(-step, [-time for time in reversed(times)])
    return pieces.look_up(to_come, [*reversed(numbers)])


@preset
def PolynomialDecay(
    initial_learning_rate: float,
    decay_steps: float,
    end_learning_rate: float = 1e-4,
    power: float = 1.0,
    cycle: bool = False,
) -> Expression:
    """A power of what is left, from ``initial_learning_rate`` to ``end_learning_rate``.

    ``end + (initial - end) * (1 - x)^power`` with ``x = min(t / decay_steps, 1)``. The end is 1e-4
    by default, not 0. With ``cycle``, ``decay_steps`` is doubled, tripled and so on when t
    passes it.

    Args:
        initial_learning_rate, end_learning_rate: any finite numbers.
        decay_steps: above 0.
        power: at least 0.
        cycle: as said above; False holds the end.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.keras.PolynomialDecay(1.0, 10, end_learning_rate=0.2)([0, 5, 10, 11])
        array([1. , 0.6, 0.2, 0.2])
    """
    return ramps.polynomial(
        check_finite("initial_learning_rate", initial_learning_rate),
        check_finite("end_learning_rate", end_learning_rate),
        length=check_positive("decay_steps", decay_steps),
        power=check_number("power", power),
        cycle=check_flag("cycle", cycle),
    )


@preset
def InverseTimeDecay(
    initial_learning_rate: float, decay_steps: float, decay_rate: float, staircase: bool = False
) -> Expression:
    """``initial_learning_rate / (1 + decay_rate * t / decay_steps)``.

    Args:
        initial_learning_rate: any finite number.
        decay_steps: above 0.
        decay_rate: at least 0.
        staircase: round ``t / decay_steps`` down.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.keras.InverseTimeDecay(1.0, 10, 0.5)([0, 20, 60])
        array([1.  , 0.5 , 0.25])
    """
    first, rate = (
        check_finite("initial_learning_rate", initial_learning_rate),
        check_number("decay_rate", decay_rate),
    )
    spans = step / check_positive("decay_steps", decay_steps)
    return first / (1 + rate * (floor(spans) if check_flag("staircase", staircase) else spans))


@preset
def CosineDecay(
    initial_learning_rate: float,
    decay_steps: float,
    alpha: float = 0.0,
    warmup_target: float | None = None,
    warmup_steps: float = 0,
) -> Expression:
    """Half a cosine wave, held at its end; before it a warm-up, if there is a target.

    From ``initial_learning_rate`` straight to ``warmup_target`` in ``warmup_steps``, then
    ``target * (alpha + (1 - alpha) * (1 + cos(pi x)) / 2)`` in ``decay_steps`` more: they do not
    include the warm-up. Without a target the wave begins at once, whatever ``warmup_steps`` is.

    Args:
        initial_learning_rate, alpha: any finite numbers.
        decay_steps: above 0.
        warmup_target: any finite number, or None.
        warmup_steps: at least 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> lr = presets.keras.CosineDecay(0.0, 10, warmup_target=1.0, warmup_steps=4)
        >>> lr([0, 2, 4, 9, 14])
        array([0. , 0.5, 1. , 0.5, 0. ])
    """
    first = check_finite("initial_learning_rate", initial_learning_rate)
    warmup = check_number("warmup_steps", warmup_steps)
    length, end = check_positive("decay_steps", decay_steps), check_finite("alpha", alpha)
    wave = ramps.cosine(1.0, end, length=length)
    if warmup_target is None:
        return first * wave
    target = check_finite("warmup_target", warmup_target)
    return after(warmup, ramps.linear(first, target, length=warmup or 1), target * wave)


@preset
def CosineDecayRestarts(
    initial_learning_rate: float,
    first_decay_steps: float,
    t_mul: float = 2.0,
    m_mul: float = 1.0,
    alpha: float = 0.0,
) -> Expression:
    """Half cosine waves, one after another.

    ``initial_learning_rate * (alpha + (1 - alpha) * m_mul^i * (1 + cos(pi x)) / 2)`` with x the
    fraction of cycle i that has passed. Keras finds the cycle with a rounded logarithm, and in
    float32 misses some restarts, as that at 5 of ``first_decay_steps=2, t_mul=1.5``.

    Args:
        initial_learning_rate, alpha: any finite numbers.
        first_decay_steps: above 0; cycle i is ``t_mul^i`` times longer, twice by default.
        t_mul: 1, or at least 1.01.
        m_mul: at least 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.keras.CosineDecayRestarts(1.0, 10)([0, 5, 10, 20, 30])
        array([1. , 0.5, 1. , 0.5, 1. ])
    """
    first = check_finite("initial_learning_rate", initial_learning_rate)
    low = expression(check_finite("alpha", alpha))
    waves = cycles.cosine_restarts(
        1.0,
        length=check_positive("first_decay_steps", first_decay_steps),
        t_mult=check_growth("t_mul", t_mul),
        factor=check_number("m_mul", m_mul),
    )
    return first * (low + (1 - low) * waves)
