"""Gradients summed over micro-batches: the bits, what is left out, and errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import _core
from tables import norms, oracle
from tables.models import (
    DTYPES,
    MICRO_BATCHES,
    SIZES,
    Array,
    arrays,
    assert_same_bits,
    micro_batches,
)
from tables.registry import ROWS, Row

SUPPORTED = fs.build_info()["isa_supported"]

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def run(opt: fs.optim.Optimizer, sizes: tuple[int, ...], dtype: Any) -> list[float]:
    """Three accumulated steps; all norms."""
    norms = []
    for step in range(3):
        norms += [opt.accumulate(*micro) for micro in micro_batches(sizes, dtype, step)]
        norms.append(opt.step().grad_norm)
    return norms


@every_row
@every_dtype
def test_accumulated_steps_have_the_bits_of_numpy(row: Row, dtype: Any) -> None:
    params = arrays(SIZES, dtype, 0)
    reference = oracle.Oracle(row.rule, row.full, params)
    opt = row.build(params, clip_norm=2.0)
    for step in range(3):
        sums: list[Array | None] = [None] * len(params)
        for grads, samples in micro_batches(SIZES, dtype, step):
            squares = opt.accumulate(grads, samples)
            assert squares == norms.squared_norm(grads, SIZES)
            sums = norms.accumulate(sums, grads, samples)
        total = sum(MICRO_BATCHES)
        assert opt.accumulated == total
        norm = reference.step(sums, grad_scale=total * 4.0, clip_norm=2.0)
        assert opt.step(grad_scale=4.0).grad_norm == norm
        assert opt.accumulated == 0.0
        assert_same_bits(params, reference.params)
        found = [list(state.values()) for state in opt.state.values()]
        for state, expected in zip(found, reference.state, strict=True):
            assert_same_bits(state, list(expected.values()))


@every_dtype
@pytest.mark.parametrize("isa", SUPPORTED)
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_instruction_sets_and_threads_do_not_change_the_bits(
    dtype: Any, isa: str, threads: int
) -> None:
    results = []
    for name, count in (("baseline", 1), (isa, threads)):
        _core.use_isa(name)
        fs.set_num_threads(count)
        params = arrays(SIZES, dtype, 0)
        norms = run(fs.AdamW(params, clip_norm=1.0), SIZES, dtype)
        results.append((norms, params))
    assert results[0][0] == results[1][0]
    assert_same_bits(results[0][1], results[1][1])


@every_dtype
@pytest.mark.parametrize("cut", [1, 16, 1001, 4096])
def test_the_split_into_arrays_does_not_change_the_bits(dtype: Any, cut: int) -> None:
    whole = arrays((50_003,), dtype, 0)
    halves = [whole[0][:cut].copy(), whole[0][cut:].copy()]
    one, two = fs.SGD(whole, lr=0.1), fs.SGD(halves, lr=0.1)
    for grads, samples in micro_batches((50_003,), dtype, 1):
        squares = one.accumulate(grads, samples)
        assert two.accumulate([grads[0][:cut], grads[0][cut:].copy()], samples) == squares
    one.step()
    two.step()
    assert_same_bits(whole, [np.concatenate(halves)])


@pytest.mark.parametrize("sizes", [(96,), (48, 48), (1, 95), (90, 5, 1), (3,) * 32, (1,) * 96])
def test_any_split_of_a_batch_is_the_batch_to_rounding(sizes: tuple[int, ...]) -> None:
    samples = np.random.default_rng(0).standard_normal((96, 1000))
    w = np.zeros(1000, np.float32)
    opt = fs.SGD(w, lr=1.0)
    for part in np.split(samples, np.cumsum(sizes)[:-1]):
        opt.accumulate(part.mean(axis=0).astype(np.float32), len(part))
    opt.step()
    # each product, sum, quotient and micro-batch's mean is rounded once
    largest = np.abs(samples).mean(axis=0)
    allowed = (len(sizes) + 3) * np.finfo(np.float32).eps * largest
    assert (np.abs(w + samples.mean(axis=0)) <= allowed).all()


@every_row
def test_an_accumulated_step_is_the_step_of_the_weighted_mean(row: Row) -> None:
    params = arrays((1000, 33), np.float64, 0)
    others = [p.copy() for p in params]
    opt, other = row.build(params), row.build(others)
    for step in range(3):
        micro = micro_batches((1000, 33), np.float64, step)
        for grads, samples in micro:
            opt.accumulate(grads, samples)
        opt.step()
        gradients = zip(*(grads for grads, _ in micro), strict=True)
        other.step([np.average(g, axis=0, weights=MICRO_BATCHES) for g in gradients])
    for p, q in zip(params, others, strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-9, atol=1e-11)


def test_gradients_may_be_written_over_at_once() -> None:
    w, g = np.zeros(3), np.ones(3)
    opt = fs.SGD(w, lr=1.0)
    for value in (1.0, 3.0):
        g[:] = value
        opt.accumulate(g, 1)
    g[:] = 100.0
    opt.step()
    assert (w == -2.0).all()


def test_a_missing_gradient_counts_as_zero_and_one_always_missing_leaves_its_parameter() -> None:
    params = {"a": np.ones(3), "b": np.ones(2), "c": np.ones(4)}
    opt = fs.SGD(params, lr=1.0, momentum=0.9)
    ones = {name: np.ones_like(p) for name, p in params.items()}
    opt.accumulate(ones, 1)
    opt.step()  # the sums now hold what must not come back
    before = params["b"].copy()
    assert opt.accumulate({**ones, "a": None, "b": None}, 3) == 4.0
    assert opt.accumulate({**ones, "b": None}, 1) == 7.0
    opt.step()
    updates = {p: entry["updates"] for p, entry in opt.state_dict()["parameters"].items()}
    assert updates == {"a": 2, "b": 1, "c": 2}
    assert (opt.state["a"]["momentum"] == 0.9 + 0.25).all()
    assert (opt.state["c"]["momentum"] == 0.9 + 1.0).all()
    assert (opt.state["b"]["momentum"] == 1.0).all()
    assert (params["b"] == before).all()


def test_a_micro_batch_without_any_gradient_counts_its_samples() -> None:
    w = np.zeros(2)
    opt = fs.SGD(w, lr=1.0)
    assert opt.accumulate(None, 3) == 0.0
    assert opt.accumulated == 3.0
    opt.accumulate(np.full(2, 8.0), 1)
    opt.step()
    assert (w == -2.0).all()


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        (0, ValueError, "samples must be greater than 0, not 0"),
        (-1, ValueError, "samples must be finite and at least 0, not -1"),
        (math.nan, ValueError, "samples must be finite"),
        (math.inf, ValueError, "samples must be finite"),
        (1e30, ValueError, r"samples must be between 2\^-53 and 2\^53, not 1e\+30"),
        (1e-30, ValueError, r"samples must be between 2\^-53 and 2\^53, not 1e-30"),
        (10**400, ValueError, "samples must be finite"),
        ("4", TypeError, "samples must be a number, not '4'"),
        (True, TypeError, "samples must be a number, not True"),
        (None, TypeError, "samples must be a number, not None"),
    ],
)
def test_samples_must_be_a_number_above_0(samples: Any, error: Any, message: str) -> None:
    opt = fs.SGD(np.ones(3))
    for _ in range(2):
        before = repr(opt.state_dict())
        with pytest.raises(error, match=message):
            opt.accumulate(np.ones(3), samples)
        assert repr(opt.state_dict()) == before
        opt.accumulate(np.ones(3), 2)


@pytest.mark.parametrize(
    ("grads", "error", "message"),
    [
        ([np.ones(3), np.ones(3)], ValueError, r"params\['1'\]: gradient has shape"),
        ([np.ones(3), np.ones(2, np.float32)], TypeError, "gradient has dtype float32"),
        ([np.ones(3), [1.0, 1.0]], TypeError, "must be a list|must be a numpy.ndarray"),
        ([np.ones(3)], ValueError, "must have 2 entries as in params"),
        (None, TypeError, "must be a list or tuple as in params, not NoneType"),
    ],
)
def test_a_refused_micro_batch_adds_nothing(grads: Any, error: Any, message: str) -> None:
    params = [np.ones(3), np.ones(2)]
    opt = fs.SGD(params)
    opt.accumulate([np.ones(3), np.ones(2)], 2)
    before = repr(opt.state_dict())
    with pytest.raises(error, match=message):
        opt.accumulate(grads, 1)
    assert repr(opt.state_dict()) == before


def test_gradients_in_the_memory_of_a_parameter_are_refused() -> None:
    w = np.ones(3)
    opt = fs.SGD(w)
    with pytest.raises(ValueError, match="gradient shares memory with params"):
        opt.accumulate(w, 1)
    assert opt.accumulated == 0.0


def test_accumulated_gradients_do_not_mix_with_others() -> None:
    w, g = np.ones(3), np.ones(3)
    opt = fs.SGD(w)
    opt.accumulate(g, 2)
    before = repr(opt.state_dict())
    with pytest.raises(fs.StateError, match="gradients are accumulated: call step"):
        opt.step(g)
    with pytest.raises(fs.StateError, match=r"gradients are accumulated: step\(\) first"):
        opt.bind(g)
    assert repr(opt.state_dict()) == before
    saved = opt.state_dict()
    opt.discard_accumulated()
    opt.bind(g)
    with pytest.raises(fs.StateError, match=r"gradients are bound: bind\(None\) first"):
        opt.accumulate(g, 1)
    with pytest.raises(fs.StateError, match=r"gradients are bound: bind\(None\) first"):
        opt.load_state_dict(saved)
    opt.step()
    assert opt.accumulated == 0.0
    assert opt.steps_applied == 1


@pytest.mark.parametrize(
    "arguments",
    [{"grad_scale": 0.0}, {"grad_scale": 1e308}, {"clock": fs.Clock(step=5)}, {"clock": (1, 2)}],
    ids=str,
)
def test_a_refused_step_keeps_what_is_accumulated(arguments: Any) -> None:
    w = np.ones(3)
    opt = fs.SGD(w, lr=fs.schedules.table([0.5, -1.0]))
    opt.accumulate(np.ones(3), 1e6)
    before = repr(opt.state_dict())
    with pytest.raises((ValueError, TypeError)):
        opt.step(**arguments)
    assert repr(opt.state_dict()) == before
    opt.step()
    assert (w == 0.5).all()


def test_after_a_step_there_is_nothing_to_step_with() -> None:
    opt = fs.SGD(np.ones(3))
    opt.accumulate(np.ones(3), 1)
    opt.step()
    with pytest.raises(fs.StateError, match=r"^step\(\) without gradients needs bound or acc"):
        opt.step()


def test_a_skipped_step_drops_what_is_accumulated() -> None:
    w = np.ones(3)
    opt = fs.SGD(w, lr=1.0, nonfinite="skip")
    assert math.isnan(opt.accumulate(np.array([1.0, math.nan, 1.0]), 1))
    opt.accumulate(np.ones(3), 1)
    assert not opt.step().applied
    assert (opt.accumulated, opt.steps_skipped) == (0.0, 1)
    assert (w == 1.0).all()
    opt.accumulate(np.ones(3), 5)
    opt.step()
    assert (w == 0.0).all()


def test_a_step_that_raises_keeps_what_is_accumulated_until_it_is_discarded() -> None:
    w = np.ones(3)
    opt = fs.SGD(w, lr=1.0, nonfinite="raise")
    opt.accumulate(np.array([1.0, math.inf, 1.0]), 2)
    for _ in range(2):
        with pytest.raises(ValueError, match="params: gradient holds infinity"):
            opt.step()
        assert opt.accumulated == 2.0
    opt.discard_accumulated()
    opt.discard_accumulated()
    opt.accumulate(np.ones(3), 1)
    opt.step()
    assert (w == 0.0).all()
