"""Adaptive gradient clipping has the bits of the oracle, and does what timm and optax do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import _core, schedules
from tables.models import DTYPES, Array, assert_same_bits, plain
from tables.norms import unit_factor
from tables.oracle import Oracle
from tables.peer_modules import imported
from tables.registry import ROWS, Row

# around lanes, blocks and columns that are summed at once; every axis of each is taken
SHAPES: list[tuple[int, ...]] = [
    *[(), (1,), (17,), (4097,), (0,)],
    *[(3, 5), (1, 7), (7, 1), (33, 64), (1025, 33), (40, 2049), (0, 4), (4, 0)],
    *[(3, 4, 5), (2, 1030, 3), (5, 3, 2, 7), (64, 3, 1, 1)],
]
CASES = [(shape, axis) for shape in SHAPES for axis in range(max(1, len(shape)))]
CASES += [((6, 35), -1), ((6, 35), -2), ((3, 2, 4), -2)]
# one rule of one pass, without state and with; two of two passes
SOME = [r for r in ROWS if not r.options and r.optimizer in (fs.SGD, fs.AdamW, fs.LAMB, fs.LARS)]
some_rows = pytest.mark.parametrize("row", SOME, ids=lambda row: row.id)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def random(cases: Any, dtype: type, seed: int, scale: float = 1.0) -> list[Any]:
    """Those of every other array are smaller."""
    generator = np.random.default_rng(seed)
    return [
        np.array(generator.standard_normal(shape) * scale ** (i % 2), dtype)
        for i, (shape, _) in enumerate(cases)
    ]


def groups_of(cases: Any) -> list[dict[str, Any]]:
    return [{"match": str(i), "agc_axis": axis} for i, (_, axis) in enumerate(cases)]


def built(row: Row, params: list[Array], cases: Any, **options: Any) -> fs.optim.Optimizer:
    return row.build(params, **{"agc": 0.5, "groups": groups_of(cases), **options})


def oracle_of(row: Row, params: list[Array], cases: Any, **options: Any) -> Oracle:
    oracle = Oracle(row.rule, {**row.full, **options}, params, agc=0.5)
    oracle.agc_axes = [axis for _, axis in cases]
    return oracle


@some_rows
@every_dtype
@pytest.mark.parametrize("maximize", [False, True])
def test_every_shape_and_axis_has_the_bits_of_the_oracle(
    row: Row, dtype: type, maximize: bool
) -> None:
    params = random(CASES, dtype, 0)
    oracle = oracle_of(row, params, CASES, maximize=maximize)
    options: dict[str, Any] = {"clip_norm": 100.0, "clip_value": 0.7} if maximize else {}
    scale = 4.0 if maximize else 1.0
    opt = built(row, params, CASES, maximize=maximize, **options)
    for step in range(1, 5):
        grads = random(CASES, dtype, step, 0.2)
        grads[step] = grads[-step] = None
        oracle.step(grads, grad_scale=scale, **options)
        opt.step(grads, grad_scale=scale)
    assert_same_bits(params, oracle.params)


def test_some_units_of_these_are_clipped_and_others_not() -> None:
    pairs = zip(random(CASES, np.float32, 0), random(CASES, np.float32, 1, 0.2), strict=True)
    factors = [unit_factor(p, g, 0.5, 1e-3) for p, g in pairs]
    assert sum(factor == 1 for factor in factors) > 10
    assert sum(factor < 1 for factor in factors) > 10


@some_rows
@every_dtype
@pytest.mark.parametrize("isa", fs.build_info()["isa_supported"])
def test_every_instruction_set_and_number_of_threads_gives_the_same_bits(
    row: Row, dtype: type, isa: str
) -> None:
    cases = [((300, 301), 0), ((300, 301), 1), ((40, 50, 41), 1), ((100_003,), 0), ((5,), 0)]
    results = []
    for name, threads in (("baseline", 1), (isa, 3)):
        _core.use_isa(name)
        fs.set_num_threads(threads)
        params = random(cases, dtype, 0)
        opt = built(row, params, cases)
        for step in range(1, 4):
            opt.step(random(cases, dtype, step, 0.2))
        results.append(params)
    assert_same_bits(*results)


@pytest.mark.parametrize("case", [((1024 * 1024 + 2000,), 0), ((1024 * 1024 + 2000, 2), 1)])
def test_long_units_are_added_in_the_order_of_every_other_sum(case: Any) -> None:
    row = SOME[0]
    params = random([case], np.float64, 0)
    oracle = oracle_of(row, params, [case])
    opt = built(row, params, [case])
    grads = random([case], np.float64, 1)
    oracle.step(grads)
    opt.step(grads)
    assert_same_bits(params, oracle.params)


@some_rows
def test_averages_and_copies_are_of_the_clipped_update(row: Row) -> None:
    cases = [((70, 900), 0), ((70, 900), 1)]
    params = random(cases, np.float32, 0)
    oracle = oracle_of(row, params, cases)
    oracle.ema = [0.75, 0.75]
    copies = {"0": np.zeros((70, 900)), "1": np.zeros((70, 900), np.float32)}
    opt = built(row, params, cases, ema=0.75, copies=copies)
    for step in range(1, 4):
        grads = random(cases, np.float32, step)
        oracle.step(grads)
        opt.step(grads)
    assert_same_bits(params, oracle.params)
    assert_same_bits(opt.averaged, oracle.averages)
    assert_same_bits([copies["0"].astype(np.float32), copies["1"]], params)


@some_rows
def test_groups_schedules_and_assignments_say_how_much(row: Row) -> None:
    cases = [((9, 40), 1), ((9, 40), 0), ((30,), 0)]
    params = random(cases, np.float32, 0)
    oracle = oracle_of(row, params, cases)
    groups = groups_of(cases)
    groups[1]["agc"] = schedules.linear(0.1, 0.5, 4)
    groups[2]["agc"] = None
    opt = row.build(params, groups=groups, agc=0.5)
    levels = []
    for step in range(8):
        if step == 5:
            opt.groups[2].agc = None
        if step == 6:
            opt.groups[2].agc = 0.25
        grads = random(cases, np.float32, step + 1)
        opt.step(grads)
        oracle.agc = [0.5, opt.groups[2].agc, None]
        oracle.step(grads)
        assert_same_bits(params, oracle.params)
        levels.append(opt.groups[2].agc)
    assert levels == [0.1, *levels[1:4], 0.5, None, 0.25, 0.25]


@every_dtype
def test_zeros_infinities_and_nans_do_as_in_timm(dtype: type) -> None:
    w = np.zeros((6, 4), dtype)
    w[1:] = 2.0
    g = np.ones((6, 4), dtype)
    g[2], g[3, 1], g[4, 1] = 0.0, math.inf, math.nan
    w[5, 0] = math.nan
    before = w.copy()
    opt = fs.SGD(w, lr=1.0, agc=0.5, agc_axis=0)
    with np.errstate(invalid="ignore"):
        opt.step(g)
        change = before - w
    np.testing.assert_allclose(change[0], 0.5 * 1e-3 / 2, rtol=1e-3)  # agc_eps lets it grow
    assert np.all(change[1] == 1.0)  # a norm of 2 is at the limit
    assert np.all(change[2] == 0.0)
    np.testing.assert_array_equal(change[3], [0, math.nan, 0, 0])
    assert np.isnan(change[4:]).all()
    zeros = np.zeros((2, 3), dtype)
    opt = fs.SGD(zeros, lr=1.0, agc=0.5, agc_eps=0.0, agc_axis=0)
    for gradient in (1.0, 0.0):
        opt.step(np.full((2, 3), gradient, dtype))
    assert not zeros.any()


@some_rows
def test_accumulated_gradients_are_clipped_once(row: Row) -> None:
    case = [((20, 60), 1)]
    micro = [random(case, np.float32, seed) for seed in (1, 2)]
    params, others = random(case, np.float32, 0), random(case, np.float32, 0)
    opt, other = built(row, params, case), built(row, others, case)
    for grads in micro:
        opt.accumulate(grads, samples=4)
    opt.step()
    sums = [np.float32(4) * a + np.float32(4) * b for a, b in zip(*micro, strict=True)]
    other.step(sums, grad_scale=8.0)
    assert_same_bits(params, others)


@some_rows
def test_a_saved_state_goes_on_with_the_same_bits(row: Row) -> None:
    cases = [((20, 60), 1), ((20,), 0)]
    params = random(cases, np.float32, 0)
    opt = built(row, params, cases, agc=schedules.linear(0.1, 1.0, 5))
    for step in range(3):
        opt.step(random(cases, np.float32, step + 1))
    others = [p.copy() for p in params]
    other = built(row, others, cases)
    other.load_state_dict(opt.state_dict())
    for step in range(3, 6):
        opt.step(random(cases, np.float32, step + 1))
        other.step(random(cases, np.float32, step + 1))
    assert_same_bits(params, others)
    assert plain(opt.state_dict()) == plain(other.state_dict())
    elsewhere = row.build(params, agc=0.5, agc_axis=0)
    with pytest.raises(fs.StateError, match="agc_axis: saved 0, present -2"):
        row.build(others, agc=0.5, agc_axis=-2).load_state_dict(elsewhere.state_dict())


@some_rows
def test_float64_is_what_timm_makes_of_gradients(row: Row) -> None:
    torch, agc = imported("torch"), imported("timm.utils.agc")
    cases = [((20, 30), 0), ((11,), 0), ((), 0), ((6, 5, 3, 3), 0), ((6, 5, 7), 0)]
    params = random(cases, np.float64, 0)
    others = [p.copy() for p in params]
    opt = row.build(params, agc=0.1, agc_axis=0, agc_eps=0.01)
    other = row.build(others)
    for step in range(50):
        grads = random(cases, np.float64, step + 1, 0.05)
        opt.step(grads)
        tensors = [torch.tensor(p) for p in others]
        for tensor, g in zip(tensors, grads, strict=True):
            tensor.grad = torch.tensor(g)
        agc.adaptive_clip_grad(tensors, clip_factor=0.1, eps=0.01)
        other.step([tensor.grad.numpy() for tensor in tensors])
    for p, q in zip(params, others, strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-12, atol=1e-12)


@some_rows
def test_float64_is_what_optax_makes_of_gradients(row: Row) -> None:
    optax, jax = pytest.importorskip("optax"), pytest.importorskip("jax")
    cases = [((20, 30), -1), ((11,), 0), ((3, 3, 5, 6), -1)]
    params = random(cases, np.float64, 0)
    others = [p.copy() for p in params]
    opt = row.build(params, agc=0.1, agc_axis=-1)
    other = row.build(others)
    clipping = optax.adaptive_grad_clip(0.1)
    with jax.enable_x64(True):
        state = clipping.init(others)
        for step in range(50):
            grads = random(cases, np.float64, step + 1, 0.05)
            opt.step(grads)
            clipped, state = clipping.update(grads, state, others)
            other.step([np.asarray(g) for g in clipped])
    for p, q in zip(params, others, strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-12, atol=1e-12)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"agc": 0.0}, ValueError, "agc must be finite and greater than 0, or None, not 0"),
    ({"agc": -1.0}, ValueError, "agc must be finite and greater than 0, or None, not -1"),
    ({"agc": math.inf}, ValueError, "agc must be finite and greater than 0, or None, not inf"),
    ({"agc": "0.1"}, TypeError, "agc must be a number, not '0.1'"),
    ({"agc": 0.1, "agc_eps": -1.0}, ValueError, "agc_eps must be finite and at least 0, not -1"),
    ({"agc": 0.1, "agc_axis": 0.5}, TypeError, "agc_axis must be a whole number, not 0.5"),
    ({"agc": 0.1, "agc_axis": 64}, ValueError, "agc_axis must be at least -64 and at most 63"),
    (
        {"agc": 0.1},
        ValueError,
        r"agc_axis is missing for params\['w'\] of shape \(3, 4\): agc needs the dimension that "
        r"enumerates units, agc_axis=0 for arrays \(out, in, ...\), as torch has them, agc_axis=-1 "
        r"for \(..., in, out\)$",
    ),
    ({"agc": 0.1, "agc_axis": 2}, ValueError, r"agc_axis 2 is none for .* of shape \(3, 4\)"),
    ({"agc": 0.1, "agc_axis": -3}, ValueError, r"agc_axis -3 is none for .* of shape \(3, 4\)"),
]


@pytest.mark.parametrize(("options", "kind", "message"), BAD)
def test_what_is_wrong_is_named(options: Any, kind: type[Exception], message: str) -> None:
    params = {"b": np.zeros(4), "w": np.zeros((3, 4))}
    with pytest.raises(kind, match=f"^{message}"):
        fs.AdamW(params, **options)


def test_a_schedule_out_of_range_changes_nothing() -> None:
    w = np.ones((3, 4))
    opt = fs.AdamW(w, agc=schedules.linear(0.5, -0.5, 2), agc_axis=1)
    opt.step(np.ones((3, 4)))
    before = w.copy()
    with pytest.raises(ValueError, match=r"agc must be .* but its schedule gives 0"):
        opt.step(np.ones((3, 4)))
    assert_same_bits([w], [before])


def test_what_is_decided_when_the_optimizer_is_built() -> None:
    w = np.ones((3, 4))
    plain_one, opt = fs.AdamW(w), fs.AdamW(w.copy(), agc=0.1, agc_axis=1)
    with pytest.raises(fs.StateError, match="agc: params was built without it; build with agc="):
        plain_one.agc = 0.1
    assert plain_one.agc is None
    alike = fs.AdamW(w, agc_axis=1)
    with pytest.raises(fs.StateError, match="agc: params was built without it"):
        alike.load_state_dict(opt.state_dict())
    with pytest.raises(fs.StateError, match="agc_axis is fixed when the optimizer is built"):
        opt.agc_axis = 0  # type: ignore[misc]
    assert "agc=0.1, agc_eps=0.001, agc_axis=1" in repr(opt)
    assert "agc" not in repr(plain_one)
    with pytest.raises(fs.StateError, match="with agc a step can't be updated in parts"):
        opt._plan.begin_parts([np.ones((3, 4))], 1.0, None)
    opt.step(np.ones((3, 4)))
    assert opt.steps_applied == 1
