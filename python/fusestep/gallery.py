"""Pictures from the command line: ``python -m fusestep plot``."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .clock import Unit
from .expression import parse

# every curve as text, drawn over 120 steps
GALLERY = {
    "constant": "constant(1)",
    "linear": "linear(start=1, end=0.2, length=100)",
    "polynomial": "polynomial(start=1, length=100, power=2)",
    "cosine": "cosine(start=1, end=0.1, length=100)",
    "tanh": "tanh(start=1, end=0, length=100)",
    "rex": "rex(start=1, end=0, length=100)",
    "exponential": "exponential(start=1, rate=0.5, every=20)",
    "inverse_time": "inverse_time(start=1, timescale=20)",
    "inverse_offset": "inverse_offset(start=1, offset=0.8)",
    "inverse_sqrt": "inverse_sqrt(peak=1, timescale=20)",
    "noam": "noam(dim=1, warmup=20)",
    "power": "power(scale=4, exponent=-0.5, cap=1)",
    "step": "step(start=1, factor=0.5, every=30)",
    "multistep": "multistep(start=1, factor=0.3, at=[40, 80])",
    "staircase_linear": "staircase_linear(start=1, fraction=0.8, every=20, length=100)",
    "piecewise": "piecewise([0.2, 1.0, 0.5], at=[20, 70])",
    "interpolate": "interpolate([[0, 0.1], [30, 1], [60, 0.6], [100, 0.1]], kind='cosine')",
    "table": "table([0.2, 0.5, 0.3, 0.7, 0.4, 1]).repeated(40)",
    "sequence": "sequence([linear(0, 1, length=30), cosine(1, length=60)], at=[30])",
    "cosine_restarts": "cosine_restarts(start=1, length=15, t_mult=2, factor=0.8)",
    "one_cycle": "one_cycle(peak=1, total=100)",
    "cyclic": "cyclic(low=0.1, high=1, up=15, mode='triangular2')",
    "random": "random(low=0.2, high=1, every=5) * inverse_time(start=1, timescale=60)",
    "warmup": "warmup(20, shape='cosine') * exponential(start=1, rate=0.5, every=40)",
    "warmup_cosine": "warmup_cosine(peak=1, warmup=20, total=100)",
    "warmup_linear": "warmup_linear(peak=1, warmup=20, total=100)",
    "warmup_constant": "warmup_constant(peak=1, warmup=20)",
    "gradual_warmup": "gradual_warmup(base=0.125, factor=8, length=40)",
    "ademamix_alpha": "ademamix_alpha(alpha=5, length=100)",
    "ademamix_beta3": "ademamix_beta3(beta1=0.2, beta3=0.9, length=100)",
    "wsd": "wsd(peak=1, warmup=15, stable=60, decay=30, shape='1-sqrt')",
}
# the presets of each peer as text, without those that follow the loss
PEERS = {
    "torch": [
        "LambdaLR(1, lr_lambda=1 / (1 + step / 20))",
        "MultiplicativeLR(1, lr_lambda=1 - step / 2000)",
        "StepLR(1, step_size=30, gamma=0.5)",
        "MultiStepLR(0.95, milestones=[40, 80], gamma=0.3)",
        "ConstantLR(0.9, factor=0.3, total_iters=10)",
        "LinearLR(0.8, start_factor=0.1, total_iters=50)",
        "ExponentialLR(1, gamma=0.97)",
        "PolynomialLR(1, total_iters=100, power=2)",
        "CosineAnnealingLR(1, T_max=100)",
        "CosineAnnealingWarmRestarts(0.7, T_0=15, T_mult=2)",
        "CyclicLR(0.1, 0.6, step_size_up=15, mode='triangular2')",
        "OneCycleLR(1, total_steps=100)",
        "SequentialLR([presets.torch.LinearLR(0.5, 0.1, total_iters=20), 0.4], milestones=[20])",
        "ChainedScheduler([presets.torch.ConstantLR(1, total_iters=10), "
        "presets.torch.ExponentialLR(1, gamma=0.99)], base=1)",
        "SWALR(1, swa_lr=0.5, anneal_epochs=60)",
    ],
    "transformers": [
        "get_constant_schedule(1)",
        "get_constant_schedule_with_warmup(0.95, 20)",
        "get_linear_schedule_with_warmup(1, 20, 100)",
        "get_cosine_schedule_with_warmup(1, 20, 100)",
        "get_cosine_with_hard_restarts_schedule_with_warmup(0.8, 20, 100, num_cycles=3)",
        "get_polynomial_decay_schedule_with_warmup(1, 20, 100, power=3)",
        "get_inverse_sqrt_schedule(1, 20)",
        "get_cosine_with_min_lr_schedule_with_warmup(1, 20, 100, min_lr_rate=0.2)",
        "get_cosine_with_min_lr_schedule_with_warmup_lr_rate(0.9, 20, 100, min_lr_rate=0.1, "
        "warmup_lr_rate=0.5)",
        "get_wsd_schedule(1, 10, 30, num_stable_steps=60)",
    ],
    "optax": [
        "constant_schedule(1)",
        "linear_schedule(1, 0.2, transition_steps=100)",
        "polynomial_schedule(1, 0, power=2, transition_steps=100)",
        "exponential_decay(1, transition_steps=20, decay_rate=0.5)",
        "cosine_decay_schedule(1, decay_steps=100, alpha=0.1)",
        "warmup_constant_schedule(0, 0.9, warmup_steps=20)",
        "warmup_cosine_decay_schedule(0, 1, warmup_steps=20, decay_steps=100)",
        "warmup_exponential_decay_schedule(0, 1, 20, transition_steps=40, decay_rate=0.5)",
        "linear_onecycle_schedule(100, 0.8)",
        "cosine_onecycle_schedule(100, 1)",
        "piecewise_constant_schedule(0.9, [[40, 0.7], [80, 0.5]])",
        "piecewise_interpolate_schedule('cosine', 0.2, [[30, 4], [90, 0.1]])",
        "sgdr_schedule([[['init_value', 0], ['peak_value', 0.6], ['warmup_steps', 5], "
        "['decay_steps', 40]]])",
        "join_schedules([0.3, presets.optax.linear_schedule(0.5, 0.1, 60)], [30])",
    ],
    "keras": [
        "ExponentialDecay(1, decay_steps=20, decay_rate=0.5)",
        "PiecewiseConstantDecay([40, 80], [0.9, 0.5, 0.3])",
        "PolynomialDecay(1, decay_steps=40, cycle=True)",
        "InverseTimeDecay(1, decay_steps=20, decay_rate=1)",
        "CosineDecay(0, decay_steps=80, warmup_target=1, warmup_steps=20)",
        "CosineDecayRestarts(0.8, first_decay_steps=15, m_mul=0.8)",
    ],
    "timm": [
        "CosineLRScheduler(1, t_initial=100, warmup_t=10)",
        "TanhLRScheduler(0.9, t_initial=100)",
        "PolyLRScheduler(1, t_initial=50, cycle_limit=2, cycle_decay=0.7)",
        "StepLRScheduler(1, decay_t=30, decay_rate=0.5, warmup_t=10)",
        "MultiStepLRScheduler(0.8, decay_t=[40, 80], decay_rate=0.3)",
    ],
    "deepspeed": [
        "WarmupLR(1, warmup_num_steps=40)",
        "WarmupDecayLR(100, warmup_max_lr=0.95, warmup_num_steps=40)",
        "WarmupCosineLR(1, total_num_steps=100, warmup_num_steps=40, warmup_type='linear')",
        "LRRangeTest(0.1, lr_range_test_step_size=20)",
        "OneCycle(0.1, 0.8, decay_lr_rate=1, cycle_first_step_size=30, decay_step_size=30)",
    ],
    "averages": [
        "torch_swa()",
        "torch_ema(0.9)",
        "tensorflow(0.8)",
        "diffusers(0.95, use_ema_warmup=True)",
        "timm(0.95, use_warmup=True, warmup_power=0.5)",
        "ema_pytorch(0.85, update_after_step=20)",
        "keras(0.99)",
    ],
}
_STEPS = 120
_COLUMNS = 5


def plot(texts: Sequence[str], steps: float, by: Unit, out: Path) -> int:
    """Draws expressions into one picture."""
    ax: Any = None
    for text in texts:
        ax = parse(text).plot(steps, by=by, ax=ax, label=text)
    return _save(ax.figure, out)


def plot_all(out: Path) -> int:
    """Draws every curve, each in a picture of its own, and the presets of each peer in one."""
    import matplotlib.pyplot as plt

    rows, below = -(-len(GALLERY) // _COLUMNS), -(-len(PEERS) // 2)
    figure = plt.figure(figsize=(4 * _COLUMNS, 2.6 * rows + 3.4 * below), layout="constrained")
    curves, peers = figure.subfigures(2, 1, height_ratios=(2.6 * rows, 3.4 * below))
    axes = curves.subplots(rows, _COLUMNS)
    for ax, (name, text) in zip(axes.flat, GALLERY.items(), strict=False):
        parse(text).plot(_STEPS, ax=ax, label=text)
        ax.get_legend().remove()
        ax.set_title(name, fontsize="medium", fontweight="bold")
        ax.set_xlabel(textwrap.fill(text, 50), fontsize="x-small")
        _from_zero(ax)
    for ax in axes.flat[len(GALLERY) :]:
        ax.set_visible(False)
    axes, dashes = peers.subplots(below, 2), plt.cycler(linestyle=("-", "--"))
    for ax, (peer, calls) in zip(axes.flat, PEERS.items(), strict=False):
        ax.set_prop_cycle(dashes * plt.cycler(color=plt.get_cmap("tab10").colors))
        for call in calls:
            parse(f"presets.{peer}.{call}").plot(_STEPS, ax=ax, label=call.partition("(")[0])
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="x-small", frameon=False)
        ax.set_title(f"presets.{peer}", fontsize="medium", fontweight="bold")
        _from_zero(ax)
    for ax in axes.flat[len(PEERS) :]:
        ax.set_visible(False)
    return _save(figure, out)


def _from_zero(ax: Any) -> None:
    highest = ax.get_ylim()[1]
    ax.set_ylim(-0.05 * highest, highest)


def _save(figure: Any, out: Path) -> int:
    import matplotlib.pyplot as plt

    figure.savefig(out, dpi=120)
    plt.close(figure)
    print(f"wrote {out}")
    return 0
