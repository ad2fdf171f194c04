"""An optimizer in the middle of its work, and edits of its state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import fusestep as fs
from fusestep import control, schedules

State = dict[str, Any]
# what a Plateau remembers
MEMORY = {"seen": 3, "value": 1.0, "best": 1.0, "bad": 0, "cooling": 0}


def build() -> tuple[dict[str, Any], fs.AdamW]:
    params = {"a": np.ones(5, np.float32), "b": np.ones((2, 3)), "z": np.zeros(0)}
    lr = schedules.linear(1.0, 0.1, length=10) * control.Plateau(patience=1)
    betas = (0.9, schedules.linear(0.9, 0.99, length=5))
    groups = [{"match": "b", "weight_decay": 0.5}]
    opt = fs.AdamW(params, lr=lr, betas=betas, clip_norm=math.inf, groups=groups)
    for step in range(3):
        opt.step({name: np.ones_like(p) for name, p in params.items()}, loss=1.0 / (step + 1))
    opt.accumulate({name: np.ones_like(p) for name, p in params.items()}, 4)
    return params, opt


def put(*path: Any) -> Callable[[State], None]:
    """An edit that puts the last of these where the others lead."""
    *keys, name, value = path

    def edit(state: State) -> None:
        entry: Any = state
        for key in keys:
            entry = entry[key]
        entry[name] = value

    return edit
