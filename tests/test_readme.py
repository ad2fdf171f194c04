"""Every block of Python in the README runs as it stands there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from tables import pages

BLOCKS = pages.blocks("README.md")


def surroundings() -> dict[str, Any]:
    """What the README leaves to the reader: arrays, data, and gradients of a small network."""
    random = np.random.default_rng(0)
    x, y = random.standard_normal((90, 4)), random.standard_normal((90, 2))
    w1, b1, w2, b2 = (
        random.standard_normal(shape).astype(np.float32) for shape in ((4, 3), (3,), (3, 2), (2,))
    )

    def loss_and_grads(params: Any, batch: Any) -> tuple[float, Any]:
        hidden = np.tanh(batch["x"] @ params["dense1"]["w"] + params["dense1"]["b"])
        error = hidden @ params["dense2"]["w"] + params["dense2"]["b"] - batch["y"]
        slope = 2 * error / error.size
        inner = slope @ params["dense2"]["w"].T * (1 - hidden**2)
        grads = {
            "dense1": {"w": batch["x"].T @ inner, "b": inner.sum(0)},
            "dense2": {"w": hidden.T @ slope, "b": slope.sum(0)},
        }
        single = {k: {n: g.astype(np.float32) for n, g in of.items()} for k, of in grads.items()}
        return float(np.mean(error**2)), single

    params = {"dense1": {"w": w1, "b": b1}, "dense2": {"w": w2, "b": b2}}
    batch = {"x": x[:30], "y": y[:30]}
    return {
        "np": np,
        "fs": fs,
        "w1": w1,
        "b1": b1,
        "w2": w2,
        "b2": b2,
        "X": x,
        "y": y,
        "params": params,
        "batch": batch,
        "batches": [batch, batch],
        "loss_and_grads": loss_and_grads,
        "loss": 1.0,
        "grads": loss_and_grads(params, batch)[1],
    }


def test_blocks_run_one_after_the_other_as_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib").use("agg")
    for needed in ("safetensors", "xxhash"):
        pytest.importorskip(needed)
    monkeypatch.chdir(tmp_path)
    names = surroundings()
    for block in BLOCKS:
        if "cupy" not in block:
            pages.run(block, "README.md", names)
    assert names["opt"].steps_applied > 0


def test_blocks_for_a_gpu_run_too(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = surroundings()
    leaves = {"w": names["w1"], "b": names["b1"]}
    params = {name: cupy.asarray(array) for name, array in leaves.items()}
    grads = {name: cupy.asarray(np.ones_like(array)) for name, array in leaves.items()}
    compute: Callable[[], None] = lambda: None  # noqa: E731
    names |= {"cupy": cupy, "opt": fs.AdamW(params), "grads": grads, "compute_gradients": compute}
    (block,) = (block for block in BLOCKS if "cupy" in block)
    pages.run(block, "README.md", names)
    assert names["opt"].steps_applied == 100
