"""The rows of presets under test."""

from __future__ import annotations

from typing import Any

from fusestep.expression import step
from tables.presets import Row


def harmonic(t: float) -> float:
    return 1 / (1 + t)


def slowly(t: float) -> float:
    return 1 - 0.01 * t


_WARM = Row("torch.LinearLR", base=0.3, start_factor=0.1, total_iters=10)
_FALL = Row("torch.CosineAnnealingLR", base=0.3, T_max=50, eta_min=0.01)
_PAST = {"pct_start": 0.25, "div_factor": 10.0, "final_div_factor": 100.0}
_CYCLE = {"base_lr": 0.01, "max_lr": 0.3, "step_size_up": 7, "step_size_down": 13}

ROWS = [
    Row("torch.LambdaLR", base=0.3, lr_lambda=harmonic),
    Row("torch.LambdaLR", base=0.3, lr_lambda=1 / (1 + step) ** 0.5),
    Row("torch.MultiplicativeLR", base=0.3, lr_lambda=slowly),
    Row("torch.MultiplicativeLR", 500, base=0.3, lr_lambda=1 - 0.001 * step),
    Row("torch.StepLR", 200, base=0.3, step_size=7, gamma=0.5),
    Row("torch.StepLR", base=0.3, step_size=20),
    Row("torch.MultiStepLR", base=0.3, milestones=[3, 20, 10, 10], gamma=0.5),
    Row("torch.MultiStepLR", base=0.3, milestones=[0, 5]),
    Row("torch.MultiStepLR", base=0.3, milestones=[]),
    Row("torch.ConstantLR", base=0.3),
    Row("torch.ConstantLR", base=0.3, factor=0.7, total_iters=9),
    Row("torch.LinearLR", base=0.3),
    Row("torch.LinearLR", 500, base=0.3, start_factor=0.1, end_factor=0.7, total_iters=300),
    Row("torch.LinearLR", base=0.3, start_factor=1.0, end_factor=0.0, total_iters=50),
    Row("torch.ExponentialLR", 2000, base=0.3, gamma=0.97),
    Row("torch.ExponentialLR", 200, base=0.3, gamma=1.01),
    Row("torch.PolynomialLR", base=0.3),
    Row("torch.PolynomialLR", base=0.3, total_iters=40, power=2.0),
    Row("torch.PolynomialLR", base=0.3, total_iters=40, power=0.5),
    Row("torch.CosineAnnealingLR", base=0.3, T_max=50),
    Row("torch.CosineAnnealingLR", 200, base=0.3, T_max=20, eta_min=0.01),
    Row("torch.CosineAnnealingLR", 2000, base=0.3, T_max=1500, eta_min=0.01),
    Row("torch.CosineAnnealingWarmRestarts", 300, base=0.3, T_0=5, T_mult=2, eta_min=0.01),
    Row("torch.CosineAnnealingWarmRestarts", 200, base=0.3, T_0=7),
    Row("torch.CosineAnnealingWarmRestarts", 2000, base=0.3, T_0=3, T_mult=3),
    Row("torch.CyclicLR", 200, **_CYCLE),
    Row("torch.CyclicLR", 2000, base_lr=0.01, max_lr=0.3, step_size_up=100),
    Row("torch.CyclicLR", 200, **_CYCLE, mode="triangular2"),
    Row("torch.CyclicLR", 200, **_CYCLE, mode="exp_range", gamma=0.99),
    Row("torch.CyclicLR", 200, **_CYCLE, scale_fn=harmonic),
    Row("torch.CyclicLR", 200, **_CYCLE, scale_fn=1 / step**0.5),
    Row("torch.CyclicLR", 200, **_CYCLE, scale_fn=harmonic, scale_mode="iterations"),
    *(
        Row("torch.OneCycleLR", 61, max_lr=0.5, total_steps=61, anneal_strategy=a, three_phase=p)
        for a in ("cos", "linear")
        for p in (False, True)
    ),
    Row("torch.OneCycleLR", 1000, max_lr=0.5, epochs=10, steps_per_epoch=100, **_PAST),
    Row("torch.SequentialLR", schedulers=[_WARM, _FALL], milestones=[10]),
    Row(
        "torch.SequentialLR",
        100,
        schedulers=[_WARM, Row("torch.ExponentialLR", base=0.3, gamma=0.9), _FALL],
        milestones=[10, 30],
    ),
    Row("torch.ChainedScheduler", schedulers=[_WARM], base=0.3),
    Row(
        "torch.ChainedScheduler",
        base=0.3,
        schedulers=[
            Row("torch.ConstantLR", base=0.3, factor=0.1, total_iters=8),
            Row("torch.ExponentialLR", base=0.3, gamma=0.9),
            Row("torch.MultiStepLR", base=0.3, milestones=[5, 30], gamma=0.5),
            Row("torch.CosineAnnealingLR", base=0.3, T_max=100),
        ],
    ),
    Row("torch.SWALR", base=0.3, swa_lr=0.05),
    Row("torch.SWALR", base=0.3, swa_lr=0.5, anneal_epochs=30, anneal_strategy="linear"),
    Row("torch.SWALR", base=0.3, swa_lr=0.05, anneal_epochs=0),
]


