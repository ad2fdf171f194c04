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
        "weight_decay, decoupled, maximize, groups, clip_norm, clip_value, nonfinite",
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
    settings = opt._settings.defaults
    assert [*settings, "groups", "clip_norm", "clip_value", "nonfinite"] == list(parameters)[1:]
    for name in settings:
        assert name in dir(opt.groups[0])
        assert getattr(opt.groups[0], name) == getattr(opt, name) == settings[name]
        assert name == "decoupled" or settings[name] == parameters[name].default


def test_the_text_of_an_optimizer_shows_what_was_set() -> None:
    opt = fs.SGD(model(), lr=LINE, clip_norm=1.5, groups=[{"match": "v", "lr": 0.1}])
    assert repr(opt) == (
        "SGD(2 parameters in 2 groups, lr=linear(start=1.0, end=0.0, length=10), momentum=0.0, "
        "dampening=0.0, nesterov=False, weight_decay=0.0, decoupled=False, maximize=False, "
        "clip_norm=1.5)"
    )
    assert repr(opt.groups[1]) == "Group(1 parameters, match=('v',), lr=0.1)"


def test_what_a_step_tells_is_a_step_info() -> None:
    info = fs.SGD(model()).step(model())
    assert isinstance(info, fs.StepInfo)
    assert not isinstance((0.1, None, True), fs.StepInfo)
