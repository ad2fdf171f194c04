"""What was saved comes back bit for bit, into the arrays and objects that are there."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import checkpoint

safetensors_numpy = pytest.importorskip("safetensors.numpy")
pytest.importorskip("xxhash")

Array = np.ndarray[Any, Any]


class Run:
    """A small run with all that a checkpoint takes."""

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.params = {
            "dense": {"w": random.standard_normal((3, 5)).astype(np.float32)},
            "bias": random.standard_normal(7).astype(np.float32),
        }
        lr = fs.schedules.cosine(0.1, length=40) * fs.control.Plateau(factor=0.5, patience=1)
        self.opt = fs.AdamW(self.params, lr=lr, clip_norm=1.0)
        data = {"x": np.arange(50, dtype=np.float32)}
        self.loader = fs.Loader(data, fs.expression.step + 2, epochs=None, seed=seed)
        self.batches = iter(self.loader)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            batch = next(self.batches)
            size = float(batch["x"].sum())
            grads = {
                "dense": {"w": np.cos(self.params["dense"]["w"] + size)},
                "bias": np.sin(self.params["bias"] * size),
            }
            self.opt.step(grads, clock=batch.clock, loss=math.cos(size))

    def all(self) -> dict[str, Any]:
        return {"params": self.params, "optimizer": self.opt, "loader": self.loader}

    def bits(self) -> tuple[bytes, ...]:
        return tuple(
            np.ascontiguousarray(a).tobytes()
            for a in (self.params["dense"]["w"], self.params["bias"])
        )


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "run.safetensors"
    checkpoint.wait()


@pytest.mark.parametrize("background", [False, True])
def test_a_run_goes_on_with_the_bits_of_the_one_that_never_stopped(
    path: Path, background: bool
) -> None:
    run = Run()
    run.train(9)
    checkpoint.save(path, step=9, **run.all(), background=background)
    run.train(9)  # while it is written
    again = Run(1)
    loaded = checkpoint.load(path, **again.all())
    assert loaded == (9, None, (), (), ())
    again.train(9)
    assert again.bits() == run.bits()
    assert again.opt.state_dict()["control"] == run.opt.state_dict()["control"]
    assert again.loader.state_dict() == run.loader.state_dict()


def test_importing_fusestep_imports_nothing_that_only_checkpoints_need() -> None:
    code = "import sys, fusestep.checkpoint; print({'safetensors', 'xxhash'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
