"""State arrays follow the table of the rule: shapes, types, first values, native checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import _core
from fusestep.engines import cpu, states
from fusestep.engines.states import first_value, new_states

COLUMNS = (("lr", 0.0, 1.0, False, False),)
STATES = (
    ("sum", 0.5, False, "element"),
    ("copy", None, False, "element"),
    ("scale", 2.0, True, "tensor"),
    ("row", 0.0, False, "row"),
    ("column", 0.0, True, "column"),
)


@pytest.fixture(autouse=True)
def a_rule_with_all_kinds_of_state(monkeypatch: pytest.MonkeyPatch) -> None:
    made = type(_core.rules()["adam"])(COLUMNS, STATES, (), 0)
    monkeypatch.setitem(states._RULES, "made", made)


def built(parameters: list[Any], groups: list[int], kept: Any = None) -> list[dict[str, Any]]:
    used = [[state[0] for state in STATES], ["sum"]]
    kept = kept or [{}] * len(parameters)
    return new_states("made", parameters, groups, used, cpu.zeros, kept)


@pytest.mark.parametrize(
    ("shape", "row", "column"),
    [
        ((3, 4), (3,), (4,)),
        ((2, 3, 4), (2, 3), (2, 4)),
        ((5,), (5,), ()),
        ((), (), ()),
        ((0, 4), (0,), (4,)),
        ((4, 0), (4,), (0,)),
    ],
)
def test_arrays_have_the_shapes_types_and_first_values_of_the_table(
    shape: tuple[int, ...], row: tuple[int, ...], column: tuple[int, ...]
) -> None:
    p = np.arange(float(np.prod(shape))).reshape(shape).astype(np.float32)
    (state,) = built([p], [0])
    assert {name: (a.shape, a.dtype) for name, a in state.items()} == {
        "sum": (shape, np.float32),
        "copy": (shape, np.float32),
        "scale": ((), np.float64),
        "row": (row, np.float32),
        "column": (column, np.float64),
    }
    assert (state["sum"] == 0.5).all()
    assert (state["copy"] == p).all()
    assert not np.may_share_memory(state["copy"], p)
    assert state["scale"] == 2.0
    assert not state["row"].any()
    assert not state["column"].any()
    assert all(a.ctypes.data % 64 == 0 for a in state.values() if a.size)


def test_each_group_has_the_arrays_that_it_asks_for_and_keeps_those_it_has() -> None:
    first = np.full(2, 7.0)
    a, b = built([np.ones(2), np.ones(2)], [0, 1], kept=[{}, {"sum": first}])
    assert (list(a), list(b)) == ([state[0] for state in STATES], ["sum"])
    assert b["sum"] is first


def test_a_first_value_is_a_number_or_the_parameter() -> None:
    assert first_value("made", "sum") == 0.5
    assert first_value("made", "copy") is None


def plan(held: dict[str, Any], p: Any, rule: str = "adam") -> _core.CpuPlan:
    opt = {"adam": fs.Adam, "nadam": fs.NAdam}[rule](p.copy())
    return _core.CpuPlan(rule, ["w"], [p], [held], [0], opt._plan.settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": None}, "state 'v' is missing"),
        ({"v": np.zeros(6, np.float32)}, "state 'v' has another dtype or shape"),
        ({"v": np.zeros((3, 2), np.float32)}, "state 'v' has another dtype or shape"),
        ({"v": np.zeros((2, 3), np.float64)}, "state 'v' has another dtype or shape"),
        ({"m": np.zeros((2, 6), np.float32)[:, ::2]}, "state 'm': must be C-contiguous"),
    ],
)
def test_arrays_that_are_not_what_the_rule_asks_for_are_refused(
    change: dict[str, Any], message: str
) -> None:
    p = np.ones((2, 3), np.float32)
    held = {"m": np.zeros_like(p), "v": np.zeros_like(p)}
    assert plan(held, p).updates == [0]
    held = {name: a for name, a in {**held, **change}.items() if a is not None}
    with pytest.raises((ValueError, TypeError), match=rf"params\['w'\] {message}"):
        plan(held, p)


def test_values_out_of_their_bounds_are_refused() -> None:
    p = np.ones(3)
    one = plan({"m": np.zeros(3), "v": np.zeros(3)}, p, "nadam")
    state: dict[str, Any] = {
        "updates": [1],
        "attempted": 1,
        "applied": 1,
        "accumulated": one.accumulated,
        "settings": one.settings,
        "program": None,
        "targets": [],
        "nonfinite": "propagate",
    }
    for values in ([[1.5]], [[-0.5]], [[float("nan")]]):
        with pytest.raises(ValueError, match=r"params\['w'\] mu_product must be from 0.0 to 1.0"):
            one.load(**state, values=values)
    with pytest.raises(ValueError, match="expected 1 lists of values, not 2"):
        one.load(**state, values=[[0.5], [0.5]])
    with pytest.raises(ValueError, match=r"params\['w'\] needs 1 values, not 2"):
        one.load(**state, values=[[0.5, 0.5]])
    assert (one.updates, one.values) == ([0], [[1.0]])
    one.load(**state, values=[[0.5]])
    assert (one.updates, one.values) == ([1], [[0.5]])