def _hf(name: str, updates: int = 70, **arguments: Any) -> Row:
    return Row(f"transformers.get_{name}", updates, **{"base": 0.3, **arguments})


_TOTAL = {"num_warmup_steps": 10, "num_training_steps": 50}
ROWS += [
    _hf("constant_schedule"),
    _hf("constant_schedule_with_warmup", num_warmup_steps=10),
    _hf("constant_schedule_with_warmup", num_warmup_steps=0),
    _hf("linear_schedule_with_warmup", **_TOTAL),
    _hf("linear_schedule_with_warmup", 2000, num_warmup_steps=0, num_training_steps=1700),
    _hf("cosine_schedule_with_warmup", **_TOTAL),
    _hf("cosine_schedule_with_warmup", 2000, num_warmup_steps=100, num_training_steps=1000),
    _hf("cosine_schedule_with_warmup", **_TOTAL, num_cycles=1.7),
    _hf("cosine_with_hard_restarts_schedule_with_warmup", **_TOTAL),
    _hf("cosine_with_hard_restarts_schedule_with_warmup", **_TOTAL, num_cycles=4),
    _hf("cosine_with_hard_restarts_schedule_with_warmup", **_TOTAL, num_cycles=3),
    _hf("polynomial_decay_schedule_with_warmup", **_TOTAL),
    _hf("polynomial_decay_schedule_with_warmup", **_TOTAL, lr_end=1e-3, power=2.0),
    _hf("inverse_sqrt_schedule", 2000, num_warmup_steps=100),
    _hf("inverse_sqrt_schedule", num_warmup_steps=0),
    _hf("inverse_sqrt_schedule", num_warmup_steps=10, timescale=30),
    _hf("cosine_with_min_lr_schedule_with_warmup", **_TOTAL, min_lr_rate=0.1),
    _hf("cosine_with_min_lr_schedule_with_warmup", **_TOTAL, min_lr=0.01, num_cycles=1.2),
    _hf("cosine_with_min_lr_schedule_with_warmup_lr_rate", **_TOTAL, min_lr_rate=0.1),
    _hf("cosine_with_min_lr_schedule_with_warmup_lr_rate", **_TOTAL, min_lr=0.01, num_cycles=1),
    _hf(
        "cosine_with_min_lr_schedule_with_warmup_lr_rate",
        **_TOTAL,
        min_lr_rate=0.1,
        warmup_lr_rate=0.2,
    ),
    *(
        _hf(
            "wsd_schedule",
            num_warmup_steps=10,
            num_decay_steps=20,
            num_stable_steps=20,
            warmup_type=shape,
            decay_type=shape,
            min_lr_ratio=0.1,
        )
        for shape in ("linear", "cosine", "1-sqrt")
    ),
    _hf("wsd_schedule", num_warmup_steps=10, num_decay_steps=20, num_training_steps=60),
    _hf("wsd_schedule", num_warmup_steps=0, num_decay_steps=20, num_training_steps=20),
    _hf("wsd_schedule", num_warmup_steps=9, num_decay_steps=0, num_stable_steps=9, num_cycles=0.3),
    _hf("wsd_schedule", num_warmup_steps=0, num_decay_steps=30, num_stable_steps=0, num_cycles=0.8),
]

