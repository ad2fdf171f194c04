"""Gradients that hold some rows alone have the bits of dense ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import _core, schedules
from tables.registry import ELEMENTWISE, Row
from tables.row_gradients import Twins, made, zipf


def normal(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    return np.random.default_rng(7).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_thousand_steps_with_rows_are_those_with_zeros_elsewhere(dtype: Any) -> None:
    shape, rng = (300, 8), np.random.default_rng(0)
    lr = schedules.cosine(0.1, 0.001, 900) * schedules.warmup(50)
    twins = Twins(lambda p: fs.AdamW(p, lr=lr, weight_decay=0.1), {"t": normal(shape, dtype)})
    for step in range(1000):
        rows = zipf(rng, shape[0], int(rng.integers(0, 40)))
        twins.compare_rows("t", rows)
        twins.step({"t": made(rows, shape, dtype, rng)})
        if step in (3, 500):
            twins.compare()
    twins.compare()


@pytest.mark.parametrize("row", ELEMENTWISE, ids=lambda row: row.id)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_rule_has_the_bits_of_dense(row: Row, dtype: Any) -> None:
    shape, rng = (40, 3, 5), np.random.default_rng(1)
    twins = Twins(row.build, {"t": normal(shape, dtype), "b": normal((7,), dtype)})
    for step in range(60):
        rows = zipf(rng, shape[0], 6)
        grads = {"t": made(rows, shape, dtype, rng), "b": rng.standard_normal(7).astype(dtype)}
        if step % 20 == 11:
            grads["b"] = None
        if step == 31:
            twins.compare_rows("t", np.arange(40)[::-3].copy())
        twins.step(grads)
    twins.compare()


OPTIMIZERS: list[Any] = [
    lambda p: fs.AdamW(p, lr=schedules.linear(0.1, 0.01, 40), betas=(0.8, LATER), weight_decay=0.1),
    lambda p: fs.SGD(p, lr=0.1, momentum=schedules.linear(0.9, 0.1, 30), weight_decay=LATER * 0.1),
    lambda p: fs.SGD(p, lr=0.1, weight_decay=schedules.piecewise([0.0, 0.1, 0.0], [20, 30])),
    lambda p: fs.Adagrad(p, lr=0.1, initial_accumulator_value=0.5),
    lambda p: fs.SGD(p, lr=0.1, maximize=True),
    lambda p: fs.Adam(p, lr=0.1, ema=0.75, ema_every=3),
    lambda p: fs.SGD(p, lr=0.1, ema=schedules.linear(0.0, 1.0, 30)),
    lambda p: fs.ScheduleFreeSGD(p, lr=0.5, warmup_steps=5),
]
LATER = schedules.linear(0.5, 0.99, 50)


@pytest.mark.parametrize("build", OPTIMIZERS)
@pytest.mark.parametrize("history", [1, 3, 1000])
def test_what_changes_from_step_to_step_is_caught_up(build: Any, history: int) -> None:
    shape, rng = (50, 4), np.random.default_rng(2)
    twins = Twins(build, {"t": normal(shape)})
    twins.opt.history = history
    for step in range(60):
        twins.step({"t": made(zipf(rng, 50, 5), shape, np.float32, rng)})
        if step == 40:
            twins.opt.clip_norm = twins.other.clip_norm = 0.5
        if step == 45:
            twins.opt.clip_value = twins.other.clip_value = 0.1
        if step % 17 == 0:
            twins.compare_rows("t", rng.integers(0, 50, 20))
    twins.compare()
    averaged, expected = twins.opt.averaged, twins.other.averaged
    if expected is not None:
        assert averaged["t"].tobytes() == expected["t"].tobytes()


ACCESSES: dict[str, Any] = {
    "none": lambda step: [],
    "one, each time": lambda step: [7],
    "one, all the time": lambda step: [7] * 50,
    "all": lambda step: np.arange(64),
    "all, backwards, twice": lambda step: [*range(63, -1, -1)] * 2,
    "the last": lambda step: [63, 63, 0],
    "late": lambda step: [] if step < 29 else [5, 4, 3],
    "neighbours": lambda step: np.arange(step, step + 20) % 64,
}


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize("width", [1, 16, 1500])
def test_whatever_rows_come(access: str, width: int) -> None:
    shape, rng = (64, width), np.random.default_rng(3)
    twins = Twins(lambda p: fs.Adam(p, lr=0.1, clip_norm=1.0), {"t": normal(shape)})
    for step in range(30):
        twins.step({"t": made(ACCESSES[access](step), shape, np.float32, rng)})
    twins.compare()


@pytest.mark.parametrize("shape", [(20,), (0, 3), (5, 0), (6, 2, 3, 2)])
def test_parameters_of_any_shape_have_rows(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    twins = Twins(lambda p: fs.Adam(p, clip_norm=0.1, weight_decay=0.1), {"t": normal(shape)})
    for _ in range(5):
        rows = rng.integers(0, shape[0], 4) if shape[0] else []
        twins.step({"t": made(rows, shape, np.float32, rng)})
    twins.compare()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("clip_norm", [None, 1.0, 1e-3])
def test_norms_are_those_of_dense_gradients(clip_norm: float | None, dtype: Any) -> None:
    # blocks that arrays share, blocks of their own, and enough of them for two levels of the tree
    shapes = {"a": (3,), "t": (40_000, 33), "u": (700, 5), "b": (1001,), "v": (30, 2000)}
    rng = np.random.default_rng(5)
    params = {name: normal(shape, dtype) for name, shape in shapes.items()}

    def build(params: Any) -> Any:
        return fs.AdamW(params, clip_norm=clip_norm, nonfinite="raise")

    twins = Twins(build, params)
    for step in range(6):
        grads: dict[str, Any] = {}
        for name, shape in shapes.items():
            rows = rng.integers(0, shape[0], 1 + int(shape[0] ** 0.7))
            grads[name] = made(rows, shape, dtype, rng)
        if step != 4:
            grads["b"] = normal((1001,), dtype)
        grads["a"] = None if step == 2 else normal((3,), dtype)
        if step == 3:
            grads["t"] = normal(shapes["t"], dtype)
        twins.step(grads)
    twins.compare()


def test_norms_beyond_double_are_taken_again() -> None:
    rng, shape = np.random.default_rng(6), (100, 3)
    twins = Twins(lambda p: fs.SGD(p, clip_norm=1.0), {"t": normal(shape, np.float64)})
    huge = fs.Rows(np.array([3, 90]), 1e200 * rng.standard_normal((2, 3)), shape)
    twins.step({"t": huge})
    twins.compare()


@pytest.mark.parametrize("nonfinite", ["propagate", "skip", "raise"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_what_is_not_finite_is_treated_as_in_dense_gradients(
    nonfinite: Any, value: float, clip_norm: float | None
) -> None:
    shape, rng = (10, 3), np.random.default_rng(7)

    def build(params: Any) -> Any:
        return fs.Adam(params, nonfinite=nonfinite, clip_norm=clip_norm)

    twins = Twins(build, {"t": normal(shape)})
    for step in range(4):
        grad = made([3, 1, 3], shape, np.float32, rng)
        if step == 2:
            grad.values[1, 1] = value
            if nonfinite == "raise":
                message = r"params\['t'\]: gradient holds " + ("NaN" if value != value else "inf")
                with pytest.raises(ValueError, match=message):
                    twins.opt.step({"t": grad})
                continue
        twins.step({"t": grad})
    twins.opt.flush()
    np.testing.assert_array_equal(twins.lazy["t"], twins.dense["t"])
    assert twins.opt.steps_applied == (4 if nonfinite == "propagate" else 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dense_gradients_and_none_come_in_between(dtype: Any) -> None:
    shape, rng = (30, 4), np.random.default_rng(8)
    params = {"t": normal(shape, dtype), "u": normal(shape, dtype)}
    twins = Twins(lambda p: fs.RMSprop(p, momentum=0.5, weight_decay=0.1), params)
    for _ in range(50):
        grads: dict[str, Any] = {}
        for name in params:
            kind = rng.integers(0, 4)
            grads[name] = made(zipf(rng, 30, 4), shape, dtype, rng)
            if kind == 0:
                grads[name] = None
            elif kind == 1:
                grads[name] = rng.standard_normal(shape).astype(dtype)
        twins.step(grads)
    twins.compare()


def test_threads_and_instruction_sets_change_no_bit() -> None:
    shape, results = (4000, 64), set()
    for isa in fs.build_info()["isa_supported"]:
        _core.use_isa(isa)
        for threads in (1, 2, 5):
            fs.set_num_threads(threads)
            rng, table = np.random.default_rng(9), normal(shape)
            opt = fs.AdamW(table, lr=0.1, clip_norm=1.0)
            for _ in range(8):
                rows = zipf(rng, shape[0], 30_000)
                opt.fetch("", rows)
                opt.step(made(rows, shape, np.float32, rng))
            opt.flush()
            results.add(table.tobytes())
    assert len(results) == 1


def test_averages_and_copies_are_those_of_dense_gradients() -> None:
    shape, rng = (20, 3), np.random.default_rng(10)
    copies: list[Any] = [np.zeros(shape, np.float64) for _ in range(2)]
    given = iter(copies)

    def build(params: Any) -> Any:
        return fs.SGD(params, lr=0.1, ema=0.9, copies={"t": next(given)})

    twins = Twins(build, {"t": normal(shape)})
    for _ in range(20):
        twins.step({"t": made(zipf(rng, 20, 2), shape, np.float32, rng)})
    with twins.opt.averaged_in_place(), twins.other.averaged_in_place():
        assert twins.lazy["t"].tobytes() == twins.dense["t"].tobytes()
    twins.compare()
    assert copies[0].tobytes() == copies[1].tobytes()
