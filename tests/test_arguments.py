"""Arguments and settings have their names, and are found by them."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import schedules
from tables.registry import ROWS

LINE = schedules.linear(1.0, 0.0, length=10)


def model() -> dict[str, Any]:
    return {"u": np.zeros(2), "v": np.zeros(2)}


UNKNOWN: list[tuple[type[fs.Optimizer], dict[str, Any], str]] = [
    (
        fs.AdamW,
        {"learning_rate": 1e-3},
        "AdamW has no argument 'learning_rate'; did you mean 'lr'?",
    ),
    (
        fs.AdamW,
        {"weigth_decay": 0.1},
        "AdamW has no argument 'weigth_decay'; did you mean 'weight_decay'?",
    ),
    (fs.Adam, {"wd": 0.1}, "Adam has no argument 'wd'; did you mean 'weight_decay'?"),
    (fs.Adam, {"beta1": 0.9}, "Adam has no argument 'beta1'; did you mean 'betas'?"),
    (fs.Adam, {"momentum": 0.9}, "Adam has no argument 'momentum'; did you mean 'betas'?"),
    (fs.Adam, {"LR": 0.9}, "Adam has no argument 'LR'; did you mean 'lr'?"),
    (fs.Adam, {"epsilon": 1e-8}, "Adam has no argument 'epsilon'; did you mean 'eps'?"),
    (fs.SGD, {"nesterow": True}, "SGD has no argument 'nesterow'; did you mean 'nesterov'?"),
    (
        fs.SGD,
        {"max_grad_norm": 1.0},
        "SGD has no argument 'max_grad_norm'; did you mean 'clip_norm'?",
    ),
    (fs.SGD, {"param_groups": []}, "SGD has no argument 'param_groups'; did you mean 'groups'?"),
    (
        fs.SGD,
        {"foreach": True},
        "SGD has no argument 'foreach'; known are params, lr, momentum, dampening, nesterov, "
        "weight_decay, decoupled_weight_decay, maximize, ema, agc, agc_eps, agc_axis, lazy, "
        "groups, clip_norm, clip_value, nonfinite, ema_every, copies, history",
    ),
]


@pytest.mark.parametrize(("optimizer", "options", "message"), UNKNOWN)
def test_an_unknown_argument_names_the_class_and_the_nearest_that_there_is(
    optimizer: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError) as caught:
        optimizer(model(), **options)
    assert str(caught.value) == message


def test_arguments_but_the_parameters_have_names() -> None:
    build: Any = fs.AdamW
    with pytest.raises(
        TypeError, match=r"^AdamW takes params without a name, .* AdamW\(params, lr=\.\.\.\)$"
    ):
        build(model(), 1e-3)

    class Mine(fs.AdamW):
        pass

    mine: Any = Mine
    with pytest.raises(
        TypeError, match=r"^Mine has no argument 'l2'; did you mean 'weight_decay'\?$"
    ):
        mine(model(), l2=0.1)


def test_unknown_settings_of_groups_name_the_nearest() -> None:
    group: Any = fs.AdamW(model()).groups[0]
    with pytest.raises(AttributeError, match=r"^no setting 'learning_rate'; did you mean 'lr'\?$"):
        group.learning_rate = 1.0
    with pytest.raises(AttributeError, match=r"^no setting 'momentum'; did you mean 'betas'\?$"):
        _ = group.momentum
    with pytest.raises(
        ValueError, match=r"^params\[0\]: no setting 'wd'; did you mean 'weight_decay'\?$"
    ):
        fs.SGD([{"params": np.zeros(1), "wd": 0.1}])


@pytest.mark.parametrize(
    "optimizer", sorted({row.optimizer for row in ROWS}, key=lambda o: o.__name__)
)
def test_signatures_and_groups_show_every_setting(optimizer: Any) -> None:
    parameters = inspect.signature(optimizer).parameters
    kinds = {parameter.kind for parameter in list(parameters.values())[1:]}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}
    opt = optimizer(model())
    common = ["groups", "clip_norm", "clip_value", "nonfinite", "ema_every", "copies", "history"]
    assert list(parameters)[-7:] == common
    for name in list(parameters)[1:-7]:
        assert name in dir(opt.groups[0])
        assert getattr(opt.groups[0], name) == getattr(opt, name) == parameters[name].default


def test_the_text_of_an_optimizer_shows_what_was_set() -> None:
    opt = fs.SGD(model(), lr=LINE, clip_norm=1.5, groups=[{"match": "v", "lr": 0.1}])
    assert repr(opt) == (
        "SGD(2 parameters in 2 groups, lr=linear(start=1.0, end=0.0, length=10), momentum=0.0, "
        "dampening=0.0, nesterov=False, weight_decay=0.0, decoupled_weight_decay=False, "
        "maximize=False, clip_norm=1.5)"
    )
    assert repr(opt.groups[1]) == "Group(1 parameters, match=('v',), lr=0.1)"


def test_what_a_step_tells_is_a_step_info() -> None:
    info = fs.SGD(model()).step(model())
    assert isinstance(info, fs.StepInfo)
    assert not isinstance((0.1, None, True), fs.StepInfo)


@pytest.mark.parametrize("name", ["applied", "attempted", "skipped"])
def test_earlier_names_of_counts_tell_the_present_ones(name: str) -> None:
    opt: Any = fs.SGD(model())
    with pytest.raises(AttributeError, match=rf"^SGD\.{name} is called steps_{name} now$"):
        getattr(opt, name)
    assert getattr(opt, f"steps_{name}") == 0
    with pytest.raises(AttributeError, match=f"is called steps_{name}"):
        setattr(opt, name, 3)


def test_earlier_names_of_settings_tell_the_present_ones() -> None:
    build: Any = fs.SGD
    meant = "; did you mean 'decoupled_weight_decay'?"
    with pytest.raises(TypeError) as refused:
        build(model(), decoupled=True)
    assert str(refused.value) == f"SGD has no argument 'decoupled'{meant}"
    with pytest.raises(ValueError, match="did you mean 'decoupled_weight_decay'"):
        build(model(), groups=[{"match": "u", "decoupled": True}])
    opt = build(model())
    with pytest.raises(
        AttributeError, match=r"^SGD\.decoupled is called decoupled_weight_decay now"
    ):
        _ = opt.decoupled
    with pytest.raises(AttributeError, match="did you mean 'decoupled_weight_decay'"):
        _ = opt.groups[0].decoupled


def test_an_unknown_attribute_names_the_nearest_and_a_class_of_ones_own_has_its_own() -> None:
    opt: Any = fs.AdamW(model())
    for name, meant in {"learning_rate": "lr", "max_norm": "clip_norm"}.items():
        with pytest.raises(
            AttributeError, match=rf"^no setting {name!r}; did you mean {meant!r}\?$"
        ):
            setattr(opt, name, 1.0)
    with pytest.raises(AttributeError, match="'AdamW' object has no attribute 'flavour'"):
        _ = opt.flavour

    class Mine(fs.AdamW):
        pass

    mine: Any = Mine(model())
    mine.flavour = "plum"
    assert mine.flavour == "plum"


def test_what_users_see_of_an_optimizer_is_what_they_use() -> None:
    opt = fs.SGD(model(), groups=[{"match": "v"}])
    for thing in (opt, opt.groups[1]):
        shown = {name for name in dir(thing) if not name.startswith("__")}
        assert not any(name.startswith("_") for name in shown)
        assert {"lr", "momentum", "nesterov", "schedules", "paths"} <= shown
        for name in shown:
            getattr(thing, name)
    assert {"step", "clip_norm", "steps_applied", "load_state_dict"} <= set(dir(opt))
    assert "step" not in dir(opt.groups[1])


def test_params_and_groups_are_not_assigned() -> None:
    opt: Any = fs.SGD(model())
    with pytest.raises(AttributeError, match="rebind"):
        opt.params = model()
    with pytest.raises(AttributeError, match="add_group"):
        opt.groups = []


def test_an_optimizer_without_a_rule_and_one_without_params_are_refused() -> None:
    build: Any = fs.Optimizer
    with pytest.raises(TypeError, match=r"^Optimizer has no rule: use SGD, Adam"):
        build(model())
    for args, given in [((), {"lr": 0.1}), ((model(),), {"params": model()})]:
        with pytest.raises(TypeError, match=r"^Adam needs params, once$"):
            fs.Adam(*args, **given)  # type: ignore[misc]


def test_a_class_of_ones_own_may_declare_other_defaults() -> None:
    class Slow(fs.AdamW):
        """Smaller steps."""

        lr: Any = type(fs.AdamW.lr)(1e-4)

    assert inspect.signature(Slow).parameters["lr"].default == 1e-4
    assert Slow(model()).lr == 1e-4

    class Quick(fs.AdamW):
        def __init__(self, params: Any, boost: float) -> None:
            super().__init__(params, lr=1e-3 * boost)

    assert [*inspect.signature(Quick).parameters] == ["params", "boost"]
    assert Quick(model(), 8.0).lr == 8e-3
