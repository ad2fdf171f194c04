"""Rules with sums over whole tensors: their bits depend on nothing but the tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import _core
from tables.models import DTYPES, Array, arrays, assert_same_bits
from tables.oracle import Oracle
from tables.registry import SUMMED, Row

# around blocks, what counts as small, chunks, and the size from which a step is shared out
SIZES = (0, 1, 15, 1023, 1024, 1025, 0, 32_767, 32_768, 32_769, 5000, 131_073, 3, 300_001)

LAMB = next(row for row in SUMMED if row.rule == "lamb")

every_row = pytest.mark.parametrize("row", SUMMED, ids=lambda row: row.id)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def trained(row: Row, params: list[Array], steps: int = 3, **options: Any) -> fs.optim.Optimizer:
    opt = row.build(params, **options)
    for seed in range(1, steps + 1):
        opt.step(gradients(params, seed))
    return opt


def gradients(params: list[Array], seed: int) -> list[Any]:
    """Those of an array depend on its size alone, not on what stands beside it."""
    return [arrays((p.size,), p.dtype, seed * 1_000_003 + p.size)[0] for p in params]


def parameters(sizes: tuple[int, ...], dtype: type) -> list[Array]:
    return [arrays((size,), dtype, size)[0] for size in sizes]


def test_rules_of_such_rows_say_that_they_may_need_sums() -> None:
    assert {row.rule for row in SUMMED} == {n for n, rule in _core.rules().items() if rule.sums}


@every_row
@every_dtype
def test_tensors_of_every_size_have_the_bits_of_the_oracle(row: Row, dtype: type) -> None:
    params = parameters(SIZES, dtype)
    oracle = Oracle(row.rule, row.full, params)
    opt = row.build(params, clip_norm=30.0)
    for seed in range(1, 4):
        grads = gradients(params, seed)
        if seed == 2:
            grads[3] = grads[11] = grads[-1] = None
        fs.set_num_threads(seed)
        assert opt.step(grads).grad_norm == oracle.step(grads, clip_norm=30.0)
    assert_same_bits(params, oracle.params)
    for path, state in enumerate(oracle.state):
        present = opt.state[str(path)]
        assert_same_bits([present[name] for name in state], list(state.values()))


@every_row
@every_dtype
@pytest.mark.parametrize("isa", _core.build_info()["isa_supported"])
def test_threads_and_instruction_sets_do_not_matter(row: Row, dtype: type, isa: str) -> None:
    expected = parameters(SIZES, dtype)
    fs.set_num_threads(1)
    trained(row, expected)
    _core.use_isa(isa)
    for threads in (1, 2, 5):
        fs.set_num_threads(threads)
        params = parameters(SIZES, dtype)
        trained(row, params)
        assert_same_bits(params, expected)


@every_row
@every_dtype
@pytest.mark.parametrize("size", [1, 1025, 32_769, 131_073])
def test_neighbours_do_not_matter(row: Row, dtype: type, size: int) -> None:
    alone = parameters((size,), dtype)
    trained(row, alone)
    for sizes in ((7, size), (300_001, 17, size, 0, 40_000), (size, 1025)):
        beside = parameters(sizes, dtype)
        trained(row, beside)
        assert_same_bits([beside[sizes.index(size)]], alone)


@every_row
def test_types_may_mix(row: Row) -> None:
    params = [*parameters((5, 2000), np.float64), *parameters((5, 40_000), np.float32)]
    oracle = Oracle(row.rule, row.full, params)
    opt = row.build(params)
    for seed in range(1, 4):
        grads = gradients(params, seed)
        opt.step(grads)
        oracle.step(grads)
    assert_same_bits(params, oracle.params)


@every_dtype
@pytest.mark.parametrize("threads", [1, 3])
def test_tensors_with_sums_and_without_may_mix(dtype: type, threads: int) -> None:
    fs.set_num_threads(threads)
    params = parameters((40_000, 7, 40_000, 7, 300_001), dtype)
    adapted = Oracle("lamb", {**LAMB.full, "weight_decay": 0.1}, params[:2])
    plain = Oracle("lamb", {**LAMB.full, "weight_decay": 0.0}, params[2:])
    others = {"match": ["2", "3", "4"], "weight_decay": 0.0}
    opt = fs.LAMB(params, weight_decay=0.1, groups=[others])
    for seed in range(1, 4):
        grads = gradients(params, seed)
        opt.step(grads)
        adapted.step(grads[:2])
        plain.step(grads[2:])
    assert_same_bits(params, [*adapted.params, *plain.params])


@pytest.mark.parametrize("value", [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-320, 1e200])
@pytest.mark.parametrize("place", ["parameter", "gradient", "both"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_special_values_stay_in_their_tensor(value: float, place: str) -> None:
    def made() -> tuple[list[Array], list[Array]]:
        params, grads = arrays((2000, 2000), np.float64, 0), arrays((2000, 2000), np.float64, 1)
        if place != "gradient":
            params[0][5] = value
        if place != "parameter":
            grads[0][:] = value
        return params, grads

    params, grads = made()
    oracle = Oracle("lamb", LAMB.full, params)
    opt = fs.LAMB(params)
    for _ in range(2):
        opt.step(grads)
        oracle.step(grads)
    assert_same_bits(params, oracle.params)
    assert np.isfinite(params[1]).all()


def test_a_tensor_of_zeros_or_without_direction_takes_a_step_of_lr() -> None:
    params = [np.zeros(3), np.full(3, 2.0)]
    fs.LAMB(params, lr=0.5, weight_decay=0.1).step([np.full(3, 4.0), np.zeros(3)])
    assert params[0] == pytest.approx(np.full(3, -0.5), rel=1e-5)
    assert params[1] == pytest.approx(np.full(3, 1.0))  # u is weight_decay * p, as long as p is


def test_the_step_is_as_long_as_the_parameter_says() -> None:
    w = np.array([3.0, 4.0])
    before = w.copy()
    fs.LAMB(w, lr=0.1, weight_decay=0.01).step(np.array([1.0, -7.0]))
    assert np.linalg.norm(w - before) == pytest.approx(0.1 * 5.0)
    w = before.copy()
    fs.LAMB(w, lr=0.1, weight_decay=0.0).step(np.array([1.0, -7.0]))
    assert w - before == pytest.approx([-0.1, 0.1])  # not adapted


@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
def test_a_step_that_is_refused_changes_no_state(nonfinite: Any) -> None:
    params = arrays((10, 40_000), np.float32, 0)
    before = [p.copy() for p in params]
    opt = fs.LAMB(params, nonfinite=nonfinite)
    grads = arrays((10, 40_000), np.float32, 1)
    grads[1][39_999] = np.nan
    if nonfinite == "raise":
        with pytest.raises(ValueError, match=r"params\['1'\]: gradient holds NaN"):
            opt.step(grads)
    else:
        assert not opt.step(grads).applied
    assert_same_bits(params, before)
    assert not any(a.any() for state in opt.state.values() for a in state.values())
    assert opt.state_dict()["parameters"]["0"]["updates"] == 0