_BEGUN = {"t_initial": 20, "lr_min": 0.01, "warmup_t": 5, "warmup_lr_init": 0.001}
_CYCLES = {"cycle_mul": 2.0, "cycle_decay": 0.5, "cycle_limit": 3}
ROWS += [
    Row("timm.CosineLRScheduler", base=0.3, t_initial=50),
    Row("timm.TanhLRScheduler", base=0.3, t_initial=50),
    Row("timm.PolyLRScheduler", base=0.3, t_initial=50),
    *(
        Row(f"timm.{name}LRScheduler", 200, base=0.3, **_BEGUN, **more, warmup_prefix=prefix)
        for prefix in (False, True)
        for name, more in (
            ("Cosine", {**_CYCLES, "k_decay": 1.3}),
            ("Tanh", {**_CYCLES, "lb": -6.0, "ub": 4.0}),
            ("Poly", {**_CYCLES, "k_decay": 1.3, "power": 0.7}),
        )
    ),
    Row("timm.CosineLRScheduler", 2000, base=0.3, t_initial=300, cycle_limit=5, cycle_decay=0.7),
    Row("timm.StepLRScheduler", base=0.3, decay_t=8),
    Row("timm.StepLRScheduler", 200, base=0.3, decay_t=8, decay_rate=0.9),
    Row("timm.MultiStepLRScheduler", base=0.3, decay_t=[8, 20], decay_rate=0.5),
    Row("timm.MultiStepLRScheduler", base=0.3, decay_t=[0, 1, 2], decay_rate=0.5),
    *(
        Row(f"timm.{name}", base=0.3, decay_t=at, decay_rate=0.5, **warm, warmup_prefix=prefix)
        for prefix in (False, True)
        for name, at in (("StepLRScheduler", 8), ("MultiStepLRScheduler", [8, 20, 20]))
        for warm in ({"warmup_t": 5, "warmup_lr_init": 0.001},)
    ),
]

