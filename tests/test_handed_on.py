"""What one update hands to the next: kept with each parameter, undone, saved and loaded."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import schedules
from tables.models import DTYPES, Array, arrays, assert_same_bits
from tables.oracle import Oracle
from tables.registry import ROWS

NADAM = next(row for row in ROWS if row.rule == "nadam" and "momentum_decay" in row.options)
SIZES = (5, 33, 1000)


def momentum(t: int, beta1: float, decay: float) -> float:
    return float(beta1 * (1.0 - 0.5 * 0.96 ** (t * decay)))


def product(opt: fs.optim.Optimizer, path: str = "0") -> float:
    value: float = opt.state_dict()["parameters"][path]["values"]["mu_product"]
    return value


def test_the_product_of_momenta_is_saved_with_each_parameter() -> None:
    params = arrays(SIZES, np.float32, 0)
    opt = fs.NAdam(params, betas=(0.8, 0.95), momentum_decay=0.5)
    assert product(opt) == 1.0
    opt.step([*arrays(SIZES[:2], np.float32, 1), None])
    opt.step(arrays(SIZES, np.float32, 2))
    first, second = (momentum(t, 0.8, 0.5) for t in (1, 2))
    assert product(opt, "0") == product(opt, "1") == pytest.approx(first * second, rel=1e-14)
    assert product(opt, "2") == pytest.approx(first, rel=1e-14)
    assert "values" not in fs.Adam(np.ones(2)).state_dict()["parameters"][""]


@pytest.mark.parametrize("dtype", DTYPES)
def test_parameters_with_other_pasts_have_scalars_of_their_own(dtype: type) -> None:
    """The same number of updates, and yet not the same product."""
    params = arrays((7, 7), dtype, 0)
    oracle = Oracle("nadam", dict(NADAM.full), params)
    opt = NADAM.build(params)
    for step in range(6):
        opt.betas = oracle.h["betas"] = (0.8 - 0.1 * step, 0.95)
        grads: list[Array | None] = list(arrays((7, 7), dtype, step + 1))
        if step < 2:
            grads[step] = None  # the first update of each is under other betas
        opt.step(grads)
        oracle.step(grads)
    assert opt.state_dict()["parameters"]["0"]["updates"] == 5
    assert opt.state_dict()["parameters"]["1"]["updates"] == 5
    assert product(opt, "0") != product(opt, "1")
    assert_same_bits(params, oracle.params)


def test_betas_that_follow_a_schedule_give_the_product_of_what_was_used() -> None:
    params = arrays(SIZES, np.float64, 0)
    oracle = Oracle("nadam", dict(NADAM.full), params)
    beta1 = schedules.linear(0.9, 0.5, length=4)
    opt = fs.NAdam(params, **{**NADAM.options, "betas": (beta1, 0.95)})
    for step in range(5):
        oracle.h["betas"] = (beta1(step), 0.95)
        grads = arrays(SIZES, np.float64, step + 1)
        opt.step(grads)
        oracle.step(grads)
    assert_same_bits(params, oracle.params)
    assert product(opt) == oracle.state[0].handed_on["mu_product"]


def test_a_run_that_is_resumed_has_the_bits_of_one_that_never_stopped() -> None:
    whole, resumed = arrays(SIZES, np.float32, 0), arrays(SIZES, np.float32, 0)
    opt, first = NADAM.build(whole), NADAM.build(resumed)
    for seed in (1, 2, 3):
        for one in (opt, first):
            one.step(arrays(SIZES, np.float32, seed))
    state = first.state_dict()
    text = json.dumps({path: e["values"] for path, e in state["parameters"].items()})
    for path, values in json.loads(text).items():
        state["parameters"][path]["values"] = values
    second = NADAM.build(resumed)
    second.load_state_dict(state)
    for seed in (4, 5):
        for one in (opt, second):
            one.step(arrays(SIZES, np.float32, seed))
    assert_same_bits(resumed, whole)
    assert repr(second.state_dict()) == repr(opt.state_dict())


@pytest.mark.parametrize("value", [-0.1, 1.5, np.nan, "1", None, True])
def test_a_value_out_of_range_is_refused_and_nothing_loaded(value: Any) -> None:
    opt = fs.NAdam({"w": np.ones(3)})
    opt.step({"w": np.ones(3)})
    before, state = opt.state_dict(), opt.state_dict()
    state["parameters"]["w"]["values"]["mu_product"] = value
    with pytest.raises(fs.StateError, match=r"params\['w'\].values.mu_product: must be a number"):
        opt.load_state_dict(state)
    assert repr(opt.state_dict()) == repr(before)


@pytest.mark.parametrize("values", [{}, None, {"mu_product": 0.5, "more": 1.0}])
def test_values_must_be_those_of_the_rule(values: Any) -> None:
    opt = fs.NAdam({"w": np.ones(3)})
    state = opt.state_dict()
    state["parameters"]["w"]["values"] = values
    with pytest.raises(fs.StateError, match=r"params\['w'\].values"):
        opt.load_state_dict(state)
    del state["parameters"]["w"]["values"]
    with pytest.raises(fs.StateError, match=r"params\['w'\].values: not saved"):
        opt.load_state_dict(state)
    adam = fs.Adam({"w": np.ones(3)})
    state = adam.state_dict()
    state["parameters"]["w"]["values"] = {}
    with pytest.raises(fs.StateError, match=r"params\['w'\].values: unknown"):
        adam.load_state_dict(state)


def test_new_parameters_and_a_reset_begin_anew() -> None:
    opt = fs.NAdam({"a": np.ones(3)})
    opt.step({"a": np.ones(3)})
    other = fs.NAdam({"a": np.ones(3), "b": np.ones(2)})
    for _ in range(2):
        other.step({"a": np.ones(3), "b": np.ones(2)})
    other.load_state_dict(opt.state_dict(), strict=False)
    assert (product(other, "a"), product(other, "b")) == (product(opt, "a"), 1.0)
    opt.add_group({"c": np.ones(2)})
    assert (product(opt, "c"), product(opt, "a") < 1.0) == (1.0, True)
    opt.reset()
    assert product(opt, "a") == 1.0


@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
def test_a_step_that_is_refused_hands_nothing_on(nonfinite: Any) -> None:
    opt = fs.NAdam(np.ones(3), nonfinite=nonfinite)
    opt.step(np.ones(3))
    before = product(opt, "")
    if nonfinite == "raise":
        with pytest.raises(ValueError, match="NaN"):
            opt.step(np.full(3, np.nan))
    else:
        opt.step(np.full(3, np.nan))
    assert product(opt, "") == before


def test_a_scalar_beyond_the_type_hands_nothing_on() -> None:
    params = [np.ones(3, np.float64), np.ones(3, np.float32)]
    opt = fs.NAdam(params, lr=3e38, betas=(0.9999999, 0.5), momentum_decay=1000.0)
    opt.lr = 3e38
    with pytest.raises(ValueError, match=r"params\['1'\].*beyond float32"):
        opt.step([np.ones(3, np.float64), np.ones(3, np.float32)])
    assert product(opt, "0") == product(opt, "1") == 1.0
    assert opt.state_dict()["parameters"]["0"]["updates"] == 0
