"""Settings that a parameter's type does not hold are refused by name, and nothing has changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusestep as fs
from tables.models import assert_same_bits

# where a number stands, and numbers that float32 makes 0 or infinite
NAMES: list[tuple[Any, str, str]] = [
    (fs.SGD, "lr", "lr"),
    (fs.SGD, "weight_decay", "weight_decay"),
    (fs.SGD, "momentum", "momentum"),
    (fs.SGD, "dampening", "dampening"),
    (fs.AdamW, "lr", "lr"),
    (fs.AdamW, "eps", "eps"),
    (fs.AdaBelief, "eps_root", "eps_root"),
]


@pytest.mark.parametrize(("optimizer", "name", "column"), NAMES)
@pytest.mark.parametrize("value", [1e-50, 7e-46, 3.5e38, 1e300])
def test_a_number_that_float32_does_not_hold_is_refused_by_name(
    optimizer: Any, name: str, column: str, value: float
) -> None:
    message = rf"^{name} must be (0 or )?between 1.4e-45 and 3.4e\+38 for params\['w'\], which is f"
    params = {"a": np.ones(2), "w": np.ones(2, np.float32)}
    options = {"momentum": 0.5} if optimizer is fs.SGD else {}
    with pytest.raises(ValueError, match=message):
        optimizer(params, **{**options, name: value})
    with pytest.raises(ValueError, match=message):
        optimizer(params, **options, groups=[{"match": "w", name: value}])
    opt = optimizer(params, **options, groups=[{"match": "w"}])
    before = getattr(opt, name), getattr(opt.groups[1], name)
    for target in (opt, opt.groups[1]):
        with pytest.raises(ValueError, match=message):
            setattr(target, name, value)
    assert (getattr(opt, name), getattr(opt.groups[1], name)) == before
    # float64 holds it
    opt.groups[0].lr = 1e-50
    optimizer({"a": np.ones(2)}, **{**options, name: value})


@pytest.mark.parametrize("name", ["lr", "weight_decay", "eps"])
@pytest.mark.parametrize("value", [1e-50, 1e39])
def test_a_schedule_that_leaves_float32_is_refused_by_the_step_that_meets_it(
    name: str, value: float
) -> None:
    w = {"w": np.ones(3, np.float32), "a": np.ones(3)}
    curve = fs.schedules.piecewise([0.5, value, 0.25], at=[1, 2])
    opt = fs.AdamW(w, groups=[{"match": "w", name: curve}])
    grads = {"w": np.ones(3, np.float32), "a": np.ones(3)}
    opt.step(grads)
    before = {path: array.copy() for path, array in w.items()}
    message = rf"^groups\[1\] {name} must be .*between .* float32, but .* at step 1; nothing was"
    with pytest.raises(ValueError, match=message):
        opt.step(grads)
    assert_same_bits(list(w.values()), list(before.values()))
    assert (opt.steps_applied, opt.steps_attempted, getattr(opt.groups[1], name)) == (1, 1, 0.5)
    assert opt.step(grads, clock=fs.Clock(step=2)).applied


def test_zero_is_a_number_like_any_other_but_for_eps() -> None:
    w = np.ones(2, np.float32)
    fs.AdaBelief(w, lr=0.0, weight_decay=0.0, eps_root=0.0, betas=(0.0, 0.0)).step(np.ones_like(w))
    for optimizer in (fs.Adam, fs.AdamW, fs.AdaBelief):
        with pytest.raises(ValueError, match=r"^eps must be greater than 0, not 0, or an element"):
            optimizer(w, eps=0.0)
        opt = optimizer(w, eps=fs.schedules.piecewise([1e-8, 0.0], at=[1]))
        opt.step(np.ones_like(w))
        with pytest.raises(ValueError, match="eps must be finite and greater than 0"):
            opt.step(np.ones_like(w))
    with pytest.raises(
        ValueError, match=r"^clip_value must be at least 1.4e-45 for params, which is float32"
    ):
        fs.SGD(w, clip_value=1e-50)
    fs.SGD(w, lr=1.0, clip_value=1e300).step(np.full(2, 3e38, np.float32))
    assert (w < -2e38).all()


def test_a_number_of_the_whole_optimizer_has_to_suit_the_parameters_of_every_group() -> None:
    params = {"a": np.ones(2), "w": np.ones(2, np.float32)}
    opt = fs.SGD(params, groups=[{"match": "w"}])
    with pytest.raises(
        ValueError, match=r"^clip_value must be at least 1\.4e-45 for params\['w'\]"
    ):
        opt.clip_value = 1e-50
    assert opt.clip_value is None
    opt.clip_norm = 1e-50
    assert opt.clip_norm == 1e-50


@pytest.mark.parametrize("scale", [1e-50, 1e39])
def test_a_grad_scale_that_float32_does_not_hold_is_refused(scale: float) -> None:
    params = {"a": np.zeros(2), "w": np.zeros(2, np.float32)}
    opt = fs.SGD(params, lr=1.0)
    grads = {"a": np.ones(2), "w": np.ones(2, np.float32)}
    with pytest.raises(ValueError, match=r"^grad_scale.*for params\['w'\], which is float32"):
        opt.step(grads, grad_scale=scale)
    opt.accumulate(grads, samples=4)
    with pytest.raises(ValueError, match=r"^grad_scale, times the samples of accumulated"):
        opt.step(grad_scale=scale)
    assert opt.accumulated == 4
    assert not np.concatenate(list(params.values())).any()
    opt.step()
    assert params["w"].tolist() == [-1.0, -1.0]
    fs.SGD(np.zeros(2)).step(np.ones(2), grad_scale=scale)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"lr": 1e38}, np.float32),
        ({"lr": 1e308}, np.float64),
        ({"lr": 1e30, "weight_decay": 1e30}, np.float32),
        ({"lr": fs.schedules.constant(1e38)}, np.float32),
    ],
)
def test_what_becomes_of_settings_has_to_fit_as_well(options: dict[str, Any], dtype: type) -> None:
    params = {"a": np.ones(3, dtype), "b": np.ones(3, dtype)}
    opt = fs.AdamW(params, **options)
    message = r"^params\['a'\]: lr, divided by the bias correction or times weight_decay, is beyond"
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            opt.step({"a": np.ones(3, dtype), "b": np.ones(3, dtype)})
    assert (opt.steps_attempted, opt.steps_applied, opt._plan.updates) == (0, 0, [0, 0])
    assert all((p == 1).all() for p in params.values())
    assert not any(s.any() for state in opt.state.values() for s in state.values())
    fs.AdamW(params, **{**options, "lr": 1e-3, "weight_decay": 0.1}).step({"a": None, "b": None})


def test_a_gpu_refuses_what_does_not_fit_and_changes_nothing(cupy: Any) -> None:
    ones = cupy.asarray(np.ones(3, np.float32))
    params = {"a": cupy.asarray(np.ones(3, np.float32))}
    opt = fs.AdamW(params, lr=1e38, nonfinite="skip")
    for nonfinite in ("skip", "propagate"):
        opt.nonfinite = nonfinite
        with pytest.raises(ValueError, match=r"^params\['a'\]: lr, divided by the bias correction"):
            opt.step({"a": ones})
        assert (opt.steps_attempted, opt.steps_applied, opt._plan.updates) == (0, 0, [0])
    opt.lr = 0.1
    assert opt.step({"a": ones}).applied
    opt.nonfinite = "raise"
    with pytest.raises(ValueError, match="gradient holds NaN; nothing"):
        opt.step({"a": cupy.asarray(np.array([1, np.nan, np.inf], np.float32))})
