"""Optimizers that follow schedules: saved, loaded, and resumed in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import control, schedules

LINE = schedules.linear(start=1.0, end=0.0, length=10)


def test_loading_takes_expressions_and_control_state_and_keep_keeps_them() -> None:
    def build(lr: Any) -> fs.SGD:
        return fs.SGD(np.ones(3), lr=lr, momentum=schedules.constant(0.5))

    plateau = control.Plateau(factor=0.5, patience=1)
    first = build(LINE * plateau)
    for _ in range(4):
        first.step(np.full(3, 0.5), loss=1.0)
    state = json.loads(json.dumps({**first.state_dict(), "parameters": None}))
    state["parameters"] = first.state_dict()["parameters"]
    same, other, kept = (
        build(LINE * control.Plateau(factor=0.5, patience=1)),
        build(0.1),
        build(0.1),
    )
    handle = same.schedules["lr"]
    same.load_state_dict(state)
    other.load_state_dict(state)
    kept.load_state_dict(state, keep=("lr",))
    assert same.schedules["lr"] is handle
    assert other.schedules == first.schedules
    assert (kept.lr, kept.schedules) == (0.1, {"momentum": schedules.constant(0.5)})
    assert same.lr == other.lr == 0.6 * plateau.value
    for opt in (first, same, other):
        assert opt.step(np.ones(3), loss=0.5).lr == pytest.approx(0.6 * 0.5)
    bad = {**state, "control": {"lr": []}}
    with pytest.raises(fs.StateError, match="lr: has 1 controls, and 0 states are saved"):
        build(0.1).load_state_dict(bad)


@pytest.mark.unsanitized
def test_a_run_on_digits_resumed_in_a_fresh_process_has_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    last = 120
    stop = int(np.random.default_rng().integers(1, last))
    print(f"stopped at step {stop}")

    def run(folder: str, first: int, last: int) -> Any:
        where = tmp_path / folder
        where.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "runs.scheduled", str(where), str(first), str(last)]
        subprocess.run(command, cwd=Path(__file__).parent, check=True, timeout=120)
        return np.load(where / f"{last}.npz")

    whole = run("whole", 0, last)
    parts = [run("parts", 0, stop)["trace"], run("parts", stop, last)["trace"]]
    resumed = np.load(tmp_path / "parts" / f"{last}.npz")
    assert np.concatenate(parts).tobytes() == whole["trace"].tobytes()
    for name in (name for name in whole.files if name != "trace"):
        assert resumed[name].tobytes() == whole[name].tobytes(), name
    loss, lr, momentum = whole["trace"][:, 0], whole["trace"][:, 1], whole["trace"][:, 2]
    assert loss[-10:].mean() < 0.5 * loss[:10].mean()
    assert len(set(lr)) > 100
    assert momentum[0] == 0
    assert momentum[-1] == 0.9