_SCALES = {5: 0.5, 20: 0.1, 40: 3.0}
_SGDR = {"init_value": 0.01, "peak_value": 0.3, "warmup_steps": 5, "decay_steps": 20}
_RISE = {"init_value": 0.01, "peak_value": 0.3, "warmup_steps": 10}
_POLYNOMIAL = {"init_value": 0.3, "end_value": 0.01, "power": 2.0}
_EXPONENTIAL = {"init_value": 0.3, "transition_steps": 7, "decay_rate": 0.6}
ROWS += [
    Row("optax.constant_schedule", value=0.3),
    Row("optax.polynomial_schedule", **_POLYNOMIAL, transition_steps=40),
    Row("optax.polynomial_schedule", **_POLYNOMIAL, transition_steps=40, transition_begin=5),
    Row("optax.polynomial_schedule", **_POLYNOMIAL, transition_steps=40, transition_begin=-5),
    Row("optax.polynomial_schedule", **_POLYNOMIAL, transition_steps=0),
    Row("optax.linear_schedule", init_value=0.3, end_value=0.5, transition_steps=40),
    Row("optax.linear_schedule", init_value=0.3, end_value=0.5, transition_steps=-1),
    Row(
        "optax.linear_schedule", init_value=0.3, end_value=0, transition_steps=9, transition_begin=5
    ),
    Row("optax.piecewise_constant_schedule", init_value=0.3),
    Row("optax.piecewise_constant_schedule", init_value=0.3, boundaries_and_scales=_SCALES),
    *(
        Row("optax.piecewise_interpolate_schedule", interpolate_type=kind, init_value=0.3, **more)
        for kind in ("linear", "cosine")
        for more in ({"boundaries_and_scales": _SCALES}, {})
    ),
    Row("optax.exponential_decay", **_EXPONENTIAL),
    Row("optax.exponential_decay", **_EXPONENTIAL, transition_begin=5, end_value=0.05),
    Row("optax.exponential_decay", **_EXPONENTIAL, transition_begin=-5, staircase=True),
    Row("optax.exponential_decay", **{**_EXPONENTIAL, "decay_rate": 1.1}, end_value=0.4),
    Row("optax.exponential_decay", **{**_EXPONENTIAL, "decay_rate": 0.0}, end_value=0.4),
    Row("optax.exponential_decay", **{**_EXPONENTIAL, "transition_steps": 0}),
    Row("optax.cosine_decay_schedule", init_value=0.3, decay_steps=40),
    Row("optax.cosine_decay_schedule", init_value=0.3, decay_steps=40, alpha=0.1, exponent=1.5),
    Row("optax.warmup_constant_schedule", **_RISE),
    Row("optax.warmup_constant_schedule", **{**_RISE, "warmup_steps": 0}),
    Row("optax.warmup_cosine_decay_schedule", **_RISE, decay_steps=50),
    Row("optax.warmup_cosine_decay_schedule", **_RISE, decay_steps=50, end_value=0.02, exponent=2),
    Row("optax.warmup_cosine_decay_schedule", **{**_RISE, "warmup_steps": 0}, decay_steps=50),
    Row(
        "optax.warmup_cosine_decay_schedule",
        **{**_RISE, "peak_value": 0.0},
        decay_steps=50,
        end_value=0.5,
    ),
    Row("optax.warmup_exponential_decay_schedule", **_RISE, transition_steps=7, decay_rate=0.6),
    Row(
        "optax.warmup_exponential_decay_schedule",
        **_RISE,
        transition_steps=7,
        decay_rate=0.6,
        transition_begin=3,
        staircase=True,
        end_value=0.02,
    ),
    Row("optax.linear_onecycle_schedule", transition_steps=61, peak_value=0.3),
    Row(
        "optax.linear_onecycle_schedule",
        transition_steps=50,
        peak_value=0.3,
        pct_start=0.2,
        pct_final=0.7,
        div_factor=10.0,
        final_div_factor=100.0,
    ),
    Row("optax.cosine_onecycle_schedule", transition_steps=61, peak_value=0.3),
    Row("optax.cosine_onecycle_schedule", transition_steps=50, peak_value=0.3, **_PAST),
    Row("optax.sgdr_schedule", cosine_kwargs=[_SGDR, {**_SGDR, "decay_steps": 30}, _SGDR]),
    Row(
        "optax.join_schedules",
        schedules=[
            Row("optax.warmup_constant_schedule", **_RISE),
            Row("optax.exponential_decay", **_EXPONENTIAL),
            Row("optax.constant_schedule", value=0.01),
        ],
        boundaries=[12, 40],
    ),
]

_LR: dict[str, Any] = {"initial_learning_rate": 0.3}
ROWS += [
    Row("keras.ExponentialDecay", **_LR, decay_steps=7, decay_rate=0.6),
    Row("keras.ExponentialDecay", **_LR, decay_steps=7, decay_rate=0.6, staircase=True),
    Row("keras.PiecewiseConstantDecay", boundaries=[5, 20], values=[0.3, 0.1, 0.05]),
    Row("keras.PiecewiseConstantDecay", boundaries=[0], values=[0.3, 0.1]),
    Row("keras.PolynomialDecay", **_LR, decay_steps=40),
    Row("keras.PolynomialDecay", **_LR, decay_steps=40, end_learning_rate=0.01, power=2.0),
    Row("keras.PolynomialDecay", **_LR, decay_steps=15, cycle=True),
    Row("keras.InverseTimeDecay", **_LR, decay_steps=7, decay_rate=0.5),
    Row("keras.InverseTimeDecay", **_LR, decay_steps=7, decay_rate=0.5, staircase=True),
    Row("keras.CosineDecay", **_LR, decay_steps=40),
    Row("keras.CosineDecay", **_LR, decay_steps=40, alpha=0.1, warmup_steps=10),
    Row("keras.CosineDecay", **_LR, decay_steps=40, alpha=0.1, warmup_steps=10, warmup_target=0.5),
    Row("keras.CosineDecay", **_LR, decay_steps=40, warmup_target=0.5),
    Row("keras.CosineDecayRestarts", 160, **_LR, first_decay_steps=5),
    Row("keras.CosineDecayRestarts", **_LR, first_decay_steps=8, t_mul=1.0, m_mul=0.9),
    Row(
        "keras.CosineDecayRestarts",
        160,
        **_LR,
        first_decay_steps=5,
        t_mul=2.0,
        m_mul=0.8,
        alpha=0.1,
    ),
]

