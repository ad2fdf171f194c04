"""Settings out of range get an exact message, and the old ones stay."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fusestep as fs


def model() -> dict[str, Any]:
    return {"d": {"w": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32)}}


BAD_SETTINGS: list[tuple[type[fs.optim.Optimizer], dict[str, Any], type[Exception], str]] = [
    (fs.SGD, {"lr": -0.1}, ValueError, "lr must be finite and at least 0, not -0.1"),
    (fs.SGD, {"lr": math.nan}, ValueError, "lr must be finite and at least 0, not nan"),
    (fs.SGD, {"lr": math.inf}, ValueError, "lr must be finite and at least 0, not inf"),
    (fs.SGD, {"lr": "0.1"}, TypeError, "lr must be a number, not '0.1'"),
    (fs.SGD, {"lr": True}, TypeError, "lr must be a number, not True"),
    (fs.SGD, {"lr": None}, TypeError, "lr must be a number, not None"),
    (fs.SGD, {"lr": 1j}, TypeError, "lr must be a number, not 1j"),
    (fs.SGD, {"momentum": -1}, ValueError, "momentum must be finite and at least 0, not -1"),
    (fs.SGD, {"dampening": math.inf}, ValueError, "dampening must be finite, not inf"),
    (
        fs.SGD,
        {"weight_decay": -1},
        ValueError,
        "weight_decay must be finite and at least 0, not -1",
    ),
    (fs.SGD, {"nesterov": 1}, TypeError, "nesterov must be True or False, not 1"),
    (
        fs.SGD,
        {"nesterov": True},
        ValueError,
        "nesterov needs momentum above 0 and dampening 0, not momentum=0.0, dampening=0.0",
    ),
    (fs.Adam, {"betas": (0.9, 1.0)}, ValueError, "betas[1] must be in [0, 1), not 1"),
    (fs.Adam, {"betas": (-0.1, 0.9)}, ValueError, "betas[0] must be in [0, 1), not -0.1"),
    (fs.Adam, {"betas": 0.9}, TypeError, "betas must be two numbers (beta1, beta2), not 0.9"),
    (fs.Adam, {"betas": (0.9,)}, TypeError, "betas must be two numbers (beta1, beta2), not (0.9,)"),
    (fs.Adam, {"eps": -1e-8}, ValueError, "eps must be finite and greater than 0, not -1e-08"),
    (
        fs.Adam,
        {"eps_mode": "before"},
        ValueError,
        "eps_mode must be one of after, hat, not 'before'",
    ),
    (fs.AdamW, {"amsgrad": "yes"}, TypeError, "amsgrad must be True or False, not 'yes'"),
    (
        fs.AdamW,
        {"clip_norm": 0},
        ValueError,
        "clip_norm must be greater than 0, or None, not 0",
    ),
    (
        fs.AdamW,
        {"clip_norm": -1},
        ValueError,
        "clip_norm must be greater than 0, or None, not -1",
    ),
    (
        fs.AdamW,
        {"clip_value": math.nan},
        ValueError,
        "clip_value must be greater than 0, or None, not nan",
    ),
    (fs.AdamW, {"clip_value": "1"}, TypeError, "clip_value must be a number, not '1'"),
    (
        fs.AdamW,
        {"nonfinite": "ignore"},
        ValueError,
        "nonfinite must be 'propagate', 'skip' or 'raise', not 'ignore'",
    ),
    (fs.AdamW, {"cautious": 1}, TypeError, "cautious must be True or False, not 1"),
    (fs.Adam, {"nesterov": None}, TypeError, "nesterov must be True or False, not None"),
    (fs.AdamW, {"cautious_decay": 0}, TypeError, "cautious_decay must be True or False, not 0"),
    (
        fs.AdamW,
        {"update_clip": 0.0},
        ValueError,
        "update_clip must be finite and greater than 0, or None, not 0",
    ),
    (
        fs.Adam,
        {"update_clip": math.inf},
        ValueError,
        "update_clip must be finite and greater than 0, or None, not inf",
    ),
    (
        fs.AdamW,
        {"decay_by": "peak"},
        ValueError,
        "decay_by must be one of lr, max_lr, schedule, not 'peak'",
    ),
    (
        fs.AdamW,
        {"decay_by": "schedule"},
        ValueError,
        "decay_by='schedule' needs max_lr, the largest learning rate",
    ),
    (
        fs.StableAdamW,
        {"max_lr": 0.1},
        ValueError,
        "max_lr needs decay_by='max_lr' or decay_by='schedule', not 'lr'",
    ),
    (
        fs.AdamW,
        {"decay_by": "max_lr", "max_lr": -1},
        ValueError,
        "max_lr must be finite and greater than 0, or None, not -1",
    ),
    (
        fs.LARS,
        {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
        ValueError,
        "nesterov needs momentum above 0 and dampening 0, not momentum=0.9, dampening=0.1",
    ),
    (
        fs.LARS,
        {"trust_coefficient": -1},
        ValueError,
        "trust_coefficient must be finite and at least 0, not -1",
    ),
    (fs.LAMB, {"trust_clip": 2}, TypeError, "trust_clip must be True or False, not 2"),
    (fs.StableAdamW, {"eps": -1}, ValueError, "eps must be finite and greater than 0, not -1"),
    (fs.AdaBelief, {"eps_root": -1}, ValueError, "eps_root must be finite and at least 0, not -1"),
    (fs.RAdam, {"betas": (0.9, 1.0)}, ValueError, "betas[1] must be in [0, 1), not 1"),
    (fs.RAdam, {"eps_mode": "in"}, ValueError, "eps_mode must be one of after, hat, not 'in'"),
    (fs.ADOPT, {"eps": -1.0}, ValueError, "eps must be finite and greater than 0, not -1"),
    (
        fs.ADOPT,
        {"clip_exp": -0.25},
        ValueError,
        "clip_exp must be finite and at least 0, or None, not -0.25",
    ),
    (
        fs.AdEMAMix,
        {"betas": (0.9, 0.999)},
        TypeError,
        "betas must be three numbers (beta1, beta2, beta3), not (0.9, 0.999)",
    ),
    (fs.AdEMAMix, {"betas": (0.9, 0.9, 1)}, ValueError, "betas[2] must be in [0, 1), not 1"),
    (fs.AdEMAMix, {"alpha": -1}, ValueError, "alpha must be finite and at least 0, not -1"),
    (fs.ScheduleFreeSGD, {"momentum": 0}, ValueError, "momentum must be in (0, 1), not 0"),
    (fs.ScheduleFreeSGD, {"r": -1}, ValueError, "r must be finite and at least 0, not -1"),
    (fs.ScheduleFreeAdamW, {"betas": (0, 0.9)}, ValueError, "betas[0] must be in (0, 1), not 0"),
    (fs.ScheduleFreeAdamW, {"betas": (1, 0.9)}, ValueError, "betas[0] must be in (0, 1), not 1"),
    (
        fs.ScheduleFreeAdamW,
        {"warmup_steps": -1},
        ValueError,
        "warmup_steps must be finite and at least 0, not -1",
    ),
    (
        fs.ScheduleFreeAdamW,
        {"weight_lr_power": math.inf},
        ValueError,
        "weight_lr_power must be finite and at least 0, not inf",
    ),
    (fs.Lion, {"lr": -1}, ValueError, "lr must be finite and at least 0, not -1"),
    (fs.Lion, {"betas": (0.9, 1)}, ValueError, "betas[1] must be in [0, 1), not 1"),
    (fs.RMSprop, {"alpha": 1.0}, ValueError, "alpha must be in [0, 1), not 1"),
    (fs.RMSprop, {"eps": -1.0}, ValueError, "eps must be finite and greater than 0, not -1"),
    (fs.RMSprop, {"momentum": -1}, ValueError, "momentum must be finite and at least 0, not -1"),
    (fs.RMSprop, {"centered": 1}, TypeError, "centered must be True or False, not 1"),
    (
        fs.RMSprop,
        {"initial_accumulator_value": -1.0},
        ValueError,
        "initial_accumulator_value must be finite and at least 0, not -1",
    ),
    (fs.Adagrad, {"lr_decay": -1}, ValueError, "lr_decay must be finite and at least 0, not -1"),
    (fs.Adagrad, {"eps_in_sqrt": "no"}, TypeError, "eps_in_sqrt must be True or False, not 'no'"),
    (
        fs.Adagrad,
        {"initial_accumulator_value": math.nan},
        ValueError,
        "initial_accumulator_value must be finite and at least 0, not nan",
    ),
    (fs.Adamax, {"eps_mode": "hat"}, ValueError, "eps_mode must be one of max, after, not 'hat'"),
    (fs.Adadelta, {"rho": 1}, ValueError, "rho must be in [0, 1), not 1"),
    (fs.Rprop, {"etas": (1.0, 1.2)}, ValueError, "etas[0] must be in [0, 1), not 1"),
    (fs.Rprop, {"etas": (0.5, 0.9)}, ValueError, "etas[1] must be finite and at least 1, not 0.9"),
    (fs.Rprop, {"etas": 0.5}, TypeError, "etas must be two numbers (eta_minus, eta_plus), not 0.5"),
    (
        fs.Rprop,
        {"step_sizes": (1.0, 0.5)},
        ValueError,
        "step_sizes must be the smallest and the largest step, not (1.0, 0.5)",
    ),
    (
        fs.Rprop,
        {"step_sizes": (1e-50, 0.5)},
        ValueError,
        "step_sizes (min_step) must be 0 or between 1.4e-45 and 3.4e+38 for params['d/w'], which "
        "is float32, not 1e-50",
    ),
    (fs.AdamW, {"groups": {"match": "*"}}, TypeError, "groups must be a list of dicts, not dict"),
    (
        fs.AdamW,
        {"groups": ["*/b"]},
        ValueError,
        "groups[0]: must be a dict with the key 'match', not '*/b'",
    ),
    (
        fs.AdamW,
        {"groups": [{"match": 3}]},
        TypeError,
        "groups[0]['match'] must be a pattern or a list of patterns, not 3",
    ),
    (
        fs.AdamW,
        {"groups": [{"match": "d/b"}, {"match": "*/b"}]},
        ValueError,
        "groups[1]: no parameter matches ['*/b'] that an earlier group has not; "
        "the paths are 'd/w', 'd/b'",
    ),
    (
        fs.AdamW,
        {"groups": [{"match": "*", "wd": 0.0}]},
        ValueError,
        "groups[0]: no setting 'wd'; did you mean 'weight_decay'?",
    ),
    (
        fs.AdamW,
        {"groups": [{"match": "*", "lr": -1}]},
        ValueError,
        "lr must be finite and at least 0, not -1",
    ),
]


@pytest.mark.parametrize(("optimizer", "options", "error", "message"), BAD_SETTINGS)
def test_a_setting_out_of_range_is_refused(
    optimizer: type[fs.optim.Optimizer],
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error) as caught:
        optimizer(model(), **options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", -1.0), ("betas", (2.0, 0.9)), ("clip_norm", -1.0), ("nonfinite", "x")],
)
def test_a_setting_assigned_out_of_range_leaves_the_old_one(name: str, value: Any) -> None:
    opt = fs.AdamW(model())
    before = getattr(opt, name)
    with pytest.raises(ValueError, match=name):
        setattr(opt, name, value)
    assert getattr(opt, name) == before


def test_groups_come_in_one_form_at_a_time() -> None:
    with pytest.raises(ValueError, match="use one form, not both"):
        fs.SGD([{"params": np.ones(2)}], groups=[{"match": "*"}])
    with pytest.raises(ValueError, match=r"^params\[1\]: must be a dict with the key 'params'"):
        fs.SGD([{"params": np.ones(2)}, {"parms": np.ones(2)}])


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_grad_scale_must_be_positive_and_finite(scale: float) -> None:
    w = np.ones(3)
    with pytest.raises(ValueError, match=r"^grad_scale must be finite and greater than 0, not "):
        fs.SGD(w).step(np.ones(3), grad_scale=scale)
    assert (w == 1).all()


@pytest.mark.parametrize("threads", [0, -1, 2000])
def test_the_number_of_threads_is_checked(threads: int) -> None:
    with pytest.raises(ValueError, match=r"^n must be a whole number from 1 to 1024, not "):
        fs.set_num_threads(threads)
