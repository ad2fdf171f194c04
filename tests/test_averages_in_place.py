"""Parameters hold their averages inside a with statement, and their own bits afterwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusestep as fs
from tables.models import assert_same_bits


def test_parameters_hold_their_averages_inside_and_their_own_bits_afterwards() -> None:
    params = {"a": np.array([1.0, np.nan]), "b": np.zeros((), np.float32), "c": np.zeros(0)}
    groups = [{"match": "b", "ema": None}]
    opt = fs.SGD(params, lr=1.0, ema=0.5, groups=groups)
    for _ in range(2):
        opt.step({"a": -np.ones(2), "b": np.ones((), np.float32), "c": np.ones(0)})
    own = {name: array.copy() for name, array in params.items()}
    with opt.averaged_in_place():
        assert params["a"][0] == opt.averaged["a"][0] == 2.5
        assert params["b"] == -2.0
        state = opt.state_dict()
        params["a"][...] = 17.0
    assert_same_bits(list(params.values()), list(own.values()))
    assert repr(opt.state_dict()) == repr(state)
    opt.step({"a": -np.ones(2), "b": None, "c": None})
    assert opt.averaged["a"][0] == 3.25


def test_an_exception_inside_takes_the_averages_back() -> None:
    w = np.zeros(2)
    opt = fs.SGD(w, lr=1.0, ema=1.0)
    opt.step(np.ones(2))
    opt.step(np.ones(2))

    class Stop(Exception):
        pass

    def evaluate() -> None:
        with opt.averaged_in_place():
            assert w.tolist() == [-1.0, -1.0]
            raise Stop

    with pytest.raises(Stop):
        evaluate()
    assert w.tolist() == [-2.0, -2.0]
    inside: Any = opt.averaged_in_place()
    inside.__enter__()
    assert w.tolist() == [-1.0, -1.0]
    del inside  # as where an interrupt keeps __exit__ from being called
    assert w.tolist() == [-2.0, -2.0]


def test_what_reads_or_replaces_parameters_is_refused_inside() -> None:
    w = np.zeros(2)
    opt = fs.SGD({"w": w}, lr=1.0, ema=0.5)
    state = opt.state_dict()
    plan: Any = opt._plan
    calls: list[Any] = [
        lambda: opt.step({"w": np.ones(2)}),
        lambda: plan.begin_parts([np.ones(2)], 1.0, None),
        lambda: opt.load_state_dict(state),
        opt.reset,
        lambda: opt.rebind({"w": w}),
        lambda: opt.add_group({"b": np.zeros(1)}),
        lambda: opt.averaged_in_place().__enter__(),
    ]
    with opt.averaged_in_place():
        for call in calls:
            with pytest.raises(fs.StateError, match=r"leave averaged_in_place\(\) first"):
                call()
        opt.lr = 0.5
        opt.accumulate({"w": np.ones(2)}, samples=1)
    opt.step()
    assert w.tolist() == [-0.5, -0.5]


def test_a_parameter_resized_inside_is_named_as_lost_and_one_made_read_only_is_not() -> None:
    params = [np.zeros(2), np.zeros(2)]
    opt = fs.SGD(params, lr=1.0, ema=1.0)
    opt.step([np.ones(2), np.ones(2)])
    opt.step([np.ones(2), np.ones(2)])

    def evaluate() -> None:
        with opt.averaged_in_place():
            params[0].resize(5000, refcheck=False)
            params[1].flags.writeable = False

    with pytest.raises(fs.StateError, match="resized or given other memory inside"):
        evaluate()
    assert params[1].tolist() == [-2.0, -2.0]


@pytest.mark.parametrize("optimizer", [fs.ScheduleFreeSGD, fs.ScheduleFreeAdamW])
def test_schedule_free_shows_its_own_average_in_place_and_takes_no_other(optimizer: Any) -> None:
    w = np.ones(3)
    opt = optimizer(w, lr=0.5)
    for _ in range(3):
        opt.step(w.copy())
    own, average = w.copy(), opt.averaged
    assert not np.array_equal(own, average)
    with opt.averaged_in_place():
        assert_same_bits([w], [average])
    assert_same_bits([w], [own])
    for options in ({"ema": 0.9}, {"groups": [{"match": "*", "ema": 0.9}]}):
        with pytest.raises(
            ValueError, match=r"^ema must be None, not 0.9: ScheduleFree\w+ averages"
        ):
            optimizer({"w": w}, **options)