_WARM_LR = {"warmup_min_lr": 0.01, "warmup_max_lr": 0.3, "warmup_num_steps": 10}
_ONE = {"cycle_min_lr": 0.01, "cycle_max_lr": 0.3, "cycle_first_step_size": 10}
ROWS += [
    *(
        row
        for kind in ("log", "linear")
        for row in (
            Row("deepspeed.WarmupLR", base=0.5, **_WARM_LR, warmup_type=kind),
            Row("deepspeed.WarmupLR", base=0.5, warmup_num_steps=1, warmup_type=kind),
            Row("deepspeed.WarmupDecayLR", total_num_steps=50, **_WARM_LR, warmup_type=kind),
            Row("deepspeed.WarmupDecayLR", total_num_steps=5, **_WARM_LR, warmup_type=kind),
            Row(
                "deepspeed.WarmupCosineLR",
                base=0.3,
                total_num_steps=50,
                warmup_min_ratio=0.1,
                warmup_num_steps=10,
                cos_min_ratio=1e-3,
                warmup_type=kind,
            ),
            Row(
                "deepspeed.WarmupCosineLR",
                base=0.3,
                total_num_steps=5,
                warmup_num_steps=10,
                warmup_type=kind,
            ),
        )
    ),
    Row("deepspeed.WarmupLR", 2000, base=0.3),
    Row("deepspeed.WarmupDecayLR", 2000, total_num_steps=1500),
    Row("deepspeed.WarmupCosineLR", 2000, base=0.3, total_num_steps=1500),
    Row("deepspeed.LRRangeTest"),
    *(
        Row(
            "deepspeed.LRRangeTest",
            lr_range_test_min_lr=0.01,
            lr_range_test_step_size=7,
            lr_range_test_step_rate=0.5,
            lr_range_test_staircase=staircase,
        )
        for staircase in (False, True)
    ),
    Row("deepspeed.OneCycle", **_ONE),
    Row("deepspeed.OneCycle", **_ONE, cycle_second_step_size=15, cycle_first_stair_count=3),
    Row(
        "deepspeed.OneCycle",
        **_ONE,
        decay_lr_rate=0.1,
        decay_step_size=5,
        cycle_second_step_size=16,
        cycle_first_stair_count=0,
        cycle_second_stair_count=4,
    ),
    Row("deepspeed.OneCycle", **_ONE, decay_lr_rate=0.1, decay_step_size=5),
]

_LATE = {"decay": 0.9, "min_decay": 0.1, "update_after_step": 10}
ROWS += [
    Row("averages.torch_swa", 200),
    Row("averages.torch_ema", 200, decay=0.9),
    Row("averages.torch_ema", decay=0.9, use_num_updates=False),
    Row("averages.tensorflow", 200, decay=0.9),
    Row("averages.diffusers"),
    Row("averages.diffusers", 200, **_LATE),
    Row("averages.diffusers", 200, **_LATE, use_ema_warmup=True, inv_gamma=2.0, power=0.75),
    Row("averages.timm"),
    Row("averages.timm", **_LATE),
    Row("averages.timm", 200, **_LATE, use_warmup=True, warmup_gamma=2.0, warmup_power=0.75),
    Row("averages.ema_pytorch", 2000),
    Row(
        "averages.ema_pytorch",
        beta=0.9,
        update_after_step=0,
        inv_gamma=2.0,
        power=1.0,
        min_value=0.2,
    ),
    Row("averages.keras"),
    Row("averages.keras", ema_momentum=0.9),
]
# those that follow the loss
CONTROLS = {
    "torch.ReduceLROnPlateau",
    "transformers.GreedyLR",
    "transformers.get_reduce_on_plateau_schedule",
}
