"""The learning-rate range test: what it finds, and that everything is as before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import tune
from tables.models import plain

DATA = np.random.default_rng(0).normal(size=(50, 4))


def problem() -> tuple[dict[str, Any], Callable[[Any], tuple[float, Any]]]:
    """Parameters, and the loss and gradients of a fit to the mean of the data."""
    params = {"w": np.arange(4.0), "b": np.ones(4, np.float32)}

    def loss_and_grads(batch: Any) -> tuple[float, Any]:
        error = params["w"] + params["b"] - np.mean(batch["x"], axis=0)
        return 0.5 * float(error @ error), {"w": error, "b": error.astype(np.float32)}

    return params, loss_and_grads


def test_everything_is_as_before() -> None:
    params, loss_and_grads = problem()
    loader = fs.Loader({"x": DATA}, 8, seed=3)
    opt = fs.AdamW(params, lr=fs.schedules.cosine(start=0.1, length=100), ema=0.9)
    for batch, _ in zip(loader, range(3), strict=False):
        loss, grads = loss_and_grads(batch)
        opt.step(grads, clock=batch.clock, loss=loss)
    before = plain([opt.state_dict(), params, opt.lr, loader.state_dict(), opt.averaged])
    found = tune.lr_range(opt, loss_and_grads, loader)
    assert plain([opt.state_dict(), params, opt.lr, loader.state_dict(), opt.averaged]) == before
    assert found.rates[0] == 1e-7
    assert found.suggestion is not None


@pytest.mark.parametrize("largest", [1.0, 100.0, 1e4])
def test_a_quadratic_is_known_to_diverge_above_two_over_its_curvature(largest: float) -> None:
    curvature = np.geomspace(largest / 100, largest, 20)
    w = np.random.default_rng(0).normal(size=20)

    def loss_and_grads(batch: Any) -> tuple[float, Any]:
        return 0.5 * float(curvature @ w**2), curvature * w

    found = tune.lr_range(fs.SGD(w, lr=1.0), loss_and_grads, [None], high=100.0)
    edge = 2 / largest
    assert found.suggestion is not None
    assert edge / 10 < found.suggestion < edge
    assert found.steepest < found.suggestion < found.minimum
    assert "the loss diverged" in found.ended
