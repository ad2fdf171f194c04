"""Steps that feed gradient statistics, from accumulated gradients and from a batch cut in parts."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest

import fusestep as fs
from fusestep.gradients import GradientStatistics, split_step
from tables.models import MICRO_BATCHES, Array, assert_same_bits, micro_batches

NAN = math.nan


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("grad_scale", [1.0, 8.0])
def test_a_step_feeds_the_statistics_of_its_micro_batches(dtype: Any, grad_scale: float) -> None:
    sizes = (1000, 33)
    opt = fs.SGD([np.zeros(size, dtype) for size in sizes])
    statistics, expected = GradientStatistics(), GradientStatistics()
    for step in range(3):
        micro = micro_batches(sizes, dtype, step)
        wholes = [np.concatenate(grads).astype(np.float64) for grads, _ in micro]
        squares = [float(np.sum(g**2)) for g in wholes]
        mean = np.average(wholes, axis=0, weights=MICRO_BATCHES)
        expected.add(squares, MICRO_BATCHES, float(np.sum(mean**2)))
        for grads, samples in micro:
            opt.accumulate([g * dtype(grad_scale) for g in grads], samples)
        info = opt.step(grad_scale=grad_scale, statistics=statistics)
        assert info.grad_norm == pytest.approx(math.sqrt(np.sum(mean**2)), rel=1e-6)
    assert statistics.state_dict() == pytest.approx(expected.state_dict(), rel=1e-5)


def test_statistics_change_no_bit_of_a_step() -> None:
    params: list[list[Array]] = []
    for statistics in (None, GradientStatistics()):
        params.append([np.zeros(1000, np.float32), np.zeros(33, np.float32)])
        opt = fs.Adam(params[-1], lr=0.1)
        for grads, samples in micro_batches((1000, 33), np.float32, 0):
            opt.accumulate(grads, samples)
        opt.step(statistics=statistics)
    assert_same_bits(*params)


def test_a_skipped_step_teaches_nothing() -> None:
    opt, statistics = fs.SGD(np.zeros(2), nonfinite="skip"), GradientStatistics()
    for value in (1.0, NAN):
        opt.accumulate(np.full(2, value), 4)
    assert not opt.step(statistics=statistics).applied
    opt.nonfinite = "propagate"
    for value in (1.0, NAN):
        opt.accumulate(np.full(2, value), 4)
    assert opt.step(statistics=statistics).applied
    assert statistics.effective_samples == 0.0


def test_statistics_without_accumulated_gradients_are_an_error() -> None:
    w = np.ones(2)
    opt = fs.SGD(w)
    with pytest.raises(fs.StateError, match="statistics learn from accumulated gradients"):
        opt.step(np.ones(2), statistics=GradientStatistics())
    opt.accumulate(np.ones(2), 1)
    with pytest.raises(TypeError, match="statistics must be a GradientStatistics, not 3"):
        opt.step(statistics=3)  # type: ignore[arg-type]
    with pytest.raises(fs.StateError, match="gradients are accumulated"):
        opt.step(np.ones(2), statistics=GradientStatistics())
    assert opt.accumulated == 1.0
    assert (w == 1.0).all()


class Batch(NamedTuple):
    x: Array
    y: Array


def regression(batch: Any) -> tuple[Array, Array]:
    return (batch["x"], batch["y"]) if isinstance(batch, dict) else (batch[0], batch[1])


class Model:
    """Least squares, with one array for all gradients, and a note of the sizes seen."""

    def __init__(self) -> None:
        self.w = np.zeros(5)
        self.gradient = np.empty(5)
        self.sizes: list[int] = []

    def loss_and_grads(self, batch: Any) -> tuple[float, Array]:
        x, y = regression(batch)
        self.sizes.append(len(x))
        error = x @ self.w - y
        np.matmul(x.T, error / len(x), out=self.gradient)
        return 0.5 * float(np.mean(error**2)), self.gradient


def data(rows: int) -> tuple[Array, Array]:
    random = np.random.default_rng(rows)
    x = random.standard_normal((rows, 5))
    return x, x @ np.arange(5.0) + random.standard_normal(rows)


@pytest.mark.parametrize("form", [tuple, list, Batch._make, lambda b: {"x": b[0], "y": b[1]}])
@pytest.mark.parametrize(
    ("rows", "parts", "sizes"),
    [(32, 2, [16, 16]), (7, 2, [3, 4]), (10, 4, [2, 3, 2, 3]), (1, 2, [1]), (3, 1, [3])],
)
def test_a_batch_in_parts_is_the_batch(form: Any, rows: int, parts: int, sizes: list[int]) -> None:
    split, whole = Model(), Model()
    one, other = fs.SGD(split.w, lr=0.1), fs.SGD(whole.w, lr=0.1)
    batch, statistics = form(data(rows)), GradientStatistics()
    for _ in range(3):
        info, loss = split_step(
            one, split.loss_and_grads, batch, statistics=statistics, parts=parts
        )
        expected, grads = whole.loss_and_grads(batch)
        other.step(grads)
        assert info.applied
        assert loss == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(split.w, whole.w, rtol=1e-12, atol=1e-12)
    assert split.sizes == sizes * 3
    assert (statistics.gradient_variance is not None) == (len(sizes) > 1)
    assert one.accumulated == 0.0


def test_a_batch_in_parts_tells_the_noise_of_its_gradients() -> None:
    model, statistics = Model(), GradientStatistics(horizon=1e6)
    opt = fs.SGD(model.w, lr=0.0)
    x, y = data(4000)
    for rows in np.split(np.arange(4000), 250):
        split_step(opt, model.loss_and_grads, (x[rows], y[rows]), statistics=statistics, parts=4)
    each = -x * y[:, None]
    variance = np.sum(each.var(axis=0, ddof=1))
    squared = np.sum(each.mean(axis=0) ** 2) - variance / 4000
    assert statistics.gradient_variance == pytest.approx(variance, rel=0.1)
    assert statistics.noise_scale == pytest.approx(variance / squared, rel=0.1)


def test_schedules_see_the_loss_and_the_clock_of_a_batch_in_parts() -> None:
    model = Model()
    seen = fs.control.LossBackoff(upper=10.0)
    lr = fs.schedules.linear(0.0, 1.0, length=100, by="samples") * seen
    opt = fs.SGD(model.w, lr=lr)
    x, y = data(8)
    info, first = split_step(opt, model.loss_and_grads, (x, y), clock=fs.Clock(samples=50))
    assert info.lr == 0.5
    _, second = split_step(opt, model.loss_and_grads, (x, y / 2), clock=fs.Clock(samples=50))
    assert seen.value == pytest.approx(first / second)


def test_the_loss_scale_is_divided_out() -> None:
    w = np.zeros(2)
    opt, statistics = fs.SGD(w, lr=1.0), GradientStatistics()
    batch = np.array([[1.0, 0.0], [0.0, 1.0]])
    split_step(opt, lambda x: (0.0, 4.0 * x[0]), batch, statistics=statistics, grad_scale=4.0)
    assert (w == -0.5).all()
    assert statistics.gradient_variance == pytest.approx(1.0)  # 2 (1 - 1/2)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("failing", [1, 2])
def test_a_failure_in_a_part_leaves_nothing_accumulated(failing: int, error: Any) -> None:
    w = np.ones(2)
    opt = fs.SGD(w, nonfinite="raise")
    calls = []

    def loss_and_grads(part: Array) -> tuple[float, Array]:
        calls.append(part)
        if len(calls) == failing:
            raise error("no memory")
        return 0.0, np.ones(2)

    with pytest.raises(error, match="no memory"):
        split_step(opt, loss_and_grads, np.ones((4, 2)))
    assert opt.accumulated == 0.0
    with pytest.raises(ValueError, match="gradient holds NaN"):
        split_step(opt, lambda part: (0.0, np.full(2, NAN)), np.ones((4, 2)))
    assert (opt.accumulated, opt.steps_applied) == (0.0, 0)
    assert (w == 1.0).all()


@pytest.mark.parametrize(
    ("batch", "parts", "error", "message"),
    [
        (np.ones((0, 2)), 2, ValueError, r"above 0, not \[0\]"),
        ((np.ones(3), np.ones(4)), 2, ValueError, r"one number of rows, above 0, not \[3, 4\]"),
        ({}, 2, ValueError, r"one number of rows, above 0, not \[\]"),
        (np.ones((4, 2)), 0, ValueError, "parts must be at least 1, not 0"),
        (np.ones((4, 2)), 2.0, TypeError, "parts must be a whole number, not 2.0"),
    ],
)
def test_a_batch_that_cannot_be_cut_is_refused(
    batch: Any, parts: Any, error: Any, message: str
) -> None:
    opt = fs.SGD(np.ones(2))
    with pytest.raises(error, match=message):
        split_step(opt, lambda part: pytest.fail("called"), batch, parts=parts)


def test_a_batch_in_parts_does_not_mix_with_other_gradients() -> None:
    opt = fs.SGD(np.ones(2))

    def step() -> None:
        split_step(opt, lambda part: (0.0, np.ones(2)), np.ones((4, 2)))

    opt.accumulate(np.ones(2), 3)
    with pytest.raises(fs.StateError, match="3 samples are accumulated already"):
        step()
    assert opt.accumulated == 3.0
    opt.discard_accumulated()
    opt.bind(np.ones(2))
    with pytest.raises(fs.StateError, match="gradients are bound"):
        step()
    opt.step()
    assert opt.steps_applied == 1


def test_a_batch_of_a_loader_brings_its_clock() -> None:
    x = np.arange(24.0).reshape(12, 2)
    w = np.zeros(2)
    opt = fs.SGD(w, lr=fs.scaling.linear(0.1, base_batch=4))
    statistics = fs.gradients.GradientStatistics()

    def loss_and_grads(rows: dict[str, np.ndarray]) -> tuple[float, np.ndarray]:
        return float(rows["x"].mean()), rows["x"].mean(axis=0)

    for batch in fs.Loader({"x": x}, 8, order="sequential"):
        expected = w - 0.1 * batch.size / 4 * batch["x"].mean(axis=0)
        info, loss = fs.gradients.split_step(opt, loss_and_grads, batch, statistics=statistics)
        assert info.lr == pytest.approx(0.1 * batch.size / 4)
        assert loss == pytest.approx(batch["x"].mean())
        assert np.allclose(w, expected)
    assert statistics.gradient_variance is not None
