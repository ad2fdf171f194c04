"""What is no state of an optimizer is refused by its place, and nothing has changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

import fusestep as fs
from tables.edited_states import MEMORY, State, build, put
from tables.models import plain


def instead(value: Any) -> Callable[[State], Any]:
    """An edit that leaves nothing of the state."""

    def whole(state: State) -> Any:
        return value

    return whole


def expression(*nodes: Any) -> Any:
    return {"fusestep_expression": 2, "nodes": list(nodes)}


def deep(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"fusestep_expression": 2, "nodes": [value]}
    return value


def cyclic() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


class Lying(np.ndarray):  # type: ignore[type-arg]
    """Says that it fits."""

    shape = property(lambda self: (5,))  # type: ignore[assignment]
    dtype = property(lambda self: np.dtype(np.float32))  # type: ignore[assignment]


class Raising(dict):  # type: ignore[type-arg]
    """A dict that can't be read."""

    def __getitem__(self, key: Any) -> Any:
        raise OSError("the disk is gone")

    def items(self) -> Any:
        raise OSError("the disk is gone")


M = ("parameters", "a", "state", "m")
COUNTS = (-1, 2**53, 2**63, 2**200, 1.5, math.nan, "3", None, True, [1])
HOSTILE: list[tuple[str, Callable[[State], Any]]] = [
    *[(name, put(name, v)) for name in ("attempted", "applied") for v in COUNTS],
    *[("params['a'] updates", put("parameters", "a", "updates", v)) for v in COUNTS],
    ("params['a'] updates: 4 is more", put("parameters", "a", "updates", 4)),
    *[("format", put("format", v)) for v in (1, 2, 5, "4", [4], None, 4.0)],
    *[("rule", put("rule", v)) for v in ("sgd", None, ["adam"])],
    *[("class", put("class", v)) for v in ("Adam", None, 5)],
    *[("settings", put("settings", v)) for v in ([], None, {}, {"lr": 1.0})],
    *[
        ("lr", put("settings", "lr", v))
        for v in (math.nan, -1.0, math.inf, "0.1", None, 10**400, 1j, [], {}, np.ones(2), True)
    ],
    *[
        ("lr", put("settings", "lr", expression(*nodes)))
        for nodes in (
            (),
            (math.nan,),
            ("step",),
            (10**5000,),
            ({"call": "__import__", "with": {"name": "os"}},),
            ({"operation": "add", "of": [1.0]},),
            ({"operation": ["add"], "of": 5},),
            ({"call": "linear", "with": {"start": 1.0}},),
            ({"operation": "negative", "of": [{"node": 0}]},),
            ({"function": "elsewhere:rate", "time": {"input": "step"}},),
        )
    ],
    ("lr", put("settings", "lr", deep(100_000))),
    ("lr", put("settings", "lr", expression(cyclic()))),
    *[
        ("betas", put("settings", "betas", v))
        for v in ([0.9], [0.9] * 3, [0.9, 1.0], 0.9, cyclic())
    ],
    *[("amsgrad", put("settings", "amsgrad", v)) for v in (True, 0, None)],
    *[("eps_mode", put("settings", "eps_mode", v)) for v in ("hat", [], None)],
    *[
        ("clip_norm", put("settings", "clip_norm", v))
        for v in (-1.0, 0.0, math.nan, "nan", "x", [], deep(9))
    ],
    *[("clip_value", put("settings", "clip_value", v)) for v in (-1, "-inf", True)],
    *[("nonfinite", put("nonfinite", v)) for v in ("ignore", None, 3, ["skip"])],
    *[("groups", put("groups", v)) for v in (None, [], cyclic(), [{"match": None}])],
    *[("groups", put("groups", 1, "match", v)) for v in (["a"], None, 3, [None], cyclic())],
    ("groups[1] weight_decay", put("groups", 1, "settings", {"weight_decay": -1.0})),
    ("groups[1].settings.lr", put("groups", 1, "settings", {"lr": deep(5000)})),
    ("groups[1] maximize", put("groups", 1, "settings", {"maximize": True})),
    ("groups", put("groups", 1, "settings", {"x": 1})),
    *[("control", put("control", v)) for v in (None, [], {"lr": None}, {"lr": {}})],
    *[("lr: has 1 controls", put("control", v)) for v in ({}, {"lr": []}, {"lr": [MEMORY] * 2})],
    *[("control: nothing", put("control", name, [MEMORY])) for name in ("x", "groups[1] lr")],
    ("control[5]: names must be text", put("control", 5, [MEMORY])),
    ("eps: has 0 controls", put("control", "eps", [MEMORY])),
    *[
        ("lr", put("control", "lr", [v]))
        for v in (
            None,
            {},
            {**MEMORY, "seen": -1},
            {**MEMORY, "seen": 2**53},
            {**MEMORY, "value": math.nan},
            {**MEMORY, "value": 10**400},
            {**MEMORY, "value": 2.0},
            {**MEMORY, "best": math.inf},
            {**MEMORY, "bad": 10**30},
            {**MEMORY, "more": 1},
        )
    ],
    *[("parameters", put("parameters", v)) for v in (None, [], "x")],
    ("params['a']: not saved", lambda s: s["parameters"].pop("a")),
    ("params['c']: not present", put("parameters", "c", {"updates": 1, "state": {}})),
    ("parameters[5]: names must be text", put("parameters", 5, {"updates": 1, "state": {}})),
    *[
        ("params['a']", put("parameters", "a", v))
        for v in (None, [], {"updates": 1, "state": []}, {"updates": 1, "state": {}, "more": 1})
    ],
    ("params['a'] state arrays", lambda s: s["parameters"]["a"]["state"].pop("m")),
    ("params['a'] state arrays", put(*M[:-1], "q", np.zeros(5, np.float32))),
    ("parameters.a.state[7]: names must be text", put(*M[:-1], 7, np.zeros(5, np.float32))),
    *[
        ("params['a'] m", put(*M, v))
        for v in (
            np.zeros(5),
            np.zeros(4, np.float32),
            np.zeros((5, 1), np.float32),
            np.zeros((), np.float32),
            np.zeros(5, ">f4"),
            np.zeros(5, np.int32),
            np.zeros(5, object),
            [0.0] * 5,
            None,
            "x",
            np.float32(1.0),
        )
    ],
    *[
        ("parameters.a.state.m: must be", put(*M, v))
        for v in (
            np.zeros(2, np.float32).view(Lying),
            np.ma.masked_array(np.zeros(5, np.float32), mask=True),
            np.zeros(5, np.float32).view(np.recarray),
        )
    ],
    *[("accumulated", put("accumulated", v)) for v in (None, {}, [])],
    ("accumulated", put("accumulated", "more", 1)),
    *[
        ("accumulated", put("accumulated", "samples", v))
        for v in (-1.0, 0.0, 5e-324, 1e308, math.nan, math.inf, "4", None, True, 10**400)
    ],
    *[
        ("accumulated", put("accumulated", "micro_batches", v))
        for v in (-1, 0, 2**63, 1.0, None, True)
    ],
    *[
        ("accumulated.weighted", put("accumulated", "weighted_squared_norms", v))
        for v in (-1.0, math.nan, math.inf, "-inf", "one", None, 10**400)
    ],
    *[
        ("accumulated", put("accumulated", "gradients", v))
        for v in (None, {}, [], {"a": None, "b": None, "z": None})
    ],
    *[
        ("params['a'] accumulated", put("accumulated", "gradients", "a", v))
        for v in (np.zeros(5), np.zeros(3, np.float32), "x")
    ],
    ("accumulated.gradients", put("accumulated", "gradients", "zz", None)),
    ("more: unknown", put("more", 1)),
    ("5: names must be text", put(5, 1)),
    *[
        (f"{name}: not saved", lambda s, name=name: s.pop(name))  # type: ignore[misc]
        for name in build()[1].state_dict()
        if name != "format"
    ],
    ("the disk is gone", put("parameters", Raising(a=1, b=2, z=3))),
    ("the disk is gone", instead(Raising(build()[1].state_dict()))),
    *[("must be a dict", instead(v)) for v in (None, [], "{}", 5, np.zeros(3))],
]


@pytest.mark.parametrize("case", range(len(HOSTILE)), ids=lambda i: f"{i}-{HOSTILE[i][0]}")
def test_what_is_no_state_of_this_optimizer_is_refused_by_its_place_and_changes_nothing(
    case: int,
) -> None:
    place, edit = HOSTILE[case]
    params, opt = build()
    state = opt.state_dict()
    edited = edit(state)
    given = edited if edit.__name__ == "whole" else state
    before = plain([params, opt.state_dict(), opt.lr, opt.betas, opt.clip_norm])
    with pytest.raises(fs.StateError) as caught:
        opt.load_state_dict(cast("State", given))
    assert place in str(caught.value)
    assert len(str(caught.value)) < 5000
    assert plain([params, opt.state_dict(), opt.lr, opt.betas, opt.clip_norm]) == before
    assert opt.step(loss=0.5).applied
