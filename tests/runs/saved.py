"""Runs that are programs of their own: all that they need to go on, in a file for each step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fusestep as fs


def save(
    file: Path, opt: fs.optim.Optimizer, params: Sequence[np.ndarray[Any, Any]], **more: Any
) -> None:
    state = opt.state_dict()
    arrays = {f"p{i}": p for i, p in enumerate(params)}
    for path, entry in state["parameters"].items():
        arrays |= {f"{path}.{name}": a for name, a in entry["state"].items()}
        entry["state"] = list(entry["state"])
    np.savez(file, json=json.dumps(state), **arrays, **more)


def load(file: Path, opt: fs.optim.Optimizer, params: Sequence[np.ndarray[Any, Any]]) -> None:
    saved = np.load(file)
    state = json.loads(saved["json"].item())
    for path, entry in state["parameters"].items():
        entry["state"] = {name: saved[f"{path}.{name}"] for name in entry["state"]}
    opt.load_state_dict(state)
    for i, p in enumerate(params):
        p[...] = saved[f"p{i}"]
