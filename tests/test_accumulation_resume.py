"""State saved between the micro-batches of a step: the same bits, and what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from tables.models import MICRO_BATCHES, Array, arrays, assert_same_bits, micro_batches
from tables.registry import ROWS, Row


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    """The state after JSON, with its arrays beside it."""
    kept: list[Array] = []

    def put(value: Any) -> Any:
        kept.append(value)
        return {"array": len(kept) - 1}

    def get(entry: dict[str, Any]) -> Any:
        return kept[entry["array"]] if entry.keys() == {"array"} else entry

    return json.loads(json.dumps(state, default=put), object_hook=get)  # type: ignore[no-any-return]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
@pytest.mark.parametrize("stop", range(len(MICRO_BATCHES) + 1))
def test_a_run_saved_in_mid_accumulation_goes_on_with_the_same_bits(row: Row, stop: int) -> None:
    sizes = (33, 0, 1000)
    params = arrays(sizes, np.float32, 0)
    opt = row.build(params, clip_norm=1.0)
    first, second = (micro_batches(sizes, np.float32, seed) for seed in (1, 2))
    for micro in first:
        opt.accumulate(*micro)
    opt.step()
    for grads, samples in second[:stop]:
        opt.accumulate([grads[0], grads[1], None if stop < 3 else grads[2]], samples)
    copies = [p.copy() for p in params]
    resumed = row.build(copies, clip_norm=1.0)
    resumed.accumulate(arrays(sizes, np.float32, 99), 7)  # is replaced
    resumed.load_state_dict(through_json(opt.state_dict()))
    assert resumed.accumulated == opt.accumulated
    statistics = [fs.gradients.GradientStatistics() for _ in range(2)]
    for one, learnt in zip((opt, resumed), statistics, strict=True):
        for micro in second[stop:]:
            one.accumulate(*micro)
        one.step(statistics=learnt)
    assert_same_bits(params, copies)
    assert repr(resumed.state_dict()) == repr(opt.state_dict())
    assert statistics[0].state_dict() == statistics[1].state_dict()


def test_saved_gradients_are_copies() -> None:
    opt = fs.SGD(np.ones(3))
    opt.accumulate(np.ones(3), 2)
    state = opt.state_dict()
    opt.accumulate(np.ones(3), 2)
    assert (state["accumulated"]["gradients"][""] == 2.0).all()
    opt.load_state_dict(state)
    state["accumulated"]["gradients"][""][:] = 7.0
    assert (opt.state_dict()["accumulated"]["gradients"][""] == 2.0).all()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: a.clear(), "accumulated.samples: not saved"),
        (lambda a: a.update(gradients=None), "accumulated.gradients: must be a dict, not None"),
        (lambda a: a["gradients"].pop("b"), "accumulated.gradients: must be a dict with the"),
        (lambda a: a["gradients"].update(zzz=None), "accumulated.gradients: must be a dict"),
        (lambda a: a["gradients"].update(a=[1.0]), "params['a'] accumulated gradient: must be an"),
        (lambda a: a["gradients"].update(a=np.ones(4)), "accumulated gradient shape: saved (4,)"),
        (
            lambda a: a["gradients"].update(a=np.ones(3, np.float32)),
            "accumulated gradient dtype: saved float32, present float64",
        ),
        (
            lambda a: a.update(samples=-1.0),
            "accumulated.samples: must be a finite number",
        ),
        (lambda a: a.update(samples=math.nan), "accumulated.samples: must be a finite"),
        (lambda a: a.update(samples=math.inf), "accumulated.samples: must be a finite"),
        (lambda a: a.update(samples=10**400), "accumulated.samples: must be a finite"),
        (lambda a: a.update(samples="2"), "accumulated.samples: must be a finite"),
        (lambda a: a.update(samples=0.0), "1 micro-batches can't have 0.0 samples"),
        (lambda a: a.update(micro_batches=0), "0 micro-batches can't have 2.0 samples"),
        (lambda a: a.update(micro_batches=1.5), "accumulated.micro_batches: must be a whole"),
        (lambda a: a.update(micro_batches=0, samples=0.0), "can't have 0.0 samples, gradients"),
        (
            lambda a: a.update(weighted_squared_norms=-1.0),
            "weighted_squared_norms: must be a",
        ),
        (
            lambda a: a.update(weighted_squared_norms=None),
            "weighted_squared_norms: must be a",
        ),
    ],
)
def test_a_damaged_state_is_refused_whole(damage: Any, message: str) -> None:
    def build() -> fs.SGD:
        opt = fs.SGD({"a": np.ones(3), "b": np.ones(2)}, lr=0.5)
        opt.accumulate({"a": np.ones(3), "b": None}, 2)
        return opt

    opt, state = build(), build().state_dict()
    state["settings"]["lr"] = 0.1
    damage(state["accumulated"])
    before = repr(opt.state_dict())
    with pytest.raises(fs.StateError) as caught:
        opt.load_state_dict(state)
    assert message in str(caught.value)
    assert repr(opt.state_dict()) == before


def test_a_sum_that_overflowed_can_be_saved_and_loaded() -> None:
    opt = fs.SGD(np.ones(3))
    opt.accumulate(np.full(3, 1e200), 2)
    other = fs.SGD(np.ones(3))
    other.load_state_dict(through_json(opt.state_dict()))
    assert repr(other.state_dict()) == repr(opt.state_dict())
