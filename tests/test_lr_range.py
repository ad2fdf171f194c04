"""The learning-rate range test: what it finds; test_trials.py has that it leaves no trace."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import tune

LossAndGrads = Callable[..., tuple[float, Any]]


def quadratic(largest: float, noise: float = 0.0, seed: int = 0) -> tuple[Any, LossAndGrads]:
    """Parameters, and the loss with these curvatures: steps above 2 / largest diverge."""
    random = np.random.default_rng(seed)
    curvature = np.geomspace(largest / 100, largest, 20)
    w = random.normal(size=20)

    def loss_and_grads(batch: Any) -> tuple[float, Any]:
        loss = 0.5 * float(curvature @ w**2) * (1 + noise * random.normal())
        return loss, curvature * w + noise * np.sqrt(curvature) * random.normal(size=20)

    return w, loss_and_grads


# Problems whose best rate is known


@pytest.mark.parametrize("largest", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_a_quadratic_diverges_above_two_over_its_curvature(largest: float, noise: float) -> None:
    w, loss_and_grads = quadratic(largest, noise)
    found = tune.lr_range(fs.SGD(w, lr=1.0), loss_and_grads, [None], high=100.0)
    edge = 2 / largest
    assert found.suggestion is not None
    assert edge / 20 < found.suggestion < edge
    assert found.steepest < found.suggestion < found.minimum
    assert found.ended.startswith("the loss diverged at ")


def test_softmax_regression_on_digits_has_a_curvature_that_can_be_calculated() -> None:
    pytest.importorskip("sklearn")
    from fusestep.demo import Digits, log_softmax

    digits = Digits.load()
    x, y = digits.train_x.astype(np.float64), digits.train_y
    w = np.zeros((64, 10))

    def loss_and_grads(batch: Any) -> tuple[float, Any]:
        log_p, labels = log_softmax(batch["x"] @ w), batch["y"]
        delta = np.exp(log_p)
        delta[np.arange(len(labels)), labels] -= 1
        return -log_p[np.arange(len(labels)), labels].mean(), batch["x"].T @ delta / len(labels)

    # of ten classes that are equally likely: that of the inputs' second moments over ten
    edge = 2 / (np.linalg.eigvalsh(x.T @ x / len(x))[-1] / 10)
    assert 1.5 < edge < 2.5
    for batch in (32, 128):
        loader = fs.Loader({"x": x, "y": y}, batch, seed=0)
        found = tune.lr_range(fs.SGD(w, lr=1.0), loss_and_grads, loader, high=1000.0)
        assert found.suggestion is not None
        assert edge / 10 < found.suggestion < edge


def test_a_network_on_digits_learns_less_with_a_tenth_of_the_rate_and_with_ten_times_it() -> None:
    pytest.importorskip("sklearn")
    from fusestep.demo import Digits, gradients, loss_and_accuracy

    digits = Digits.load()
    data = {"x": digits.train_x, "y": digits.train_y}

    def initial_params() -> Any:
        random = np.random.default_rng(1)
        layers = [random.normal(size=shape) / 6 for shape in ((64, 64), (64, 10))]
        biases = [np.zeros(w.shape[1], np.float32) for w in layers]
        return {
            f"dense{k}": {"w": w.astype(np.float32), "b": b}
            for k, (w, b) in enumerate(zip(layers, biases, strict=True), 1)
        }

    def loss_and_grads(params: Any, batch: Any) -> tuple[float, Any]:
        x, y = batch["x"], batch["y"]
        return loss_and_accuracy(params, x, y)[0], gradients(params, x, y)

    found = tune.lr_range(fs.AdamW(initial_params()), loss_and_grads, fs.Loader(data, 32))
    assert found.suggestion is not None
    losses = []
    for factor in (0.1, 1.0, 10.0):
        params = initial_params()
        opt = fs.AdamW(params, lr=factor * found.suggestion)
        for batch in fs.Loader(data, 32, epochs=5):
            opt.step(loss_and_grads(params, batch)[1])
        losses.append(loss_and_accuracy(params, digits.test_x, digits.test_y)[0])
    assert losses[1] < min(losses[0], losses[2]) / 1.5


# The sweep


def test_rates_rise_by_the_same_factor_and_are_those_that_were_used() -> None:
    w, seen = np.zeros(1), [0.0]

    def loss_and_grads(batch: Any) -> tuple[float, Any]:
        seen.append(float(w[0]))
        return 1.0, np.array([-1.0])  # each update adds its rate

    found = tune.lr_range(fs.SGD(w, lr=5.0), loss_and_grads, [None], low=1e-3, high=0.1, steps=21)
    assert found.rates == pytest.approx(np.geomspace(1e-3, 0.1, 21), rel=1e-14)
    assert np.diff(seen[1:]) == pytest.approx(found.rates, rel=1e-13)
    assert found.rates[[0, -1]].tolist() == [1e-3, 0.1]


def test_losses_are_those_after_the_update_with_the_rate() -> None:
    w = np.zeros(1)
    found = tune.lr_range(
        fs.SGD(w, lr=5.0), lambda _: (10.0 - w[0], np.array([-1.0])), [None], high=1.0, steps=50
    )
    assert found.losses == pytest.approx(10.0 - np.cumsum(found.rates), rel=1e-13)
    assert found.ended == "the loss had not diverged at 1"
    assert found.rounds == 51


def test_groups_keep_the_ratios_of_their_rates() -> None:
    params = {"body": np.zeros(1), "head": np.zeros(1), "bias": np.zeros(1)}
    lr = fs.schedules.warmup_cosine(peak=0.1, warmup=10, total=100, start=0.01)
    opt = fs.SGD(
        params, lr=lr, groups=[{"match": "head", "lr": 10 * lr}, {"match": "bias", "lr": 0.001}]
    )
    grads = {name: np.array([-1.0]) for name in params}
    positions = []

    def loss_and_grads(batch: Any) -> tuple[float, Any]:
        positions.append([float(p[0]) for p in params.values()])
        return 1.0, grads

    found = tune.lr_range(opt, loss_and_grads, [None], high=1.0, steps=20)
    body, head, bias = np.diff(positions, axis=0).T
    assert body == pytest.approx(found.rates)
    assert head == pytest.approx(10 * found.rates)
    assert bias == pytest.approx(0.1 * found.rates)


@pytest.mark.parametrize(
    ("lr", "head", "reason"),
    [
        (fs.schedules.warmup_cosine(peak=0.1, warmup=10, total=100), 0.1, "division by zero"),
        (0.1, 0.0, "they are 0.1, 0"),
        (0.1, fs.scaling.linear(0.1, base_batch=32), "batch_size"),
    ],
)
def test_ratios_that_are_not_known_are_refused(lr: Any, head: Any, reason: str) -> None:
    params = {"body": np.zeros(1), "head": np.zeros(1)}
    opt = fs.SGD(params, lr=lr, groups=[{"match": "head", "lr": head}])
    with pytest.raises(ValueError, match=f"ratios of the groups' learning rates .*{reason}"):
        tune.lr_range(opt, lambda _: pytest.fail("it began"), [None])


def test_a_schedule_for_all_groups_has_no_ratios_to_know() -> None:
    params = {"body": np.zeros(1), "head": np.zeros(1)}
    lr = fs.schedules.warmup_cosine(peak=0.1, warmup=10, total=100)
    opt = fs.SGD(params, lr=lr, groups=[{"match": "head", "weight_decay": 0.1}])
    grads = {name: np.ones(1) for name in params}
    assert tune.lr_range(opt, lambda _: (1.0, grads), [None], steps=10).rates[0] == 1e-7


def test_other_settings_follow_their_schedules_meanwhile() -> None:
    w = np.ones(1)
    decay = fs.schedules.linear(start=0.0, end=1.0, length=10)
    opt = fs.SGD(w, lr=1.0, weight_decay=decay, decoupled_weight_decay=True)
    for _ in range(4):
        opt.step(np.zeros(1))
    seen = []

    def loss_and_grads(batch: Any) -> tuple[float, Any]:
        seen.append(opt.weight_decay)
        return 1.0, np.zeros(1)

    tune.lr_range(opt, loss_and_grads, [None], steps=10)
    assert seen[1:] == pytest.approx([0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0, 1.0, 1.0])


def test_other_settings_that_follow_the_loss_see_it_meanwhile() -> None:
    opt = fs.SGD(np.ones(1), lr=1.0, weight_decay=0.1 * fs.control.Plateau(0.5, patience=0))
    seen = []

    def loss_and_grads(batch: Any) -> tuple[float, Any]:
        seen.append(opt.weight_decay)
        return 1.0, np.zeros(1)

    tune.lr_range(opt, loss_and_grads, [None], steps=10)
    assert seen[-1] == pytest.approx(0.1 * 0.5**8)
    assert opt.weight_decay == 0.1


def test_parameters_are_passed_to_a_function_of_two_arguments() -> None:
    params = {"w": np.ones(2)}
    opt = fs.SGD(params, lr=1.0)
    own = {"mine": 1}
    seen: list[Any] = []

    def loss_and_grads(params: Any, batch: Any) -> tuple[float, Any]:
        seen.append(params)
        return 1.0, {"w": np.zeros(2)}

    tune.lr_range(opt, loss_and_grads, [None], steps=10)
    assert all(given["w"] is params["w"] for given in seen)
    seen.clear()
    tune.lr_range(opt, loss_and_grads, [None], steps=10, params=own)
    assert all(given is own for given in seen)


def test_gradients_may_be_bound() -> None:
    w, grads = np.ones(2), np.ones(2)
    opt = fs.SGD(w, lr=1.0)
    opt.bind(grads)
    found = tune.lr_range(opt, lambda _: (1.0 + float(w.sum()), None), [None], high=0.1, steps=50)
    assert found.losses[-1] < found.losses[0]
    opt.step()
    assert w.tolist() == [0.0, 0.0]


# Where it ends


def test_it_ends_where_the_loss_is_four_times_the_least() -> None:
    values = iter([1.0] * 31 + [3.9] * 5 + [5.0] * 100)
    found = tune.lr_range(
        fs.SGD(np.ones(1), lr=1.0), lambda _: (next(values), np.zeros(1)), [None], smoothing=0.0
    )
    assert len(found.rates) == len(found.losses) == 36
    assert found.losses[-1] == 5.0
    assert found.ended == f"the loss diverged at {found.rates[35]:.2g}"


@pytest.mark.parametrize("diverged", [1.5, 4.0])
def test_a_negative_loss_diverges_by_its_size(diverged: float) -> None:
    values = iter([-2.0] * 20 + list(np.linspace(-2.0, 20.0, 111)))
    found = tune.lr_range(
        fs.SGD(np.ones(1), lr=1.0),
        lambda _: (next(values), np.zeros(1)),
        [None],
        smoothing=0.0,
        diverged=diverged,
    )
    assert found.losses[-2] <= -2.0 + (diverged - 1) * 2.0 < found.losses[-1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_it_ends_at_a_loss_that_is_not_finite(bad: float) -> None:
    values = iter([1.0] * 12 + [bad] * 100)
    opt = fs.SGD(np.ones(1), lr=1.0, nonfinite="raise")
    found = tune.lr_range(opt, lambda _: (next(values), np.zeros(1)), [None])
    assert found.losses.tolist() == [1.0] * 11
    assert found.ended == f"the loss was {bad} after {found.rates[-1] * 1e8 ** (1 / 99):.2g}"
    with pytest.raises(ValueError, match="the first loss must be finite, not nan"):
        tune.lr_range(opt, lambda _: (math.nan, np.zeros(1)), [None])


def test_numpy_warns_of_no_overflow_meanwhile() -> None:
    w = np.ones(2)

    def loss_and_grads(batch: Any) -> tuple[float, Any]:
        return float(np.exp(1e3 * np.sum(w**2))) + 1.0, -w

    w[:] = 0.01
    with np.errstate(all="raise"):
        found = tune.lr_range(fs.SGD(w, lr=1.0), loss_and_grads, [None])
        with pytest.raises(FloatingPointError):
            np.exp(np.float64(1e3))
    assert found.ended.startswith("the loss ")


@pytest.mark.parametrize("nonfinite", ["propagate", "skip", "raise"])
def test_gradients_that_are_not_finite_end_it_by_their_loss(nonfinite: Any) -> None:
    w = np.ones(2)

    def loss_and_grads(batch: Any) -> tuple[float, Any]:
        return float(w.sum()), np.array([1e-3, math.inf if w[1] < 0.9 else 1.0])

    opt = fs.SGD(w, lr=1.0, nonfinite=nonfinite)
    found = tune.lr_range(opt, loss_and_grads, [None], high=1e3)
    assert found.ended.startswith("the loss was -inf after ")
    assert opt.nonfinite == nonfinite
    assert w.tolist() == [1.0, 1.0]


def test_an_end_after_the_first_rates_is_told() -> None:
    values = iter([1.0, 1.0, 100.0])
    opt = fs.SGD(np.ones(1), lr=1.0)
    found = tune.lr_range(opt, lambda _: (next(values), np.zeros(1)), [None], smoothing=0.0)
    assert found.losses.tolist() == [1.0, 100.0]
    assert found.suggestion is None
    values = iter([1.0, math.nan])
    with pytest.raises(ValueError, match="nan after the first rate: low must be less than 1e-07"):
        tune.lr_range(opt, lambda _: (next(values), np.zeros(1)), [None])


# Arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.0}, "low must be greater than 0"),
        ({"low": math.nan}, "low must be finite"),
        ({"high": 1e-8}, "high must be above low, which is 1e-07, not 1e-08"),
        ({"low": 1e-300, "high": 1e300}, "high / low must be finite"),
        ({"steps": 9}, "steps must be at least 10"),
        ({"steps": 10.5}, "steps must be a whole number"),
        ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\)"),
        ({"diverged": 1.0}, "diverged must be above 1"),
        ({"diverged": math.inf}, "diverged must be finite"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    opt = fs.SGD(np.ones(1), lr=1.0)
    with pytest.raises((TypeError, ValueError), match=message):
        tune.lr_range(opt, lambda _: pytest.fail("it began"), [None], **options)


def test_an_optimizer_of_another_library_is_refused() -> None:
    with pytest.raises(TypeError, match=r"opt must be an optimizer of fusestep, not <object"):
        tune.lr_range(object(), lambda _: (1.0, None), [None])  # type: ignore[arg-type]


@pytest.mark.parametrize("loader", [(x for x in "abc"), 3, iter([1])])
def test_batches_that_cannot_come_again_are_refused(loader: Any) -> None:
    with pytest.raises(TypeError, match=r"loader must be a fusestep\.Loader, or a list or "):
        tune.lr_range(fs.SGD(np.ones(1), lr=1.0), lambda _: (1.0, np.ones(1)), loader)


def test_a_loader_without_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="loader: there are no batches"):
        tune.lr_range(fs.SGD(np.ones(1), lr=1.0), lambda _: (1.0, np.ones(1)), [])


def test_a_loss_that_is_no_number_is_refused() -> None:
    with pytest.raises(TypeError, match="loss must be a number"):
        tune.lr_range(fs.SGD(np.ones(2), lr=1.0), lambda _: (np.ones(2), np.ones(2)), [None])


def test_a_rate_that_the_parameters_cannot_take_is_refused() -> None:
    opt = fs.SGD(np.ones(2, np.float32), lr=1.0)
    with pytest.raises(ValueError, match=r"lr .*float32"):
        tune.lr_range(opt, lambda _: (1.0, np.zeros(2, np.float32)), [None], high=1e40)
    assert opt.lr == 1.0
