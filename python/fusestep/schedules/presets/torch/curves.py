"""Those that are a formula of the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ....arguments import (
    check_choice,
    check_finite,
    check_flag,
    check_list,
    check_number,
    check_positive,
    check_whole,
)
from ....expression import Expression, floor, step
from ....expression.nodes import expression
from ... import cycles, decays, pieces, ramps
from ..base import Factor, called, preset


@preset
def StepLR(base: float, step_size: float, gamma: float = 0.1) -> Expression:
    """Multiplied by ``gamma`` after every ``step_size``: ``base * gamma^floor(t / step_size)``.

    Args:
        base: any finite number.
        step_size: above 0.
        gamma: at least 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.torch.StepLR(1.0, step_size=10, gamma=0.5)([9, 10, 29])
        array([1.  , 0.5 , 0.25])
    """
    return pieces.step(
        check_finite("base", base),
        factor=check_number("gamma", gamma),
        every=check_positive("step_size", step_size),
    )


@preset
def MultiStepLR(base: float, milestones: Sequence[float], gamma: float = 0.1) -> Expression:
    """``base * gamma^n`` with n the number of milestones that have come.

    Args:
        base: any finite number.
        milestones: times of at least 0, in any order; one that stands there twice counts twice.
        gamma: at least 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.torch.MultiStepLR(1.0, milestones=[30, 60, 60], gamma=0.5)([29, 30, 60])
        array([1.   , 0.5  , 0.125])
    """
    entries = enumerate(check_list("milestones", milestones, 0))
    times = sorted(check_number(f"milestones[{i}]", entry) for i, entry in entries)
    come = pieces.count(step, times)
    return check_finite("base", base) * expression(check_number("gamma", gamma)) ** come


@preset
def ConstantLR(base: float, factor: float = 1 / 3, total_iters: float = 5) -> Expression:
    """``base * factor`` before ``total_iters``, then ``base``.

    Args:
        base: any finite number.
        factor: in [0, 1]; torch fails at ``total_iters`` where it is 0.
        total_iters: above 0; torch stays at the first value for ever where it is 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.torch.ConstantLR(1.0, factor=0.5)([4, 5])
        array([0.5, 1. ])
    """
    small = check_number("factor", factor, 0, 1)
    end = check_positive("total_iters", total_iters)
    return check_finite("base", base) * pieces.piecewise([small, 1.0], at=[end])


@preset
def LinearLR(
    base: float, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: float = 5
) -> Expression:
    """A straight line from ``base * start_factor`` to ``base * end_factor``, held from then on.

    Args:
        base: any finite number.
        start_factor: in (0, 1]: torch can't begin at 0.
        end_factor: in [0, 1].
        total_iters: where the line ends, above 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.torch.LinearLR(1.0, start_factor=0.2, total_iters=4)([0, 2, 4, 9])
        array([0.2, 0.6, 1. , 1. ])
    """
    check_positive("start_factor", start_factor)
    return check_finite("base", base) * ramps.linear(
        check_number("start_factor", start_factor, 0, 1),
        check_number("end_factor", end_factor, 0, 1),
        length=check_positive("total_iters", total_iters),
    )


@preset
def ExponentialLR(base: float, gamma: float) -> Expression:
    """``base * gamma^t``.

    Args:
        base: any finite number.
        gamma: above 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.torch.ExponentialLR(1.0, gamma=0.5)([0, 1, 2])
        array([1.  , 0.5 , 0.25])
    """
    return decays.exponential(check_finite("base", base), rate=check_positive("gamma", gamma))


@preset
def PolynomialLR(base: float, total_iters: float = 5, power: float = 1.0) -> Expression:
    """``base * (1 - min(t / total_iters, 1))^power``.

    Args:
        base: any finite number.
        total_iters: above 0.
        power: at least 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.torch.PolynomialLR(1.0, total_iters=10, power=2.0)([0, 5, 10])
        array([1.  , 0.25, 0.  ])
    """
    return ramps.polynomial(
        check_finite("base", base),
        length=check_positive("total_iters", total_iters),
        power=check_number("power", power),
    )


@preset
def CosineAnnealingLR(base: float, T_max: float, eta_min: float = 0.0) -> Expression:
    """Half a cosine wave from ``base`` to ``eta_min``, which rises again after ``T_max``.

    ``eta_min + (base - eta_min) * (1 + cos(pi t / T_max)) / 2``. torch computes each value from the
    one before and drifts from its formula: by 6e-13 of ``base`` in 100 periods of 20 updates.

    Args:
        base, eta_min: any finite numbers.
        T_max: above 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.torch.CosineAnnealingLR(1.0, T_max=10)([0, 5, 10, 15, 20])
        array([1. , 0.5, 0. , 0.5, 1. ])
    """
    weight = ramps.cosine_weight(step / check_positive("T_max", T_max))
    return ramps.between(check_finite("base", base), check_finite("eta_min", eta_min), weight)


@preset
def CosineAnnealingWarmRestarts(
    base: float, T_0: float, T_mult: int = 1, eta_min: float = 0.0
) -> Expression:
    """Cosine waves from ``base`` to ``eta_min``; each is ``T_mult`` times longer than the last.

    Args:
        base, eta_min: any finite numbers.
        T_0: the length of the first, above 0.
        T_mult: a whole number, at least 1.

    torch misses some restarts when it is told the epoch (``scheduler.step(epoch)``), as it finds
    them with a rounded logarithm; stepped one by one it does not.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.torch.CosineAnnealingWarmRestarts(1.0, T_0=10, T_mult=2)([0, 5, 10, 20, 30])
        array([1. , 0.5, 1. , 0.5, 1. ])
    """
    return cycles.cosine_restarts(
        check_finite("base", base),
        check_finite("eta_min", eta_min),
        length=check_positive("T_0", T_0),
        t_mult=check_whole("T_mult", T_mult, 1),
    )


@preset
def CyclicLR(
    base_lr: float,
    max_lr: float,
    step_size_up: float = 2000,
    step_size_down: float | None = None,
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
    gamma: float = 1.0,
    scale_fn: Factor | None = None,
    scale_mode: Literal["cycle", "iterations"] = "cycle",
) -> Expression:
    """Straight from ``base_lr`` to ``max_lr`` and back, again and again.

    ``base_lr + (max_lr - base_lr) * h * scale``, where h rises from 0 to 1 and falls back. The
    scale is 1 for "triangular", halves with every cycle for "triangular2", is ``gamma^t`` for
    "exp_range"; or ``scale_fn`` of the cycle, from 1, or of t. The momentum of torch's is
    ``CyclicLR(max_momentum, base_momentum, ...)``.

    Args:
        base_lr, max_lr: any finite numbers.
        step_size_up, step_size_down: above 0; ``step_size_down`` None is as long as up.
        mode: "triangular", "triangular2" or "exp_range"; without effect beside ``scale_fn``.
        gamma: above 0; for "exp_range".
        scale_fn: a Python function, an expression that reads the step, or None.
        scale_mode: what ``scale_fn`` is of, "cycle" or "iterations".

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.torch.CyclicLR(0.0, 1.0, step_size_up=4)([0, 2, 4, 6, 8])
        array([0. , 0.5, 1. , 0.5, 0. ])
    """
    low, high = check_finite("base_lr", base_lr), check_finite("max_lr", max_lr)
    up = check_positive("step_size_up", step_size_up)
    down = up if step_size_down is None else check_positive("step_size_down", step_size_down)
    check_choice("mode", mode, ("triangular", "triangular2", "exp_range"))
    check_choice("scale_mode", scale_mode, ("cycle", "iterations"))
    check_positive("gamma", gamma)
    if scale_fn is None:
        return cycles.cyclic(low, high, up=up, down=down, mode=mode, gamma=gamma)
    time = 1 + floor(step / (expression(up) + down)) if scale_mode == "cycle" else step
    height = cycles.cyclic(0.0, 1.0, up=up, down=down) * called("scale_fn", scale_fn, time)
    return ramps.between(high, low, height)


@preset
def OneCycleLR(
    max_lr: float,
    total_steps: int | None = None,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    pct_start: float = 0.3,
    anneal_strategy: Literal["cos", "linear"] = "cos",
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> Expression:
    """One rise to a high peak and one long fall far below the start.

    From ``max_lr / div_factor`` at 0 to ``max_lr`` at ``pct_start * total_steps - 1``, then to
    ``max_lr / div_factor / final_div_factor`` at ``total_steps - 1``. With ``three_phase`` it falls
    to the first value at ``2 * pct_start * total_steps - 2``, then to the last. Here the last value
    is held; torch rises once more at ``total_steps`` and fails in the next update.

    Args:
        max_lr: any finite number.
        total_steps: a whole number, or None for ``epochs * steps_per_epoch``.
        epochs, steps_per_epoch: whole numbers, used where ``total_steps`` is None.
        pct_start: the fraction that rises; ``pct_start * total_steps`` must be above 1.
        anneal_strategy: "cos" or "linear".
        div_factor, final_div_factor: above 0.
        three_phase: as said above.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.torch.OneCycleLR(1.0, total_steps=10)([0, 2, 9])
        array([4.e-02, 1.e+00, 4.e-06])
    """
    if total_steps is None:
        if epochs is None or steps_per_epoch is None:
            raise ValueError("total_steps, or epochs and steps_per_epoch, must be given")
        each = check_whole("steps_per_epoch", steps_per_epoch, 1)
        total_steps = check_whole("epochs", epochs, 1) * each
    total = check_whole("total_steps", total_steps, 1)
    check_choice("anneal_strategy", anneal_strategy, ("cos", "linear"))
    rise = check_number("pct_start", pct_start, 0, 1) * total - 1
    if not 0 < (2 * rise if check_flag("three_phase", three_phase) else rise) < total - 1:
        raise ValueError(
            "pct_start * total_steps must be above 1 and leave time to fall, not "
            f"pct_start={pct_start!r}, total_steps={total!r}"
        )
    return cycles.one_cycle(
        check_finite("max_lr", max_lr),
        total,
        pct_start=pct_start,
        div_factor=check_positive("div_factor", div_factor),
        final_div_factor=check_positive("final_div_factor", final_div_factor),
        anneal_strategy="cosine" if anneal_strategy == "cos" else "linear",
        three_phase=three_phase,
    )


@preset
def SWALR(
    base: float,
    swa_lr: float,
    anneal_epochs: int = 10,
    anneal_strategy: Literal["cos", "linear"] = "cos",
) -> Expression:
    """From ``base`` to ``swa_lr`` in ``anneal_epochs``, held from then on.

    ``swa_lr + (base - swa_lr) * w``, where w falls from 1 to 0: ``(1 + cos(pi x)) / 2`` or
    ``1 - x`` with ``x = min(t / anneal_epochs, 1)``.

    Args:
        base: the rate when the annealing begins: any finite number.
        swa_lr: any finite number.
        anneal_epochs: a whole number, at least 0; 0 is ``swa_lr`` at once.
        anneal_strategy: "cos" or "linear".

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.torch.SWALR(1.0, swa_lr=0.5)([0, 5, 10, 11])
        array([1.  , 0.75, 0.5 , 0.5 ])
    """
    begin, end = check_finite("base", base), check_finite("swa_lr", swa_lr)
    check_choice("anneal_strategy", anneal_strategy, ("cos", "linear"))
    if (length := check_whole("anneal_epochs", anneal_epochs, 0)) == 0:
        return expression(end)
    return (ramps.cosine if anneal_strategy == "cos" else ramps.linear)(begin, end, length=length)
