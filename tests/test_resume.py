"""Resume is exact: same bits as the run that never stopped, in a fresh process."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from tables.models import assert_same_bits
from tables.registry import ROWS, Row

STEPS = 20


def run(folder: Path, first: int, last: int) -> None:
    rows = json.dumps([[row.optimizer.__name__, row.options] for row in ROWS])
    command = [sys.executable, "-m", "runs.resumed", str(folder), str(first), str(last), rows]
    subprocess.run(command, cwd=Path(__file__).parent, check=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(folder, 0, STEPS)
    return folder


@pytest.mark.parametrize("stop", range(STEPS))
def test_a_run_resumed_at_any_step_ends_with_the_same_bits(
    uninterrupted: Path, tmp_path: Path, stop: int
) -> None:
    for saved in uninterrupted.glob(f"*-{stop}.npz"):
        (tmp_path / saved.name).write_bytes(saved.read_bytes())
    run(tmp_path, stop, STEPS)
    for k, row in enumerate(ROWS):
        expected = np.load(uninterrupted / f"{k}-{STEPS}.npz")
        found = np.load(tmp_path / f"{k}-{STEPS}.npz")
        assert sorted(found) == sorted(expected)
        assert found["json"].item() == expected["json"].item(), row.id
        names = [name for name in expected if name != "json"]
        assert_same_bits([found[n] for n in names], [expected[n] for n in names])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_the_state_holds_arrays_and_json_values_only(row: Row) -> None:
    opt = row.build({"a": np.ones(3), "b": [np.ones(2)]}, groups=[{"match": "b/*", "lr": 0.5}])
    opt.step({"a": np.ones(3), "b": [np.ones(2)]})
    state = opt.state_dict()

    def plain(value: Any) -> Any:
        return value.tolist() if isinstance(value, np.ndarray) else pytest.fail(repr(value))

    assert json.loads(json.dumps(state, default=plain))["parameters"]["b/0"]["updates"] == 1


def test_the_state_is_a_copy() -> None:
    w = np.ones(3)
    opt = fs.Adam(w)
    state = opt.state_dict()
    opt.step(np.ones(3))
    assert (state["parameters"][""]["state"]["m"] == 0).all()


def test_settings_named_in_keep_stay() -> None:
    saved = fs.AdamW(
        {"w": np.ones(3), "b": np.ones(2)},
        lr=0.5,
        weight_decay=0.2,
        clip_norm=1.0,
        groups=[{"match": "b", "lr": 0.7, "weight_decay": 0.0}],
    ).state_dict()
    opt = fs.AdamW({"w": np.ones(3), "b": np.ones(2)}, lr=0.1, groups=[{"match": "b"}])
    opt.load_state_dict(saved, keep=("lr", "clip_norm"))
    assert (opt.lr, opt.groups[1].lr, opt.clip_norm) == (0.1, 0.1, None)
    assert (opt.weight_decay, opt.groups[1].weight_decay) == (0.2, 0.0)
    with pytest.raises(ValueError, match=r"keep: no setting \['momentum'\]"):
        opt.load_state_dict(saved, keep=("momentum",))


def test_every_difference_to_the_model_is_named_and_nothing_is_loaded() -> None:
    saved = fs.Adam(
        {"w": np.ones((2, 3)), "b": np.ones(2), "old": np.ones(1)}, amsgrad=True
    ).state_dict()
    opt = fs.Adam({"w": np.ones((3, 2)), "b": np.ones(2, np.float32), "new": np.ones(1)})
    before = repr(opt.state_dict())
    with pytest.raises(fs.StateError) as caught:
        opt.load_state_dict(saved)
    assert str(caught.value).split("\n  ") == [
        "the state does not fit this optimizer:",
        "amsgrad: saved True, present False",
        "params['w'] state arrays: saved ['m', 'v', 'v_max'], present ['m', 'v']",
        "params['w'] m shape: saved (2, 3), present (3, 2)",
        "params['w'] v shape: saved (2, 3), present (3, 2)",
        "params['b'] state arrays: saved ['m', 'v', 'v_max'], present ['m', 'v']",
        "params['b'] m dtype: saved float64, present float32",
        "params['b'] v dtype: saved float64, present float32",
        "params['new']: not saved",
        "params['old']: not present",
    ]
    assert repr(opt.state_dict()) == before


def parts(state: dict[str, Any]) -> dict[str, Any]:
    entry = state["parameters"][""]
    return {"parameter": entry, "state": entry["state"]}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.update(rule="sgd"), "rule: saved 'sgd', present 'adam'"),
        (lambda s: s.update(format=99), "format: saved 99, present 4; load it with"),
        (lambda s: s.clear(), "format: saved None, present 4"),
        (lambda s: s.pop("parameters"), "parameters: not saved"),
        (lambda s: s.update(parameters=None), "parameters: must be a dict, not None"),
        (
            lambda s: s["parameters"].update({"": None}),
            "params: must be a dict of updates, state, not None",
        ),
        (lambda s: s["groups"].pop(), "groups: saved [], present [None]"),
        (lambda s: s.update(groups=None), "groups: must be a list, not None"),
        (lambda s: s["groups"][0].pop("settings"), "groups[0].settings: not saved"),
        (lambda s: s["groups"][0]["settings"].update(x=1), "groups[0].settings.x: unknown"),
        (lambda s: s["settings"].pop("lr"), "settings.lr: not saved"),
        (lambda s: s["settings"].update(zzz=1), "settings.zzz: unknown"),
        (lambda s: s["settings"].update(lr=-1.0), "lr must be finite and at least 0, not -1"),
        (lambda s: s["settings"].update(amsgrad=True), "amsgrad: saved True, present False"),
        (lambda s: s.update(nonfinite="maybe"), "nonfinite: must be one of"),
        (lambda s: s["settings"].update(clip_norm=-1.0), "clip_norm must be"),
        (lambda s: s.update(applied="x"), "applied: must be a whole number from 0"),
        (lambda s: s.update(attempted=2**70), "attempted: must be a whole number from 0"),
        (lambda s: s.update(applied=5), "applied: 5 is more than attempted, 0"),
        (lambda s: parts(s)["parameter"].update(updates=-1), "params updates: must be a whole"),
        (lambda s: parts(s)["parameter"].update(updates=2**70), "params updates: must be a whole"),
        (
            lambda s: parts(s)["state"].update(m=[1.0, [2.0]]),
            "params m: must be an array of NumPy, not [1.0, [2.0]]",
        ),
        (lambda s: parts(s)["state"].pop("m"), "params state arrays: saved ['v'], present"),
    ],
)
def test_a_damaged_state_is_refused_whole(damage: Any, message: str) -> None:
    opt = fs.Adam(np.ones(3), lr=0.5)
    opt.step(np.ones(3))
    state = fs.Adam(np.ones(3), lr=0.1).state_dict()
    damage(state)
    before = repr(opt.state_dict())
    with pytest.raises(fs.StateError) as caught:
        opt.load_state_dict(state)
    assert message in str(caught.value)
    assert repr(opt.state_dict()) == before


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(
        fs.StateError, match=r"it must be a dict of class, rule, settings.* not None"
    ):
        fs.Adam(np.ones(3)).load_state_dict(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_an_optimizer_is_not_copied_but_saved(duplicate: Any) -> None:
    with pytest.raises(TypeError, match=r"^Adam cannot be copied or pickled: .*load_state_dict"):
        duplicate(fs.Adam(np.ones(3)))
