"""What a parameter's first update begins with: accumulators that are not 0, and steps of a size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import schedules
from tables.models import DTYPES, Array, arrays, assert_same_bits, captured
from tables.oracle import Oracle
from tables.registry import ROWS, Row

SIZES = (5, 33, 1000)


def row(rule: str, **options: Any) -> Row:
    first = next(r for r in ROWS if r.rule == rule)
    return Row(rule, first.optimizer, first.defaults, options)


# a rule with options, and the setting that it begins with
BEGINNINGS = [
    (row("adagrad", lr=0.1, initial_accumulator_value=0.5), "initial_accumulator_value"),
    (
        row("rmsprop", lr=0.1, initial_accumulator_value=0.5, momentum=0.5, centered=True),
        "initial_accumulator_value",
    ),
    (row("rprop", lr=0.1, step_sizes=(1e-3, 0.4)), "lr"),
]
every_beginning = pytest.mark.parametrize(
    ("one", "name"), BEGINNINGS, ids=[one.rule for one, _ in BEGINNINGS]
)
CURVE = schedules.linear(0.5, 0.1, length=4)


def gradients(steps: int, dtype: Any = np.float32, late: int = 0) -> list[list[Array | None]]:
    """The last parameter has none in the first few steps."""
    found: list[list[Array | None]] = [
        [0.1 * g for g in arrays(SIZES, dtype, seed)] for seed in range(1, steps + 1)
    ]
    for step in range(late):
        found[step][-1] = None
    return found


def expected(
    one: Row, name: str, grads: list[list[Array | None]], values: list[float], dtype: Any
) -> Oracle:
    oracle = Oracle(one.rule, dict(one.full), arrays(SIZES, dtype, 0))
    for model, value in zip(grads, values, strict=True):
        oracle.h[name] = value
        oracle.step(model)
    return oracle


def assert_same(opt: fs.optim.Optimizer, params: list[Array], oracle: Oracle) -> None:
    assert_same_bits(params, oracle.params)
    for path, state in enumerate(oracle.state):
        assert_same_bits([opt.state[str(path)][k] for k in state], list(state.values()))


@every_beginning
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_value_in_force_at_each_parameters_first_update(
    one: Row, name: str, dtype: type
) -> None:
    grads = gradients(6, dtype, late=2)
    values = [float(CURVE(step)) for step in range(6)]
    by_hand, by_curve = arrays(SIZES, dtype, 0), arrays(SIZES, dtype, 0)
    hand = one.build(by_hand)
    curve = one.build(by_curve, **{name: CURVE})
    for model, value in zip(grads, values, strict=True):
        setattr(hand, name, value)
        hand.step(model)
        curve.step(model)
    oracle = expected(one, name, grads, values, dtype)
    assert_same(hand, by_hand, oracle)
    assert_same(curve, by_curve, oracle)


@every_beginning
def test_it_has_no_effect_afterwards(one: Row, name: str) -> None:
    params, changed = arrays(SIZES, np.float32, 0), arrays(SIZES, np.float32, 0)
    opt, other = one.build(params), one.build(changed)
    for step, model in enumerate(gradients(3)):
        opt.step(model)
        other.step(model)
        setattr(other, name, 10.0 + step)
    assert_same_bits(changed, params)
    fresh = arrays(SIZES, np.float32, 0)
    one.build(fresh, **{name: 0.3}).step(gradients(1)[0])
    one.build(again := arrays(SIZES, np.float32, 0)).step(gradients(1)[0])
    assert all((a != b).any() for a, b in zip(fresh, again, strict=True))


@every_beginning
def test_a_skipped_step_is_not_the_first_update(one: Row, name: str) -> None:
    params, whole = arrays(SIZES, np.float32, 0), arrays(SIZES, np.float32, 0)
    opt, other = one.build(params, nonfinite="skip"), one.build(whole)
    assert not opt.step([np.full(size, np.nan, np.float32) for size in SIZES]).applied
    for model in gradients(3):
        opt.step(model)
        other.step(model)
    assert_same_bits(params, whole)


@every_beginning
@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_run_that_is_resumed_begins_no_second_time(one: Row, name: str, before: int) -> None:
    whole, resumed = arrays(SIZES, np.float32, 0), arrays(SIZES, np.float32, 0)
    opt, first = one.build(whole), one.build(resumed)
    grads = gradients(5, late=2)
    for model in grads[:before]:
        opt.step(model)
        first.step(model)
    second = one.build(resumed, **{name: 7.0})
    second.load_state_dict(first.state_dict())
    for model in grads[before:]:
        opt.step(model)
        second.step(model)
    assert_same_bits(resumed, whole)
    assert repr(second.state_dict()) == repr(opt.state_dict())


@every_beginning
def test_new_parameters_and_a_reset_begin_with_the_value_of_their_group(
    one: Row, name: str
) -> None:
    start, grad = arrays((9,), np.float32, 0)[0], arrays((9,), np.float32, 1)[0]

    def moved(value: float) -> Array:
        one.build(w := start.copy(), **{name: value}).step(grad)
        return w

    params = {"a": start.copy()}
    opt = one.build(params)
    opt.step({"a": grad})
    added = {"b": start.copy(), "c": start.copy()}
    opt.add_group({"b": added["b"]}, **{name: 0.25})
    opt.step({"a": None, "b": grad})
    assert_same_bits([added["b"]], [moved(0.25)])
    state = opt.state_dict()
    other = one.build({**params, **added}, groups=[{"match": "b", name: 0.25}])
    other.load_state_dict(state, strict=False)
    setattr(other, name, 0.125)
    other.step({"a": None, "b": None, "c": grad})
    assert_same_bits([added["c"]], [moved(0.125)])
    params["a"][:] = start
    other.reset()
    other.step({"a": grad, "b": None, "c": None})
    assert_same_bits([params["a"]], [moved(0.125)])


@every_beginning
@pytest.mark.parametrize("nonfinite", ["propagate", "skip"])
def test_a_captured_step_begins_as_on_the_cpu(
    cupy: Any, one: Row, name: str, nonfinite: str
) -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    host = arrays(SIZES, np.float32, 0)
    device = [cupy.asarray(p) for p in host]
    options = {name: CURVE, "nonfinite": nonfinite}
    opt, other = one.build(device, **options), one.build(host, **options)
    grads = [cupy.zeros(p.shape, p.dtype) for p in host]
    with stream:
        opt.bind(grads)
        graph = captured(opt, stream, 5)
        for step, model in enumerate(gradients(5)):
            if nonfinite == "skip" and step in (0, 3):
                model[1] = np.full(SIZES[1], np.inf, np.float32)
            for gradient, value in zip(grads, model, strict=True):
                gradient.set(value)
            graph.launch()
            stream.synchronize()
            other.step(model)
    assert_same_bits([p.get() for p in device], host)
    for path, state in other.state.items():
        assert_same_bits([opt.state[path][k].get() for k in state], list(state.values()))


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_an_accumulator_that_begins_above_0_damps_the_first_steps(momentum: float) -> None:
    for optimizer, more in ((fs.RMSprop, {"momentum": momentum}), (fs.Adagrad, {})):
        w = np.zeros(1)
        optimizer(w, lr=1.0, eps=1e-30, initial_accumulator_value=3.0, **more).step(np.ones(1))
        v = 0.99 * 3.0 + (1.0 - 0.99) if optimizer is fs.RMSprop else 4.0
        assert w[0] == pytest.approx(-1.0 / np.sqrt(v), rel=1e-15)


def test_the_step_sizes_of_rprop_begin_as_those_of_torch() -> None:
    """Which makes them at each parameter's first update, too."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    params = arrays(SIZES, np.float64, 0)
    tensors = [torch.from_numpy(p.copy()).requires_grad_() for p in params]
    ours = fs.Rprop(params, lr=CURVE)
    theirs = torch.optim.Rprop(tensors, lr=0.5)
    for step, model in enumerate(gradients(30, np.float64, late=3)):
        theirs.param_groups[0]["lr"] = float(CURVE(step))
        for tensor, grad in zip(tensors, model, strict=True):
            tensor.grad = None if grad is None else torch.from_numpy(grad)
        theirs.step()
        ours.step(model)
    assert_same_bits(params, [tensor.detach().numpy() for tensor in tensors])
