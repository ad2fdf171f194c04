"""Schedules of other libraries: beside their own objects, and beside closed forms without them."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import numpy as np
import pytest

import fusestep as fs
import fusestep.expression as fe
from fusestep.schedules import presets
from tables.peer_modules import imported
from tables.preset_rows import CONTROLS, ROWS
from tables.presets import Row, optimizer_with

NAMES = [f"{peer}.{name}" for peer in presets.__all__ for name in getattr(presets, peer).__all__]
every_row = pytest.mark.parametrize("row", ROWS, ids=repr)


def preset(name: str) -> Any:
    peer, own = name.split(".")
    return getattr(getattr(presets, peer), own)


def assert_agrees(row: Row, theirs: list[float]) -> None:
    """To 1e-12 of the largest value at every update."""
    ours = np.array([row.build()(t) for t in range(row.updates)])
    largest = np.abs(theirs).max()
    assert len(theirs) == row.updates >= 60
    assert largest > 0
    worst = np.abs(ours - theirs).argmax()
    assert abs(ours[worst] - theirs[worst]) <= 1e-12 * largest, (worst, ours[worst], theirs[worst])


def test_every_preset_and_every_argument_is_in_a_row() -> None:
    rows = {name: [r for r in ROWS if f"{r.peer}.{r.name}" == name] for name in NAMES}
    assert {name for name in NAMES if not rows[name]} == CONTROLS
    for name in {*NAMES} - CONTROLS:
        given = {argument for row in rows[name] for argument in row.arguments}
        assert {*inspect.signature(preset(name)).parameters} - given == set(), name


@every_row
def test_a_preset_has_the_values_of_the_peer(row: Row) -> None:
    assert_agrees(row, row.theirs())


@every_row
def test_a_preset_has_the_values_of_its_closed_form(row: Row) -> None:
    assert_agrees(row, [row.formula(t) for t in range(row.updates)])


@every_row
def test_a_preset_is_written_as_text_and_json_and_read_again(row: Row) -> None:
    curve = row.build()
    t = np.arange(row.updates)
    assert repr(curve).startswith(f"presets.{row.peer}.{row.name}(")
    again = [fe.from_json(curve.to_json(), like=curve)]
    if "function(" not in repr(curve):
        again.append(fe.parse(repr(curve)))
    for other in again:
        assert other == curve
        assert repr(other) == repr(curve)
        assert other(t).tolist() == curve(t).tolist()
    assert curve.by("epoch")(epoch=t).tolist() == curve(t).tolist()


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_says_what_it_is(name: str) -> None:
    text = preset(name).__doc__
    assert text.splitlines()[0].endswith(".")
    assert ">>>" in text
    parameters = inspect.signature(preset(name)).parameters.values()
    assert {p.kind for p in parameters} <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert all(p.name in text for p in parameters)


def test_a_preset_of_one_peer_is_not_that_of_another() -> None:
    assert len({*NAMES}) == len(NAMES)
    assert fe.parse("presets.torch.StepLR(1, step_size=5)")(5) == 0.1
    with pytest.raises(ValueError, match=r"no function 'presets.torch.StepLr'; did you mean 'pres"):
        fe.parse("presets.torch.StepLr(1, step_size=5)")
    with pytest.raises(ValueError, match=r"no function 'presets\.nobody\.StepLR'; "):
        fe.parse("presets.nobody.StepLR(1, step_size=5)")
    with pytest.raises(ValueError, match=r"no method 'torch'|not a part of an expression"):
        fe.parse("presets.torch")
    with pytest.raises(ValueError, match="presets can't be the name of a part"):
        fe.parse("presets = 1; presets")


def test_plateau_follows_that_of_torch() -> None:
    torch = imported("torch")
    random = np.random.default_rng(0)
    for _ in range(100):
        options: dict[str, Any] = {
            "mode": str(random.choice(["min", "max"])),
            "factor": float(random.choice([0.1, 0.5, 0.9])),
            "patience": int(random.integers(0, 5)),
            "threshold": float(random.choice([0.0, 1e-4, 0.05])),
            "threshold_mode": str(random.choice(["rel", "abs"])),
            "cooldown": int(random.integers(0, 4)),
            "min_lr": float(random.choice([0.0, 0.02])),
            "eps": float(random.choice([1e-8, 1e-3])),
        }
        optimizer = optimizer_with(0.3)
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
        ours = presets.torch.ReduceLROnPlateau(0.3, **options)
        losses = np.round(np.cumprod(random.choice([0.9, 1.0, 1.05, 1.001], size=60)), 4)
        losses[random.random(60) < 0.03] = np.nan
        for loss in losses.tolist():
            theirs.step(loss)
            ours.observe(loss)
            assert ours.value == optimizer.param_groups[0]["lr"], options


def test_greedy_follows_that_of_transformers() -> None:
    theirs_of = imported("transformers.optimization").GreedyLR
    random = np.random.default_rng(0)
    lowered = raised = anew = 0
    for _ in range(200):
        options: dict[str, Any] = {
            "mode": str(random.choice(["min", "max"])),
            "factor": float(random.choice([0.3, 0.5, 0.9])),
            "patience": int(random.integers(0, 4)),
            "threshold": float(random.choice([0.0, 1e-4, 0.05])),
            "threshold_mode": str(random.choice(["rel", "abs"])),
            "cooldown": int(random.integers(0, 3)),
            "warmup": int(random.integers(0, 3)),
            "min_lr": float(random.choice([0.0, 0.1, 0.5])),
            "max_lr": float(random.choice([0.5, 1.0])),
            "eps": float(random.choice([1e-8, 1e-2])),
            "smooth": bool(random.integers(0, 2)),
            "window_size": int(random.integers(1, 6)),
            "reset_start": int(random.integers(0, 4)),
        }
        optimizer = optimizer_with(0.3)
        theirs = theirs_of(optimizer, **options)
        ours = presets.transformers.GreedyLR(0.3, **options)
        losses = np.cumprod(random.choice([0.9, 1.0, 1.1, 1.001], size=100)).round(4)
        if not options["smooth"]:  # where it would be NaN for ever
            losses[random.random(100) < 0.03] = np.nan
        before = 0.3
        for loss in losses.tolist():
            theirs.step(loss)
            ours.observe(loss)
            assert ours.value == optimizer.param_groups[0]["lr"], options
            lowered, raised = lowered + (ours.value < before), raised + (ours.value > before)
            anew += before < ours.value == 0.3
            before = ours.value
        again = presets.transformers.GreedyLR(0.3, **options)
        again.load_state_dict(ours.state_dict())
        assert again.state_dict() == ours.state_dict()
    assert min(lowered, raised, anew) > 100


def test_greedy_is_written_copied_and_drives_an_optimizer() -> None:
    lr = presets.transformers.GreedyLR(0.5, factor=0.5, patience=0, smooth=True)
    text = "presets.transformers.GreedyLR(base=0.5, factor=0.5, patience=0, smooth=True)"
    assert repr(lr) == text
    assert fe.parse(text) == fe.from_json(lr.to_json()) == lr
    opt = fs.SGD(np.ones(3), lr=2 * lr)
    for loss in (1.0, 2.0, 3.0):
        opt.step(np.ones(3), loss=loss)
    assert lr.value == 0.25  # up at the first loss, then down twice
    assert pickle.loads(pickle.dumps(lr)).state_dict() == lr.state_dict()
    state = lr.state_dict()
    for key, bad in (("recent", [1.0] * 51), ("left", 501), ("value", 2.0), ("bad", 1)):
        with pytest.raises(fs.StateError, match=key):
            lr.load_state_dict({**state, key: bad})
    assert lr.state_dict() == state


def test_plateau_drives_an_optimizer_and_is_saved() -> None:
    lr = presets.torch.ReduceLROnPlateau(0.5, factor=0.5, patience=0)
    assert fe.parse("presets.torch.ReduceLROnPlateau(0.5, factor=0.5, patience=0)") == lr
    assert fe.from_json(lr.to_json()) == lr
    opt = fs.SGD(np.ones(3), lr=lr)
    for _ in range(3):
        opt.step(np.ones(3), loss=1.0)
    again = fs.SGD(np.ones(3), lr=presets.torch.ReduceLROnPlateau(0.5, factor=0.5, patience=0))
    again.load_state_dict(opt.state_dict())
    assert [o.schedules["lr"].value for o in (opt, again)] == [0.5 * 0.5**2] * 2


def test_plateau_is_right_where_torch_is_not() -> None:
    lr = presets.torch.ReduceLROnPlateau(1.0, factor=0.5, patience=0, threshold=0.1)
    optimizer = optimizer_with(1.0)
    torch = imported("torch")
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=0, threshold=0.1
    )
    for loss in (-1.0, -1.0):  # no better, but better than -0.9
        lr.observe(loss)
        theirs.step(loss)
    assert (lr.value, optimizer.param_groups[0]["lr"]) == (0.5, 1.0)


def test_torch_stays_at_the_first_value_where_its_constant_part_is_empty() -> None:
    torch = imported("torch")
    optimizer = optimizer_with(1.0)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=0)
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == [0.5]
    assert scheduler._get_closed_form_lr() == [1.0]  # its own formula


def test_torch_drifts_from_its_own_formula_in_many_periods() -> None:
    row = Row("torch.CosineAnnealingLR", 20_000, base=0.3, T_max=20, eta_min=0.01)
    ours = row.build()(range(row.updates))
    off = np.abs(np.array(row.theirs()) - ours) / 0.3
    assert 5e-13 < off[:2000].max() < 1e-12 < off.max()
    assert np.abs(ours - [row.formula(t) for t in range(row.updates)]).max() < 1e-12


MISSED = [
    Row("timm.CosineLRScheduler", 122, base=0.3, t_initial=1, cycle_mul=3.0, cycle_limit=9),
    Row(
        "transformers.get_cosine_with_hard_restarts_schedule_with_warmup",
        16,
        base=0.3,
        num_warmup_steps=0,
        num_training_steps=22,
        num_cycles=22,
    ),
]


@pytest.mark.parametrize("row", MISSED, ids=repr)
def test_a_restart_that_a_peer_misses_is_found(row: Row) -> None:
    assert row.build()(row.updates - 1) == 0.3
    assert row.theirs()[-1] < 1e-9


def test_keras_misses_a_restart_in_single_precision() -> None:
    row = Row("keras.CosineDecayRestarts", 6, initial_learning_rate=0.3, first_decay_steps=2)
    row.arguments["t_mul"] = 1.5
    assert row.theirs()[5] == pytest.approx(0.3)
    assert row.build()(5) == 0.3
    schedules = imported("keras.optimizers.schedules")
    assert float(schedules.CosineDecayRestarts(**row.arguments)(5)) == 0.0


def test_one_cycle_is_held_where_torch_rises_and_then_fails() -> None:
    ours = presets.torch.OneCycleLR(1.0, total_steps=10)([9, 10, 99])
    assert ours.tolist() == [1 / 25 / 1e4] * 3
    longer = Row("torch.OneCycleLR", 11, max_lr=1.0, total_steps=10).theirs()
    assert longer[10] > 0.04
    with pytest.raises(ValueError, match="Tried to step 11 times"):
        Row("torch.OneCycleLR", 12, max_lr=1.0, total_steps=10).theirs()
