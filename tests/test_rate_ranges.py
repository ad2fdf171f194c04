"""What a range test reads from its losses, and draws."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import tune


def found_from(losses: Any, smoothing: float = 0.8) -> tune.RateRange:
    """As if the test had given these losses, for rates from 1e-6 to 1."""
    losses = np.asarray(losses, float)
    return tune.RateRange(np.geomspace(1e-6, 1.0, len(losses)), losses, "ended", 1, smoothing)


def on_a_quadratic(noise: float = 0.0) -> tune.RateRange:
    """A range test with curvatures from 0.1 to 10."""
    random, curvature = np.random.default_rng(0), np.geomspace(0.1, 10.0, 20)
    w = random.normal(size=20)

    def loss_and_grads(batch: Any) -> tuple[float, Any]:
        return 0.5 * float(curvature @ w**2) * (1 + noise * random.normal()), curvature * w

    return tune.lr_range(fs.SGD(w, lr=1.0), loss_and_grads, [None])


def test_smoothing_weighs_both_sides_alike_to_the_ends() -> None:
    random = np.random.default_rng(0)
    losses = 5.0 - np.linspace(0, 1, 40) + 0.1 * random.normal(size=40)
    for smoothing in (0.0, 0.5, 0.9):
        found = found_from(losses, smoothing)
        lowest = int(np.argmin(found.losses))
        assert lowest > 30
        distance = abs(np.subtract.outer(np.arange(40), np.arange(40)))
        weights = smoothing**distance
        limited = losses  # none after the lowest is above the first
        assert found.smoothed == pytest.approx(weights @ limited / weights.sum(axis=1), rel=1e-12)


def test_smoothing_does_not_move_the_slope_or_the_minimum() -> None:
    x = np.arange(100)
    fall = 3.0 / (1.0 + np.exp((x - 50) / 4.0)) + 0.3 + 4.0 * np.exp((x - 90) / 3.0)
    raw = found_from(fall, smoothing=0.0)
    for smoothing in (0.5, 0.8, 0.9):
        found = found_from(fall, smoothing)
        assert found.steepest == raw.steepest  # one-sided means of 0.9 are nine steps late
        assert abs(math.log(found.minimum / raw.minimum)) < 0.6


def test_divergence_does_not_reach_back() -> None:
    x = np.arange(60)
    fall = 2.0 - 1.5 / (1.0 + np.exp((25 - x) / 3.0))
    for explosion in (10.0, 1e30, 1.7e308):
        found = found_from([*fall, explosion])
        assert found.steepest == pytest.approx(found_from(fall).steepest, rel=0.3)
        assert np.isfinite(found.smoothed).all()


def test_noise_alone_suggests_nothing() -> None:
    random = np.random.default_rng(0)
    for smoothing in (0.0, 0.8, 0.95):
        noise = [found_from(2.3 + 0.2 * random.normal(size=100), smoothing) for _ in range(200)]
        suggested = [found for found in noise if found.suggestion is not None]
        assert len(suggested) <= 4
    assert "the loss did not clearly fall" in repr(noise[0])
    assert noise[0].steepest is noise[0].minimum is noise[0].a_tenth_of_minimum is None
    assert found_from(np.linspace(1.0, 2.0, 50)).suggestion is None
    assert found_from(np.ones(50)).suggestion is None


def test_a_suggestion_lies_between_the_slope_and_the_minimum() -> None:
    found = on_a_quadratic()
    assert found.suggestion == math.sqrt(found.steepest * found.minimum)
    assert found.a_tenth_of_minimum == found.minimum / 10
    for rate in (found.steepest, found.minimum):
        assert rate in found.rates
    assert repr(found).startswith(f"RateRange(suggestion={found.suggestion:.2g}, steepest=")
    assert f"{len(found.rates) + 1} rounds of the loader" in repr(found)


def test_a_picture_shows_the_losses_and_the_rates_found(tmp_path: Any) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    found = on_a_quadratic(noise=0.2)
    ax = found.plot(tmp_path / "rates.png")
    assert (tmp_path / "rates.png").stat().st_size > 5000
    points, curve, *lines = ax.lines
    assert points.get_ydata().tolist() == found.losses.tolist()
    assert curve.get_ydata().tolist() == found.smoothed.tolist()
    rates = [found.suggestion, found.steepest, found.minimum, found.a_tenth_of_minimum]
    assert [line.get_xdata()[0] for line in lines] == rates
    assert ax.get_xscale() == "log"
    assert found.plot(ax=ax) is ax
    flat = found_from(np.ones(30)).plot()
    assert len(flat.lines) == 2
    pyplot.close("all")


def test_a_picture_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'fusestep\[plot\]'"):
        found_from(np.ones(30)).plot()
