"""What gradients of micro-batches tell: unbiased, averaged before dividing, or unknown."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep.gradients import AdaScale, GradientStatistics
from tables.models import Array

SIZES = (3, 8, 1, 20)
NAN = math.nan


def drawn(
    samples: Array, sizes: tuple[int, ...] = SIZES
) -> tuple[list[float], tuple[int, ...], float]:
    """What one step tells of the gradients of its samples, by the definition."""
    cuts = np.split(samples, np.cumsum(sizes)[:-1])
    squares = [float(np.sum(part.mean(axis=0) ** 2)) for part in cuts]
    return squares, sizes, float(np.sum(samples.mean(axis=0) ** 2))


def signed(statistics: GradientStatistics) -> tuple[float, float]:
    """S and |G|^2, negative too."""
    state = statistics.state_dict()
    return state["variance"] / state["weight"], state["squared_gradient"] / state["weight"]


def assert_near(found: list[float], expected: float) -> None:
    """The mean is within 4 standard errors, which are small enough to tell."""
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert abs(np.mean(found) - expected) < 4 * error
    assert error < 0.1 * abs(expected)


@pytest.mark.parametrize("sizes", [SIZES, (16, 16), (1,) * 8, (1, 31)], ids=str)
def test_variance_and_squared_gradient_are_unbiased(sizes: tuple[int, ...]) -> None:
    random = np.random.default_rng(1)
    mean, deviation = np.array([0.5, -0.4, 0.3]), np.array([1.0, 2.0, 0.5])
    estimates = []
    for _ in range(10_000):
        statistics = GradientStatistics()
        assert statistics.add(*drawn(random.normal(mean, deviation, (sum(sizes), 3)), sizes))
        estimates.append(signed(statistics))
    variances, squares = (list(column) for column in zip(*estimates, strict=True))
    assert_near(variances, float(np.sum(deviation**2)))
    assert_near(squares, float(np.sum(mean**2)))


def test_a_population_corrects_what_drawing_without_repetition_takes_away() -> None:
    random = np.random.default_rng(2)
    data = random.normal([0.4, 0.3], 1.0, (64, 2))
    true = float(np.sum(data.mean(axis=0) ** 2))
    trace = float(np.sum(data.var(axis=0, ddof=1)))
    plain, corrected = [], []
    for _ in range(10_000):
        told = drawn(random.permutation(data)[:16], (4, 8, 4))
        statistics, finite = GradientStatistics(), GradientStatistics(population=64)
        statistics.add(*told)
        finite.add(*told)
        variance, squared = signed(statistics)
        plain.append(squared)
        corrected.append(squared + variance / 64)
        expected = corrected[-1] if corrected[-1] > 0 else None
        assert finite.squared_gradient == pytest.approx(expected)
    assert_near(corrected, true)
    assert_near(plain, true - trace / 64)


def test_the_mean_is_taken_before_the_ratio() -> None:
    random = np.random.default_rng(3)
    statistics = GradientStatistics(horizon=1e9)
    steps = [drawn(random.normal(0.3, 1.0, (32, 4))) for _ in range(2000)]
    single = []
    for step in steps:
        statistics.add(*step)
        one = GradientStatistics()
        one.add(*step)
        single.append(signed(one))
    assert any(squared < 0 for _, squared in single)
    variance, squared = np.mean(single, axis=0)
    assert statistics.noise_scale == pytest.approx(variance / squared, rel=1e-4)
    assert statistics.noise_scale == pytest.approx(4.0 / 0.36, rel=0.05)


def test_what_came_before_fades_with_samples_not_with_steps() -> None:
    statistics = GradientStatistics(horizon=100)
    # S = 2 b (A - C) of two micro-batches of b samples each
    statistics.add([3.0, 3.0], [5, 5], 2.0)
    statistics.add([3.0, 3.0], [40, 40], 2.0)
    old, new = math.exp(-0.8) * -math.expm1(-0.1), -math.expm1(-0.8)
    assert statistics.gradient_variance == pytest.approx((10 * old + 80 * new) / (old + new))
    assert statistics.squared_gradient == pytest.approx(1.0)
    assert statistics.effective_samples == pytest.approx(100 * -math.expm1(-0.9))


def test_nothing_is_known_at_first_nor_learnt_from_what_tells_nothing() -> None:
    statistics = GradientStatistics()
    for arguments in (
        ([], [], 0.0),
        ([2.0], [8], 2.0),
        ([2.0, NAN], [8, 8], 1.0),
        ([2.0, np.float32(NAN)], [8, 8], 1.0),
        ([2.0, math.inf], [8, 8], 1.0),
        ([2.0, 2.0], [8, 8], math.inf),
        ([1e308, 1e308], [1e9, 1e9], 0.0),
        ([1e300, 1e300], [5, 5], 8e307),  # the variance is too large
        ([1e300] * 3, [0.1] * 3, 1e308),  # the squared gradient is
    ):
        assert statistics.add(*arguments) is False
        assert statistics.gradient_variance is None
        assert statistics.squared_gradient is None
        assert statistics.noise_scale is None
        assert statistics.effective_samples == 0.0


def test_a_squared_gradient_that_is_not_above_zero_is_unknown_but_counts() -> None:
    statistics = GradientStatistics()
    assert statistics.add([2.0, 2.0], [4, 4], 0.5)
    assert statistics.gradient_variance == pytest.approx(12.0)
    assert statistics.squared_gradient is None
    assert statistics.noise_scale is None
    assert signed(statistics)[1] == pytest.approx(-1.0)
    statistics.add([4.0, 4.0], [4, 4], 4.0)
    assert statistics.squared_gradient == pytest.approx(1.5, rel=1e-3)


def test_gradients_without_noise_have_no_variance() -> None:
    statistics = GradientStatistics()
    statistics.add([0.1, 0.1, 0.1], [3, 3, 3], 0.1 + 1e-17)
    assert statistics.gradient_variance == pytest.approx(0.0, abs=1e-14)
    assert statistics.noise_scale == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0, 1.0], [4], 1.0), ValueError, "sizes must have one entry for each of 2 squared"),
        (([1.0, 1.0], [4, 0], 1.0), ValueError, r"sizes\[1\] must be greater than 0, not 0"),
        (([1.0, -1.0], [4, 4], 1.0), ValueError, r"squared_norms\[1\] must be finite and at"),
        (([1.0, -math.inf], [4, 4], 1.0), ValueError, r"squared_norms\[1\] must be finite and at"),
        (([1.0, None], [4, 4], 1.0), TypeError, r"squared_norms\[1\] must be a number, not None"),
        (([1.0, 1.0], [4, 4], -1.0), ValueError, "squared_norm_of_mean must be finite and at"),
    ],
)
def test_what_cannot_be_is_refused(arguments: Any, error: Any, message: str) -> None:
    statistics = GradientStatistics()
    with pytest.raises(error, match=message):
        statistics.add(*arguments)
    assert statistics.effective_samples == 0.0


@pytest.mark.parametrize("bad", [{"horizon": 0}, {"horizon": NAN}, {"population": 0}], ids=str)
def test_settings_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        GradientStatistics(**bad)


# sums of squared norms, squared norm of the mean, variance, squared gradient, gain: of two equal
# micro-batches, twice the base batch; the first, third and fourth are in fairscale's tests too
GAINS = [
    (8.0, 3.0, 2.0, 2.0, 4 / 3),
    (12.0, 2.0, 8.0, None, 2.0),
    (88.5, 30.125, 28.25, 16.0, 1.4688796680497926),
    (72.58, 19.645, 33.29, 3.0, 1.8472893866),
    (2.0, 1.0, 0.0, 1.0, 1.0),
]


@pytest.mark.parametrize(("total", "mean", "variance", "squared", "gain"), GAINS)
def test_the_gain_of_adascale(
    total: float, mean: float, variance: float, squared: float | None, gain: float
) -> None:
    statistics = GradientStatistics()
    scale = AdaScale(statistics, base_batch=16)
    assert scale.gain(32) == 1.0  # nothing is known
    statistics.add([total / 4, total * 3 / 4], [16, 16], mean)
    assert statistics.gradient_variance == pytest.approx(16 * variance)
    assert statistics.squared_gradient == pytest.approx(squared)
    assert scale.gain(32) == pytest.approx(gain, rel=1e-6)
    assert scale.gain(16) == pytest.approx(1.0)
    assert 1.0 <= scale.gain(32) <= 2.0
    assert [scale.advance(32), scale.advance(16)] == [scale.gain(32), scale.gain(16)]
    assert scale.progress == scale.gain(32) + scale.gain(16)


def test_a_rate_that_follows_adascale_in_a_step_is_the_gain_times_the_curve() -> None:
    curve = fs.schedules.linear(0.3, 0.0, length=40)
    random = np.random.default_rng(5)
    statistics = GradientStatistics(horizon=100)
    scale = AdaScale(statistics, base_batch=8)
    params = [np.zeros(3)]
    lr = fs.scaling.adascale(curve, scale)
    opt = fs.SGD(params, lr=lr)
    for step in range(20):
        expected = scale.gain(8 + step) * curve(step=scale.progress)
        info = opt.step([np.ones(3)], clock=fs.Clock(batch_size=8 + step))
        assert info.lr == lr(batch_size=8 + step) == pytest.approx(expected, rel=1e-15)
        scale.advance(8 + step)
        statistics.add(*drawn(random.normal(0.3, 1.0, (32, 4))))
    assert 20 < scale.progress < 40
    with pytest.raises(TypeError, match=r"scale must be a .*AdaScale, not 3"):
        fs.scaling.adascale(curve, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [0, NAN, -1, "x"])
def test_adascale_refuses_what_is_no_batch(bad: Any) -> None:
    statistics = GradientStatistics()
    with pytest.raises((TypeError, ValueError), match="base_batch must be"):
        AdaScale(statistics, base_batch=bad)
    with pytest.raises((TypeError, ValueError), match="batch must be"):
        AdaScale(statistics, base_batch=8).gain(bad)
    with pytest.raises(TypeError, match="statistics must be a GradientStatistics, not None"):
        AdaScale(None, base_batch=8)  # type: ignore[arg-type]


def test_the_state_is_json_and_goes_on_with_the_same_bits() -> None:
    random = np.random.default_rng(4)
    steps = [drawn(random.normal(0.3, 1.0, (32, 4))) for _ in range(20)]
    statistics, resumed = GradientStatistics(horizon=100), GradientStatistics(horizon=100)
    scale, resumed_scale = AdaScale(statistics, 8), AdaScale(resumed, 8)
    for i, step in enumerate(steps):
        if i == 10:
            resumed.load_state_dict(json.loads(json.dumps(statistics.state_dict())))
            resumed_scale.load_state_dict(json.loads(json.dumps(scale.state_dict())))
        for one in (statistics, resumed) if i >= 10 else (statistics,):
            one.add(*step)
        for one in (scale, resumed_scale) if i >= 10 else (scale,):
            one.advance(32)
    assert resumed.state_dict() == statistics.state_dict()
    assert resumed_scale.progress == scale.progress


@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        {"variance": 1.0, "squared_gradient": 1.0},
        {"variance": 1.0, "squared_gradient": 1.0, "weight": 1.5},
        {"variance": NAN, "squared_gradient": 1.0, "weight": 0.5},
        {"variance": 1.0, "squared_gradient": "1", "weight": 0.5},
        {"progress": -1.0},
        {"progress": None},
    ],
    ids=str,
)
def test_a_state_that_does_not_fit_is_refused(state: Any) -> None:
    statistics = GradientStatistics()
    statistics.add([2.0, 6.0], [8, 8], 3.0)
    scale = AdaScale(statistics, 8)
    for one in (statistics, scale):
        before = one.state_dict()
        with pytest.raises(fs.StateError, match=r"the state does not fit \w+\("):
            one.load_state_dict(state)
        assert one.state_dict() == before
