"""Curves beside those of torch, optax and Keras: the same where they mean the same, and where they
differ on purpose, what the difference is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import schedules as s

TOTAL = 100


def assert_agrees(ours: Any, theirs: Any) -> None:
    """To 1e-12 of each value, and near zero to 1e-15 of the largest."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    largest = np.abs(theirs).max()
    assert ours.shape == theirs.shape
    assert (np.abs(ours - theirs) <= 1e-12 * np.abs(theirs) + 1e-15 * largest).all()


def in_torch(name: str, steps: int, lr: float = 0.1, **options: Any) -> list[float]:
    """What the scheduler puts in force for each update."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **options)
    found = []
    for step in range(steps):
        if step > 0:
            optimizer.step()
            scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


TORCH: dict[str, tuple[str, dict[str, Any], Any]] = {
    "step": ("StepLR", {"step_size": 7, "gamma": 0.3}, s.step(0.1, factor=0.3, every=7)),
    "multistep": (
        "MultiStepLR",
        {"milestones": [5, 20, 60], "gamma": 0.3},
        s.multistep(0.1, factor=0.3, at=[5, 20, 60]),
    ),
    "constant": (
        "ConstantLR",
        {"factor": 0.25, "total_iters": 9},
        s.piecewise([0.1 * 0.25, 0.1], at=[9]),
    ),
    "linear": (
        "LinearLR",
        {"start_factor": 0.25, "end_factor": 0.75, "total_iters": 40},
        s.linear(0.1 * 0.25, 0.1 * 0.75, length=40),
    ),
    "exponential": ("ExponentialLR", {"gamma": 0.97}, s.exponential(0.1, rate=0.97)),
    "polynomial": (
        "PolynomialLR",
        {"total_iters": 40, "power": 2.5},
        s.polynomial(0.1, length=40, power=2.5),
    ),
    "restarts": (
        "CosineAnnealingWarmRestarts",
        {"T_0": 10, "eta_min": 0.01},
        s.cosine_restarts(0.1, length=10, end=0.01),
    ),
    "longer restarts": (
        "CosineAnnealingWarmRestarts",
        {"T_0": 3, "T_mult": 2},
        s.cosine_restarts(0.1, length=3, t_mult=2),
    ),
    **{
        mode: (
            "CyclicLR",
            {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 8, "step_size_down": 12}
            | {"mode": mode, "gamma": 0.98, "cycle_momentum": False},
            s.cyclic(0.01, 0.1, up=8, down=12, mode=mode, gamma=0.98),
        )
        for mode in ("triangular", "triangular2", "exp_range")
    },
}


@pytest.mark.parametrize("case", TORCH)
def test_curves_agree_with_torch(case: str) -> None:
    name, options, curve = TORCH[case]
    assert_agrees(curve(range(TOTAL)), in_torch(name, TOTAL, **options))


def test_cosine_agrees_with_torch_up_to_its_end() -> None:
    theirs = in_torch("CosineAnnealingLR", TOTAL + 1, T_max=TOTAL, eta_min=0.01)
    assert_agrees(s.cosine(0.1, length=TOTAL, end=0.01)(range(TOTAL + 1)), theirs)


@pytest.mark.parametrize("anneal", ["cosine", "linear"])
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("warm", [0.3, 0.25])
def test_one_cycle_agrees_with_torch_up_to_its_end(
    anneal: str, three_phase: bool, warm: float
) -> None:
    theirs = in_torch(
        "OneCycleLR",
        TOTAL,
        max_lr=0.1,
        total_steps=TOTAL + 1,
        pct_start=warm,
        anneal_strategy={"cosine": "cos"}.get(anneal, anneal),
        div_factor=10,
        final_div_factor=100,
        three_phase=three_phase,
        cycle_momentum=False,
    )
    options: dict[str, Any] = {"anneal_strategy": anneal, "three_phase": three_phase}
    ours = s.one_cycle(
        0.1, TOTAL + 1, pct_start=warm, div_factor=10, final_div_factor=100, **options
    )
    assert_agrees(ours(range(TOTAL)), theirs)


@pytest.fixture
def optax() -> Iterator[Any]:
    """optax in double precision."""
    module = pytest.importorskip("optax", reason="optax is not installed")
    with pytest.importorskip("jax", reason="jax is not installed").enable_x64(True):
        yield module


PEAKS = {"init_value": 0.01, "peak_value": 0.1}
SGDR = [
    {**PEAKS, "warmup_steps": w, "decay_steps": n, "end_value": 0.001}
    for w, n in ((5, 20), (3, 40))
]
WARM_COSINES = [s.warmup_cosine(0.1, w, n, end=0.001, start=0.01) for w, n in ((5, 20), (3, 40))]
# the decay of optax is told as a fraction of the start
OPTAX: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "polynomial": (
        lambda o: o.polynomial_schedule(0.1, 0.01, power=2.5, transition_steps=40),
        s.polynomial(0.1, length=40, end=0.01, power=2.5),
    ),
    "late polynomial": (
        lambda o: o.polynomial_schedule(0.1, 0.01, 3, transition_steps=40, transition_begin=7),
        s.polynomial(0.1, length=40, end=0.01, power=3).shifted(7),
    ),
    "linear": (lambda o: o.linear_schedule(0.1, 0.3, 40), s.linear(0.1, 0.3, length=40)),
    "piecewise constant": (
        lambda o: o.piecewise_constant_schedule(0.1, {5: 0.3, 40: 0.3}),
        s.multistep(0.1, factor=0.3, at=[5, 40]),
    ),
    "exponential": (
        lambda o: o.exponential_decay(0.1, 10, 0.7, end_value=0.01),
        s.exponential(0.1, rate=0.7, every=10, floor=0.01),
    ),
    "staircase": (
        lambda o: o.exponential_decay(0.1, 10, 0.7, staircase=True),
        s.exponential(0.1, rate=0.7, every=10, staircase=True),
    ),
    "cosine": (
        lambda o: o.cosine_decay_schedule(0.1, 40, alpha=0.1, exponent=1.5),
        s.cosine(0.1, length=40, end=0.1 * 0.1, exponent=1.5),
    ),
    "warm-up and cosine": (
        lambda o: o.warmup_cosine_decay_schedule(0.01, 0.1, 10, 60, end_value=0.001),
        s.warmup_cosine(0.1, warmup=10, total=60, end=0.001, start=0.01),
    ),
    "warm-up": (
        lambda o: o.warmup_constant_schedule(0.01, 0.1, 10),
        s.warmup_constant(0.1, warmup=10, start=0.01),
    ),
    "restarts": (lambda o: o.sgdr_schedule(SGDR), s.sequence(WARM_COSINES, at=[20])),
    "one after another": (
        lambda o: o.join_schedules([o.linear_schedule(0, 1, 10), lambda t: 1 / (t + 1)], [10]),
        s.sequence([s.linear(0, 1, length=10), s.inverse_time(1, timescale=1)], at=[10]),
    ),
}


@pytest.mark.parametrize("case", OPTAX)
def test_curves_agree_with_optax(case: str, optax: Any) -> None:
    import jax

    build, curve = OPTAX[case]
    theirs = jax.vmap(build(optax))(jax.numpy.arange(TOTAL))
    assert theirs.dtype == np.float64
    assert_agrees(curve(range(TOTAL)), theirs)


# Keras' formulas as its documentation gives them, in double
def keras_polynomial(t: int) -> float:
    length = 20 * max(math.ceil(t / 20), 1)
    return (0.1 - 1e-4) * (1 - t / length) ** 0.5 + 1e-4


def keras_cosine(t: int) -> float:
    if t < 10:
        return 0.01 + (0.1 - 0.01) * t / 10
    wave = 0.5 * (1 + math.cos(math.pi * min(t - 10, 50) / 50))
    return 0.1 * ((1 - 0.2) * wave + 0.2)


KERAS: dict[str, tuple[Callable[[int], float], Any]] = {
    "PolynomialDecay": (
        keras_polynomial,
        s.polynomial(0.1, length=20, end=1e-4, power=0.5, cycle=True),
    ),
    "InverseTimeDecay": (
        lambda t: 0.1 / (1 + 0.5 * t / 10),
        s.inverse_time(0.1, timescale=10 / 0.5),
    ),
    "InverseTimeDecay in steps": (lambda t: 0.1 / (1 + t // 10), s.inverse_time(0.1, 10, 1, True)),
    # its decay_steps do not include the warm-up, its alpha is a fraction of the target
    "CosineDecay": (
        keras_cosine,
        s.warmup_cosine(0.1, warmup=10, total=10 + 50, end=0.1 * 0.2, start=0.01),
    ),
    "PiecewiseConstantDecay": (
        lambda t: 0.1 if t <= 5 else 0.3 if t <= 40 else 0.2,
        s.piecewise([0.1, 0.3, 0.2], at=[5 + 1, 40 + 1]),
    ),
}


@pytest.mark.parametrize("case", KERAS)
def test_curves_agree_with_the_formulas_of_keras(case: str) -> None:
    theirs, curve = KERAS[case]
    assert_agrees(curve(range(TOTAL)), [theirs(t) for t in range(TOTAL)])


def test_torch_rises_again_after_a_cosine_where_ours_is_held() -> None:
    theirs = in_torch("CosineAnnealingLR", 21, T_max=10, eta_min=0.01)
    ours = s.cosine(0.1, length=10, end=0.01)(range(21))
    assert theirs[20] == pytest.approx(0.1)
    assert set(ours[10:]) == {0.01}


def test_transformers_rise_again_after_a_cosine_where_ours_is_held() -> None:
    def theirs(t: int) -> float:
        return t / 4 if t < 4 else max(0.0, 0.5 * (1 + math.cos(math.pi * (t - 4) / (10 - 4))))

    ours = s.warmup_cosine(1.0, warmup=4, total=10)(range(17))
    assert_agrees(ours[:11], [theirs(t) for t in range(11)])
    assert theirs(16) == 1.0
    assert set(ours[10:]) == {0.0}


def test_a_boundary_belongs_to_the_later_piece_in_ours_to_the_earlier_in_keras() -> None:
    keras, _ = KERAS["PiecewiseConstantDecay"]
    assert (keras(5), s.piecewise([0.1, 0.3, 0.2], at=[5, 40])(5)) == (0.1, 0.3)


def test_a_warm_up_begins_at_0_in_ours_and_above_it_in_torch() -> None:
    theirs = in_torch("LinearLR", 5, start_factor=0.25, total_iters=4)
    assert_agrees(theirs, [0.025, 0.04375, 0.0625, 0.08125, 0.1])
    assert_agrees((0.1 * s.warmup(4))(range(5)), [0, 0.025, 0.05, 0.075, 0.1])
    with pytest.raises(ValueError, match="Starting multiplicative factor"):
        in_torch("LinearLR", 5, start_factor=0.0, total_iters=4)


def test_torch_rises_and_then_fails_after_one_cycle_where_ours_is_held() -> None:
    options: dict[str, Any] = {"max_lr": 1.0, "total_steps": 10, "cycle_momentum": False}
    ours = s.one_cycle(1.0, total=10)(range(21))
    assert set(ours[9:]) == {1 / 25 / 1e4}
    theirs = in_torch("OneCycleLR", 11, **options)
    assert_agrees(ours[:10], theirs[:10])
    assert theirs[10] == pytest.approx(0.0495, rel=1e-2)
    with pytest.raises(ValueError, match="Tried to step 11 times"):
        in_torch("OneCycleLR", 12, **options)


def test_the_peak_of_one_cycle_is_a_step_later_in_optax(optax: Any) -> None:
    theirs = [float(optax.cosine_onecycle_schedule(10, 1.0)(t)) for t in range(11)]
    ours = s.one_cycle(1.0, total=10)(range(11))
    assert (np.argmax(theirs), np.argmax(ours)) == (3, 2)
    assert (np.argmin(theirs), np.argmin(ours)) == (10, 9)


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
@pytest.mark.parametrize(("length", "restart"), [(1, 121), (10, 1210)])
def test_torch_misses_restarts_that_ours_finds(length: int, restart: int) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, T_0=length, T_mult=3, eta_min=0.01
    )
    optimizer.step()
    theirs.step(restart)
    assert theirs.get_last_lr() == [pytest.approx(0.01)]
    assert s.cosine_restarts(0.1, length=length, end=0.01, t_mult=3)(restart) == 0.1


def test_a_curve_as_a_function_of_the_step_drives_torch() -> None:
    curve = s.warmup_cosine(0.1, warmup=10, total=60)
    theirs = in_torch("LambdaLR", TOTAL, lr=1.0, lr_lambda=fs.schedules.as_lambda(curve))
    assert theirs == curve(range(TOTAL)).tolist()
