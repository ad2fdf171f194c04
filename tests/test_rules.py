"""Every rule and option against the NumPy oracle, bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fusestep as fs
from tables.models import DTYPES, SIZES, Array, arrays, assert_same_bits
from tables.norms import grad_norm
from tables.oracle import Oracle
from tables.registry import ROWS, Row

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)

TREATMENTS = (
    {},
    {"clip_norm": 3.0},
    {"clip_value": 0.5},
    {"clip_norm": 50.0, "clip_value": 0.01, "grad_scale": 3.0},
    {"grad_scale": 1024.0},
)


def assert_follows_oracle(
    row: Row, params: list[Array], gradients: list[list[Array | None]], **treatment: float
) -> None:
    oracle = Oracle(row.rule, row.full, params)
    limits = {k: v for k, v in treatment.items() if k != "grad_scale"}
    opt = row.build(params, **limits)
    for grads in gradients:
        norm = oracle.step(grads, **treatment)
        info = opt.step(grads, grad_scale=treatment.get("grad_scale", 1.0))
        assert info.applied
        assert info.grad_norm == (norm if "clip_norm" in treatment else None)
    assert_same_bits(params, oracle.params)
    for path, state in enumerate(oracle.state):
        present = opt.state[str(path)]
        assert sorted(present) == sorted(state)
        assert_same_bits([present[k] for k in state], list(state.values()))


@every_row
@every_dtype
def test_ten_steps_have_the_bits_of_the_oracle_at_every_size(row: Row, dtype: type) -> None:
    gradients = [list(arrays(SIZES, dtype, seed)) for seed in range(1, 11)]
    assert_follows_oracle(row, arrays(SIZES, dtype, 0), gradients)


@every_row
@every_dtype
@pytest.mark.parametrize("treatment", TREATMENTS[1:], ids=str)
def test_treated_gradients_have_the_bits_of_the_oracle(
    row: Row, dtype: type, treatment: dict[str, float]
) -> None:
    sizes = (1, 17, 1000, 4097)
    gradients = [list(arrays(sizes, dtype, seed)) for seed in range(1, 6)]
    assert_follows_oracle(row, arrays(sizes, dtype, 0), gradients, **treatment)


@every_row
@every_dtype
def test_a_missing_gradient_leaves_its_parameter_state_and_count(row: Row, dtype: type) -> None:
    sizes = (5, 33, 1000)
    gradients: list[list[Array | None]] = [list(arrays(sizes, dtype, seed)) for seed in range(1, 8)]
    for step, leaf in ((0, 1), (3, 1), (3, 2), (5, 0)):
        gradients[step][leaf] = None
    assert_follows_oracle(row, arrays(sizes, dtype, 0), gradients, clip_norm=2.0)


@every_row
@every_dtype
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_special_values_follow_the_oracle(row: Row, dtype: type) -> None:
    tiny = np.finfo(dtype).smallest_subnormal
    values = [0.0, -0.0, tiny, -tiny, 1e3 * tiny, np.finfo(dtype).tiny, 1.0, -2.5]
    values += [np.finfo(dtype).max, -np.inf, np.inf, np.nan]
    grid = np.array(values, dtype)
    params = [np.repeat(grid, grid.size), np.repeat(grid, grid.size)]
    gradients: list[list[Array | None]] = [
        [np.tile(grid, grid.size), np.tile(grid[::-1], grid.size)] for _ in range(3)
    ]
    gradients[2] = [np.zeros_like(params[0]), -np.zeros_like(params[0])]
    assert_follows_oracle(row, [p.copy() for p in params], gradients)
    assert_follows_oracle(row, [p.copy() for p in params], gradients, clip_value=0.5)


@every_row
def test_float32_and_float64_parameters_may_mix(row: Row) -> None:
    params = [*arrays((3, 1000), np.float32, 0), *arrays((65, 33), np.float64, 1)]
    gradients = [
        [*arrays((3, 1000), np.float32, s), *arrays((65, 33), np.float64, s + 1)]
        for s in range(2, 6)
    ]
    assert_follows_oracle(row, params, [list(g) for g in gradients], clip_norm=1.5)


@every_dtype
def test_the_norm_is_within_1e_12_of_numpy_in_double(dtype: type) -> None:
    params, grads = arrays(SIZES, dtype, 0), arrays(SIZES, dtype, 1)
    opt = fs.SGD(params, clip_norm=math.inf)
    found = opt.step(grads).grad_norm
    expected = np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in grads))
    assert found == pytest.approx(expected, rel=1e-12)
    assert found == grad_norm(grads, SIZES)


def test_clipping_to_a_norm_that_is_not_reached_changes_nothing() -> None:
    params = arrays((1000,), np.float32, 0)
    clipped = [p.copy() for p in params]
    grads = arrays((1000,), np.float32, 1)
    fs.AdamW(params).step(grads)
    fs.AdamW(clipped, clip_norm=math.inf).step(grads)
    assert_same_bits(params, clipped)


@every_row
def test_every_optimizer_finds_the_minimum_of_a_parabola(row: Row) -> None:
    sign = -1.0 if row.full["maximize"] else 1.0
    w = np.array([1.0, -2.0, 3.0])
    target = np.array([0.5, 0.25, -1.0])
    # a sum of squares only grows, steps as large as the last ones begin small, and the parameter is
    # a thousand times as long as the step that LARS takes
    lr = {"adagrad": 0.5, "adadelta": 5.0, "lars": 0.5}.get(row.rule, 0.02)
    without = {name: 0.0 for name in ("weight_decay", "lr_decay") if name in row.full}
    opt = row.build(w, lr=lr, **without)
    for step in range(6000):
        opt.lr = lr * (1 - step / 6000)
        opt.step(sign * (w - target))
    assert np.abs(w - target).max() < 3e-2


@every_row
def test_a_float32_step_is_within_4_ulp_of_its_largest_operand(row: Row) -> None:
    before, grads = arrays((1000,), np.float32, 0)[0], arrays((1000,), np.float32, 1)[0]
    p32, p64 = before.copy(), before.astype(np.float64)
    row.build(p32).step(grads)
    row.build(p64).step(grads.astype(np.float64))
    largest = np.maximum(np.maximum(np.abs(before), np.abs(p32)), np.abs(grads))
    assert (np.abs(p32 - p64) / np.spacing(largest)).max() <= 4
