"""The scan for the critical batch size: its interval, and that everything is as before."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import tune
from fusestep.tune.noise import Estimate, ratio_of_means
from tables.models import plain

Problem = tuple[Any, Callable[[Any], tuple[float, Any]]]


def gaussian(noise_scale: float, size: int = 10, dtype: Any = np.float64) -> Problem:
    """Gradients of unit variance in each element around a mean of known length.

    For data of ``random.normal`` of that size: S is ``size``, |G|^2 is ``size / noise_scale``.
    """
    w = np.full(size, math.sqrt(1 / noise_scale), dtype)

    def loss_and_grads(x: Any) -> tuple[float, Any]:
        return 0.5 * float(np.mean((w - x) ** 2)), (w - x).mean(axis=0, dtype=dtype)

    return w, loss_and_grads


def drawn(seed: int, steps: int, batch: int, size: int = 10) -> list[Any]:
    return list(np.random.default_rng(seed).normal(size=(steps, batch, size)))


# 200 draws of probability p lie within two standard deviations of 200 p
@pytest.mark.parametrize(("confidence", "fewest", "most"), [(0.95, 184, 196), (0.68, 123, 149)])
@pytest.mark.parametrize("noise_scale", [4.0, 100.0])
def test_the_interval_holds_the_truth_as_often_as_it_says(
    noise_scale: float, confidence: float, fewest: int, most: int
) -> None:
    held = 0
    for seed in range(200):
        w, loss_and_grads = gaussian(noise_scale)
        found = tune.noise_scale_scan(
            fs.SGD(w, lr=0.0),
            loss_and_grads,
            drawn(seed, 40, 32),
            steps=40,
            confidence=confidence,
        )
        low, high = found.interval
        held += low <= noise_scale <= high
    assert fewest <= held <= most


def test_the_noise_of_a_data_set_is_what_all_its_gradients_say() -> None:
    pytest.importorskip("sklearn")
    from fusestep.demo import Digits, log_softmax

    digits = Digits.load()
    x, y = digits.train_x.astype(np.float64), digits.train_y
    w = np.zeros((64, 10))

    def errors(x: Any, y: Any) -> Any:
        return np.exp(log_softmax(x @ w)) - np.eye(10)[y]

    def loss_and_grads(batch: Any) -> tuple[float, Any]:
        x, y = batch["x"], batch["y"]
        return 0.0, x.T @ errors(x, y) / len(y)

    for step in range(2):  # at first, and after an update
        each = (x[:, :, None] * errors(x, y)[:, None, :]).reshape(len(y), -1)
        squared = float((each.mean(axis=0) ** 2).sum())
        exact = float(each.var(axis=0, ddof=1).sum()) / squared
        held = 0
        for seed in range(20):
            loader = fs.Loader({"x": x, "y": y}, 32, seed=seed, tail="drop")
            found = tune.noise_scale_scan(
                fs.SGD(w, lr=0.0), loss_and_grads, loader, population=len(y)
            )
            assert found.noise_scale == pytest.approx(exact, rel=0.25)
            held += found.interval[0] <= exact <= found.interval[1]
        assert held >= 18, step
        w -= loss_and_grads({"x": x, "y": y})[1]


# quantiles of Student's distribution
@pytest.mark.parametrize(("n", "t"), [(10, 2.262157), (50, 2.009575), (1000, 1.962341)])
def test_the_interval_is_that_of_fieller(n: int, t: float) -> None:
    random = np.random.default_rng(1)
    x = random.normal(2.0, 1.0, n)

    def errors(ratio: float) -> float:
        """How many standard errors the means are apart if this were their ratio."""
        difference = x - ratio * y
        return float(abs(difference.mean()) / (difference.std(ddof=1) / math.sqrt(n)))

    for mean in (0.3, 1.0, 3.0):
        y = random.normal(mean, 1.0, n)
        estimate = ratio_of_means(x, y, 0.95)
        assert estimate.noise_scale == x.mean() / y.mean()
        assert errors(estimate.low) == pytest.approx(t, rel=2e-4)
        if estimate.high < math.inf:
            assert errors(estimate.high) == pytest.approx(t, rel=2e-4)
        for ratio in np.geomspace(1e-3, 1e3, 100):
            assert (errors(ratio) <= t) == (estimate.low <= ratio <= estimate.high)


def test_where_the_gradient_may_be_zero_the_interval_has_no_end() -> None:
    w, loss_and_grads = gaussian(1e12)
    scans = [
        tune.noise_scale_scan(fs.SGD(w, lr=0.0), loss_and_grads, drawn(seed, 20, 8), steps=20)
        for seed in range(20)
    ]
    assert sum(found.interval[1] == math.inf for found in scans) >= 18
    unknown = [found for found in scans if found.noise_scale is None]
    assert 0 < len(unknown) < 20
    assert all(found.batch_size is None for found in unknown)
    assert repr(unknown[0]).startswith("NoiseScale(unknown, 95 % between ")


def test_nothing_is_known_of_two_means_that_may_both_be_zero() -> None:
    zeros = np.array([-1.0, 1.0] * 10)
    assert ratio_of_means(zeros, -zeros, 0.95) == Estimate(None, 0.0, math.inf)
    without_noise = np.zeros(20)
    assert ratio_of_means(without_noise, without_noise + 2.0, 0.95) == Estimate(0.0, 0.0, 0.0)


def test_estimates_are_those_of_gradient_statistics() -> None:
    w, loss_and_grads = gaussian(8.0)
    batches = drawn(0, 12, 20)
    statistics = fs.gradients.GradientStatistics(horizon=1e15, population=500)
    opt = fs.SGD(w, lr=0.01)
    for batch in batches:
        fs.gradients.split_step(opt, loss_and_grads, batch, statistics=statistics, parts=5)
    w, loss_and_grads = gaussian(8.0)
    found = tune.noise_scale_scan(
        fs.SGD(w, lr=0.01), loss_and_grads, batches, steps=12, parts=5, population=500
    )
    assert found.noise_scale == pytest.approx(statistics.noise_scale, rel=1e-9)
    assert found.variances.mean() == pytest.approx(statistics.gradient_variance, rel=1e-9)
    assert found.batch_size == round(found.noise_scale)
    assert found.samples.tolist() == [20] * 12
    assert found.rounds == 1


def test_a_batch_of_one_row_is_passed_over() -> None:
    w, loss_and_grads = gaussian(8.0)
    batches = [rows[:n] for rows, n in zip(drawn(0, 4, 8), [8, 8, 8, 1], strict=True)]
    found = tune.noise_scale_scan(fs.SGD(w, lr=0.0), loss_and_grads, batches, steps=10)
    assert found.samples.tolist() == [8] * 10
    assert found.rounds == 4


def test_larger_batches_count_for_more() -> None:
    w, loss_and_grads = gaussian(8.0)
    batches = [rows[:n] for rows, n in zip(drawn(0, 10, 64), [8, 64] * 5, strict=True)]
    found = tune.noise_scale_scan(fs.SGD(w, lr=0.0), loss_and_grads, batches, steps=10)
    weights = found.samples
    assert weights.tolist() == [8, 64] * 5
    ratio = (weights @ found.variances) / (weights @ found.squared_gradients)
    assert found.noise_scale == pytest.approx(ratio, rel=1e-12)


def test_training_goes_on_in_the_scan_and_everything_is_as_before() -> None:
    w, loss_and_grads = gaussian(2.0, dtype=np.float32)
    data = np.random.default_rng(0).normal(size=(100, 10))
    loader = fs.Loader(data, 16, seed=1)
    opt = fs.AdamW(w, lr=fs.schedules.cosine(start=0.05, length=100), clip_norm=1.0, ema=0.9)
    opt.accumulate(np.ones(10, np.float32), samples=3)

    def everything() -> Any:
        return plain([opt.state_dict(), w, loader.state_dict(), opt.averaged, opt.lr])

    before = everything()
    found = tune.noise_scale_scan(opt, loss_and_grads, loader, steps=20)
    assert everything() == before
    assert found.losses[-1] < found.losses[0]
    assert found.rounds == 3
    again = tune.noise_scale_scan(opt, loss_and_grads, loader, steps=20)
    assert again.variances.tobytes() == found.variances.tobytes()


def test_a_window_shows_how_it_changes() -> None:
    w, loss_and_grads = gaussian(4.0)
    found = tune.noise_scale_scan(fs.SGD(w, lr=0.0), loss_and_grads, drawn(0, 15, 32), steps=15)
    windows = found.along(5)
    assert len(windows) == 11
    last = ratio_of_means(
        found.variances[-5:] * 32, found.squared_gradients[-5:] * 32, found.confidence
    )
    assert windows[-1] == last
    assert found.along(15) == [(found.noise_scale, *found.interval)]
    with pytest.raises(ValueError, match="window must be at least 2 and at most 15"):
        found.along(16)


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        (np.ones((1, 3)), {}, "loader: batches must have at least two rows"),
        (np.full((4, 3), np.nan), {}, "step 1 of the scan: gradients must be finite"),
        (np.ones((4, 3)), {"steps": 9}, "steps must be at least 10"),
        (np.ones((4, 3)), {"parts": 1}, "parts must be at least 2"),
        (np.ones((4, 3)), {"confidence": 1.0}, "confidence must be between 0 and 1, not 1"),
        (np.ones((4, 3)), {"confidence": 0.0}, "confidence must be between 0 and 1, not 0"),
        (np.ones((4, 3)), {"population": 0}, "population must be at least 1"),
    ],
)
def test_what_tells_nothing_is_refused(batch: Any, options: dict[str, Any], message: str) -> None:
    w = np.ones(3)
    opt = fs.Adam(w)
    before = plain([opt.state_dict(), w])
    with pytest.raises(ValueError, match=message):
        tune.noise_scale_scan(opt, lambda x: (0.0, x.mean(axis=0)), [batch], **options)
    assert plain([opt.state_dict(), w]) == before


def test_bound_gradients_are_refused() -> None:
    w = np.ones(3)
    opt = fs.Adam(w)
    opt.bind(np.ones(3))
    with pytest.raises(fs.StateError, match="gradients are bound"):
        tune.noise_scale_scan(opt, lambda x: (0.0, x.mean(axis=0)), [np.ones((4, 3))])
    assert opt.step().applied


def test_a_picture_shows_the_windows_and_the_whole(tmp_path: Any) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    w, loss_and_grads = gaussian(30.0)
    found = tune.noise_scale_scan(fs.SGD(w, lr=0.0), loss_and_grads, drawn(0, 50, 32), steps=50)
    ax = found.plot(tmp_path / "noise.png")
    assert (tmp_path / "noise.png").stat().st_size > 5000
    assert ax.lines[0].get_ydata().tolist() == [each.noise_scale for each in found.along(10)]
    assert ax.lines[0].get_xdata()[[0, -1]].tolist() == [5.5, 45.5]
    assert set(ax.lines[1].get_ydata()) == {found.noise_scale}
    assert found.plot(ax=ax, window=25) is ax
    unknown = tune.NoiseScale(*np.full((4, 10), -1.0), 1, 0.95)
    unknown.samples[:] = 32
    unknown.plot()
    pyplot.close("all")
