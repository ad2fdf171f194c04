"""Schedule-Free: its average, and what it keeps of the rates that were used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import schedules
from tables.models import DTYPES, Array, arrays, assert_same_bits
from tables.oracle import Oracle, schedule_free_average
from tables.registry import ROWS, Row

SIZES = (0, 1, 33, 4097)
SCHEDULE_FREE = [row for row in ROWS if row.rule.startswith("schedule_free")]

every_row = pytest.mark.parametrize("row", SCHEDULE_FREE, ids=lambda row: row.id)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
both = pytest.mark.parametrize("optimizer", [fs.ScheduleFreeSGD, fs.ScheduleFreeAdamW])


def beta1(row: Row) -> float:
    return float(row.full["momentum"] if "momentum" in row.full else row.full["betas"][0])


def kept(opt: fs.optim.Optimizer, path: str = "0") -> dict[str, float]:
    values: dict[str, float] = opt.state_dict()["parameters"][path]["values"]
    return values


@every_row
@every_dtype
def test_the_average_has_the_bits_of_its_formula_and_changes_nothing(row: Row, dtype: type) -> None:
    params, alone = arrays(SIZES, dtype, 0), arrays(SIZES, dtype, 0)
    opt, other = row.build(params), row.build(alone)
    for step in range(6):
        grads = arrays(SIZES, dtype, step + 1)
        opt.step(grads)
        other.step(grads)
        expected = [
            schedule_free_average(beta1(row), y, state["z"])
            for y, state in zip(params, opt.state.values(), strict=True)
        ]
        assert_same_bits(opt.averaged, expected)
    assert_same_bits(params, alone)
    assert repr(opt.state_dict()) == repr(other.state_dict())


@every_row
def test_the_average_is_that_of_the_paper(row: Row) -> None:
    """x = (1 - c) x + c z, and y lies between x and z."""
    h, sign = row.full, -1.0 if row.full["maximize"] else 1.0
    y = np.random.default_rng(0).standard_normal(50)
    opt = row.build(y)
    x, z = y.astype(np.longdouble), y.astype(np.longdouble)
    v, weights, largest = np.zeros_like(x), np.longdouble(0), 0.0
    for t in range(1, 31):
        g = np.random.default_rng(t).standard_normal(50)
        u = sign * g.astype(np.longdouble)
        if "betas" in h:
            v = h["betas"][1] * v + (1 - h["betas"][1]) * u * u
            u = u / (np.sqrt(v / (1 - np.longdouble(h["betas"][1]) ** t)) + h["eps"])
        u = u + h["weight_decay"] * (beta1(row) * x + (1 - beta1(row)) * z)
        lr = h["lr"] * min(1.0, t / h["warmup_steps"]) if h["warmup_steps"] else h["lr"]
        largest = max(largest, lr)
        weights += (weight := t ** h["r"] * largest ** h["weight_lr_power"])
        z = z - lr * u
        x = x + weight / weights * (z - x)
        opt.step(g)
        between = beta1(row) * x + (1 - beta1(row)) * z
        assert np.abs(y - between).max() <= 1e-12 * np.abs(z).max()
        assert np.abs(opt.averaged - x).max() <= 1e-11 * np.abs(z).max()


@both
def test_the_average_is_in_the_nesting_of_the_parameters(optimizer: Any) -> None:
    params = {"a": [np.ones(2), np.ones((), np.float32)], "b": (np.ones((2, 3)),)}
    average = optimizer(params).averaged
    assert list(average) == ["a", "b"]
    assert (type(average["a"]), type(average["b"])) == (list, tuple)
    found = [*average["a"], *average["b"]]
    for x, p in zip(found, [*params["a"], *params["b"]], strict=True):
        assert isinstance(x, np.ndarray)
        assert (x.dtype, x.shape) == (p.dtype, p.shape)
        assert (x == p).all()
        assert not np.may_share_memory(x, p)
    assert optimizer(np.ones(3)).averaged.shape == (3,)
    entries = optimizer([{"params": [np.ones(2)]}, {"params": {"c": np.ones(3)}, "lr": 0.5}])
    assert [x.shape for x in (entries.averaged[0][0], entries.averaged[1]["c"])] == [(2,), (3,)]


def test_the_average_is_that_of_the_beta_of_each_group() -> None:
    params = {"a": np.ones(3), "b": np.ones(3)}
    opt = fs.ScheduleFreeAdamW(params, lr=0.1, groups=[{"match": "b", "betas": (0.5, 0.9)}])
    for _ in range(3):
        opt.step({"a": np.ones(3), "b": np.ones(3)})
    for path, beta in (("a", 0.9), ("b", 0.5)):
        expected = schedule_free_average(beta, params[path], opt.state[path]["z"])
        assert_same_bits([opt.averaged[path]], [expected])


def test_the_average_takes_the_beta_of_the_last_step() -> None:
    w = np.ones(3)
    beta = schedules.linear(0.5, 0.9, length=4, by="epoch")
    opt = fs.ScheduleFreeSGD(w, lr=0.1, momentum=beta)
    assert (opt.averaged == w).all()  # before a step has told the epoch
    for epoch in (0, 1, 2):
        opt.step(w.copy(), clock=fs.Clock(epoch=epoch))
    assert_same_bits([opt.averaged], [schedule_free_average(beta(epoch=2), w, opt.state[""]["z"])])


@both
def test_the_average_stays_the_same_while_the_parameters_hold_it(optimizer: Any) -> None:
    params = {"a": np.array([1.0, -2.0]), "b": np.ones(3, np.float32)}
    opt = optimizer(params, lr=0.25)
    for _ in range(3):
        opt.step({path: p.copy() for path, p in params.items()})
    y, x = {path: p.copy() for path, p in params.items()}, opt.averaged
    with opt.averaged_in_place():
        assert_same_bits(list(params.values()), list(x.values()))
        assert_same_bits(list(opt.averaged.values()), list(x.values()))
        assert not np.may_share_memory(opt.averaged["a"], params["a"])
    assert_same_bits(list(params.values()), list(y.values()))
    assert_same_bits(list(opt.averaged.values()), list(x.values()))


@both
def test_what_is_kept_is_of_the_rates_that_were_used(optimizer: Any) -> None:
    params = arrays((7, 65), np.float64, 0)
    row = next(r for r in SCHEDULE_FREE if r.optimizer is optimizer and "r" in r.options)
    oracle = Oracle(row.rule, dict(row.full), params)
    curve = schedules.piecewise([0.0, 0.1, 0.4, 0.2], at=[1, 2, 3])  # begins at 0, then falls
    opt = optimizer(params, **{**row.options, "lr": curve})
    for step in range(6):
        oracle.h["lr"] = curve(step)
        grads: list[Array | None] = list(arrays((7, 65), np.float64, step + 1))
        if step in (2, 4):
            grads[1] = None  # the largest rate passes it by
        opt.step(grads)
        oracle.step(grads)
    assert_same_bits(params, oracle.params)
    for i, state in enumerate(oracle.state):
        assert kept(opt, str(i)) == state.handed_on
    assert (kept(opt, "0")["lr_max"], kept(opt, "1")["lr_max"]) == (0.4, 0.2)


@both
def test_a_rate_of_0_moves_nothing_and_weighs_nothing(optimizer: Any) -> None:
    w = np.array([1.0, -2.0])
    opt = optimizer(w, lr=0.0, weight_decay=0.1)
    for _ in range(3):
        opt.step(np.ones(2))
    assert w.tolist() == [1.0, -2.0]
    assert kept(opt, "") == {"lr_max": 0.0, "weight_sum": 0.0}
    opt.lr = 0.5
    opt.step(np.ones(2))
    assert kept(opt, "") == {"lr_max": 0.5, "weight_sum": 0.25}


@both
def test_gradients_of_0_leave_the_parameter_where_it_is(optimizer: Any) -> None:
    w = np.array([1.0, -2.0, 0.0])
    opt = optimizer(w, warmup_steps=3)
    for _ in range(5):
        opt.step(np.zeros(3))
    assert w.tolist() == opt.averaged.tolist() == [1.0, -2.0, 0.0]


@both
def test_weights_beyond_double_are_refused_and_nothing_changes(optimizer: Any) -> None:
    w = np.ones(3)
    opt = optimizer(w, lr=1.0, r=2000.0)
    opt.step(np.ones(3))
    before, state = w.copy(), repr(opt.state_dict())
    with pytest.raises(ValueError, match="beyond float64"):
        opt.step(np.ones(3))
    assert (w == before).all()
    assert repr(opt.state_dict()) == state


@every_row
def test_a_run_that_is_resumed_has_the_average_of_one_that_never_stopped(row: Row) -> None:
    whole, resumed = arrays(SIZES, np.float32, 0), arrays(SIZES, np.float32, 0)
    opt, first = row.build(whole), row.build(resumed)
    for seed in (1, 2, 3):
        for one in (opt, first):
            one.step(arrays(SIZES, np.float32, seed))
    second = row.build(resumed)
    second.load_state_dict(first.state_dict())
    for seed in (4, 5):
        for one in (opt, second):
            one.step(arrays(SIZES, np.float32, seed))
    assert_same_bits(second.averaged, opt.averaged)
    assert repr(second.state_dict()) == repr(opt.state_dict())


@every_row
@every_dtype
def test_the_average_on_a_gpu_has_the_bits_of_the_cpu(cupy: Any, row: Row, dtype: type) -> None:
    host = [*arrays(SIZES, dtype, 0), np.ones((), dtype)]
    device = [cupy.asarray(p) for p in host]
    opt, expected = row.build(device), row.build(host)
    for step in (1, 2, 3):
        grads = [*arrays(SIZES, dtype, step), np.full((), 0.3, dtype)]
        opt.step([cupy.asarray(g) for g in grads])
        expected.step(grads)
        assert_same_bits([x.get() for x in opt.averaged], expected.averaged)
    assert_same_bits([p.get() for p in device], host)
