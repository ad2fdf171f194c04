"""Settings that are expressions: what a step uses, when it moves on, what it refuses and saves."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import _core, control, schedules
from tables.registry import ROWS

Array = np.ndarray[Any, np.dtype[Any]]
LINE = schedules.linear(start=1.0, end=0.0, length=10)


def steps(opt: fs.optim.Optimizer, n: int, **options: Any) -> list[_core.StepInfo]:
    return [opt.step(np.full(3, 0.5), **options) for _ in range(n)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_every_number_of_every_optimizer_may_be_an_expression(row: Any) -> None:
    """A curve gives the bits of the same numbers set by hand before each step."""
    build, options = row.optimizer, row.options
    start = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    by_curve, by_hand = start.copy(), start.copy()
    hand = build(by_hand, **options)
    curves: dict[str, Any] = {}
    for i, (name, *_, flag) in enumerate(_core.rules()[row.rule][0]):
        if flag or getattr(hand, name, None) is None or name in ("beta1", "beta2", "ema_every"):
            continue
        # momentum would need a buffer that the other one lacks; nesterov takes no dampening
        if (name, getattr(hand, name)) == ("momentum", 0.0) or name == "dampening":
            continue
        curves[name] = schedules.exponential(getattr(hand, name), 0.9 + 0.01 * i, every=3)
    for name, factor in (("betas", 0.5), ("etas", 1.5), ("step_sizes", 0.5)):
        if hasattr(hand, name):
            pair = getattr(hand, name)
            curves[name] = tuple(schedules.linear(x, factor * x, length=10) for x in pair)
    curve = build(by_curve, **{**options, **curves})
    for t in range(6):
        for name, expression in curves.items():
            pair = isinstance(expression, tuple)
            setattr(hand, name, tuple(e(t) for e in expression) if pair else expression(t))
        gradient = np.random.default_rng(t).standard_normal(50).astype(np.float32)
        hand.step(gradient)
        assert curve.step(gradient).lr == hand.lr
        assert all(getattr(curve, name) == getattr(hand, name) for name in curves)
        assert by_curve.tobytes() == by_hand.tobytes()


def test_the_first_update_has_t_0_and_info_and_attributes_tell_what_was_used() -> None:
    opt = fs.SGD(np.ones(3), lr=LINE, groups=[])
    assert opt.lr == 1.0
    assert [info.lr for info in steps(opt, 3)] == [1.0, 0.9, 0.8]
    assert opt.lr == 0.8
    assert opt.schedules == {"lr": LINE}
    assert "lr=linear(start=1.0, end=0.0, length=10)" in repr(opt)


def test_groups_have_expressions_of_their_own() -> None:
    params = {"a": np.ones(3), "b": np.ones(3)}
    opt = fs.SGD(params, lr=LINE, groups=[{"match": "b", "lr": LINE * 2}])
    gradients = {"a": np.ones(3), "b": np.ones(3)}
    for _ in range(2):
        opt.step(gradients)
    assert (opt.lr, opt.groups[0].lr, opt.groups[1].lr) == (0.9, 0.9, 1.8)
    assert opt.groups[1].schedules == {"lr": LINE * 2}
    assert params["b"][0] == pytest.approx(1 - 2.0 - 1.8)
    opt.groups[1].lr = schedules.constant(0.5)
    opt.lr = schedules.constant(0.25)
    assert (opt.lr, opt.groups[0].lr, opt.groups[1].lr) == (0.25, 0.25, 0.5)
    opt.step(gradients)
    assert opt.groups[1].schedules == {"lr": schedules.constant(0.5)}


def test_a_skipped_step_does_not_move_a_schedule_and_shows_no_loss() -> None:
    plateau = control.Plateau(factor=0.5, patience=0)
    opt = fs.SGD(np.ones(3), lr=LINE * plateau, nonfinite="skip")
    steps(opt, 2, loss=1.0)
    assert not opt.step(np.full(3, np.nan), loss=9.0).applied
    assert opt.step(np.ones(3), loss=0.5).lr == 0.8 * 0.5
    assert plateau.state_dict()["seen"] == 3


def test_the_step_of_a_clock_rules_over_the_count_of_updates() -> None:
    opt = fs.SGD(np.ones(3), lr=LINE)
    steps(opt, 2)
    assert opt.step(np.ones(3), clock=fs.Clock(step=7)).lr == pytest.approx(0.3, rel=1e-15)
    assert opt.step(np.ones(3)).lr == pytest.approx(0.7, rel=1e-15)


@pytest.mark.parametrize("name", ["samples", "epoch", "batch_size"])
def test_a_schedule_that_reads_an_input_says_what_to_pass(name: str) -> None:
    w = np.ones(3)
    opt = fs.SGD(w, lr=getattr(fs.expression, name) * 0.5)
    with pytest.raises(
        ValueError, match=rf"reads {name}: pass clock=fusestep.Clock\({name}=\.\.\.\)"
    ):
        opt.step(np.ones(3))
    assert opt.step(np.ones(3), clock=fs.Clock(**{name: 4})).lr == 2.0
    for bad in (-1, np.nan, np.inf, 2**53):
        with pytest.raises(ValueError, match=f"{name} must be at least 0 and below 2\\^53"):
            opt.step(np.ones(3), clock=fs.Clock(**{name: bad}))
    for clock in ("now", (1, 2), 3):
        with pytest.raises(TypeError, match=r"clock must be a fusestep\.Clock, not"):
            opt.step(np.ones(3), clock=clock)  # type: ignore[arg-type]
    assert (w == -1).all()
    assert opt.steps_attempted == 1


OUT_OF_RANGE: list[tuple[int, Any, dict[str, Any], str]] = [
    (
        2,
        fs.SGD,
        {"lr": LINE - 0.85},
        "lr must be finite and at least 0, but its schedule gives -0.0499",
    ),
    (
        1,
        fs.SGD,
        {"lr": 1 / (1 - fs.expression.step)},
        "lr must be finite and at least 0, .* inf at",
    ),
    (
        1,
        fs.SGD,
        {"lr": fs.expression.sqrt(1 - fs.expression.step * 3)},
        "lr must be finite .*gives nan",
    ),
    (
        2,
        fs.AdamW,
        {"betas": (0.5 + LINE * 0 + fs.expression.step / 4, 0.9)},
        r"beta1 must be in \[0, 1\)",
    ),
    (0, fs.AdamW, {"betas": (0.9, LINE * -1 + 0.95)}, r"beta2 must be in \[0, 1\), .* gives -0.05"),
    (2, fs.Adam, {"weight_decay": LINE - 0.85}, "weight_decay must be finite and at least 0"),
    (2, fs.SGD, {"momentum": LINE - 0.85}, "momentum must be finite and at least 0"),
    (
        2,
        fs.SGD,
        {"clip_norm": LINE - 0.85},
        "clip_norm must be greater than 0, but its schedule gives",
    ),
    (
        0,
        fs.SGD,
        {"clip_value": LINE * 0},
        "clip_value must be greater than 0, but its schedule gives 0",
    ),
    (
        0,
        fs.SGD,
        {"groups": [{"match": "", "lr": -LINE}]},
        r"groups\[1\] lr must be finite and at least",
    ),
    (
        2,
        fs.SGD,
        {"lr": lambda t: 1.0 - t},
        "lr must be finite and at least 0, but its .* gives -1.0",
    ),
]


@pytest.mark.parametrize(("good", "build", "options", "message"), OUT_OF_RANGE, ids=lambda x: "")
def test_a_value_out_of_range_is_refused_before_anything_is_written(
    good: int, build: Any, options: dict[str, Any], message: str
) -> None:
    w = np.ones(3)
    opt = build(w, **options)
    for _ in range(good):
        opt.step(np.ones(3))
    before = (w.tobytes(), opt.steps_applied, opt.steps_attempted, str(opt.state), opt.lr)
    with pytest.raises(ValueError, match=f"{message}.*; nothing was updated"):
        opt.step(np.ones(3))
    assert (w.tobytes(), opt.steps_applied, opt.steps_attempted, str(opt.state), opt.lr) == before


def test_momentum_keeps_its_buffer_going_where_its_curve_is_0() -> None:
    w, b, expected = np.ones(3), np.zeros(3), np.ones(3)
    momentum = schedules.piecewise([0.0, 0.5, 0.0, 0.9], at=[2, 3, 4])
    opt = fs.SGD(w, lr=0.1, momentum=momentum)
    for t in range(6):
        g = np.full(3, 1.0 + t)
        b = g.copy() if t == 0 else momentum(t) * b + 1.0 * g
        expected = expected - 0.1 * b
        opt.step(g)
        assert opt.state[""]["momentum"].tobytes() == b.tobytes()
        assert w.tobytes() == expected.tobytes()


def test_limits_follow_expressions() -> None:
    opt = fs.SGD(np.ones(3), lr=1.0, clip_norm=LINE, clip_value=None)
    opt.step(np.array([3.0, 4.0, 0.0]))
    assert (opt.clip_norm, opt.clip_value) == (1.0, None)
    opt.step(np.array([3.0, 4.0, 0.0]))
    assert opt.clip_norm == 0.9
    opt.clip_norm, opt.clip_value = None, LINE
    assert opt.step(np.ones(3)).grad_norm is None
    assert (opt.clip_norm, opt.clip_value) == (None, 0.8)
    assert opt.schedules == {"clip_value": LINE}


def test_a_python_function_is_a_setting_and_is_called_once_for_each_step() -> None:
    calls: list[int] = []

    def rate(t: int) -> float:
        calls.append(t)
        return 0.5 / (t + 1)

    w = {"a": np.ones(3), "b": np.ones(3)}
    opt = fs.AdamW(w, lr=rate, groups=[{"match": "b", "weight_decay": 0.0}])
    assert calls == []
    infos = [opt.step({"a": np.ones(3), "b": np.ones(3)}) for _ in range(3)]
    assert [info.lr for info in infos] == [0.5, 0.25, 0.5 / 3]
    assert calls == [0, 1, 2]
    state = opt.state_dict()
    json.dumps({**state, "parameters": None})
    opt.load_state_dict(state)
    other = fs.AdamW(w, lr=0.1, groups=[{"match": "b", "weight_decay": 0.0}])
    with pytest.raises(
        fs.StateError, match=r"lr: the expression calls .*rate', of which.*keep=\('lr',\)"
    ):
        other.load_state_dict(state)
    other.load_state_dict(state, keep=("lr",))
    assert (other.lr, other.steps_applied) == (0.1, 3)


def test_a_function_that_fails_leaves_everything_as_it_was() -> None:
    w = np.ones(3)

    def broken(t: int) -> float:
        raise OSError("no rate")

    opt = fs.SGD(w, lr=broken)
    with pytest.raises(OSError, match="no rate"):
        opt.step(np.ones(3))
    assert (w == 1).all()
    assert (opt.steps_attempted, opt.steps_applied) == (0, 0)


def test_a_loss_that_cannot_be_observed_is_refused_before_the_update() -> None:
    w = np.ones(3)
    opt = fs.SGD(w, lr=0.1 * control.LossBackoff())
    with pytest.raises(ValueError, match=r"loss must be above 0 for LossBackoff\(\), not -1.0"):
        opt.step(np.ones(3), loss=-1.0)
    assert (w == 1).all()
    opt.step(np.ones(3))
    assert opt.steps_applied == 1


def test_a_control_in_several_places_sees_each_loss_once() -> None:
    plateau = control.Plateau(patience=100)
    params = {"a": np.ones(3), "b": np.ones(3)}
    opt = fs.SGD(
        params, lr=plateau * 0.1, momentum=0.5 * plateau, groups=[{"match": "b", "lr": plateau}]
    )
    for _ in range(3):
        opt.step({"a": np.ones(3), "b": np.ones(3)}, loss=1.0)
    assert plateau.state_dict()["seen"] == 3
    assert plateau.state_dict()["bad"] == 2
