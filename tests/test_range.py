"""Numbers at the ends of a type's range: right where the result fits, refused by name if not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import _core
from tables.models import Array, arrays, assert_same_bits, captured
from tables.norms import grad_norm
from tables.oracle import Oracle
from tables.registry import ROWS, Row

BEYOND = 1.2e154  # its square is finite, twice that is not
HUGE = float(np.finfo(np.float64).max)
# gradients of float64 parameters and the limit: squares, or their sum, leave double
EXTREMES: list[tuple[list[float], float]] = [
    ([3e200, 4e200], 1.0),
    ([3e200, 4e200], 1e190),
    ([BEYOND, BEYOND], 2.0),
    ([3e300, -4e300, 1.0], 1e-10),
    ([HUGE, HUGE, -HUGE, HUGE], 1.0),
    ([3e-200, 4e-200], 1e-200),
    ([3e-170, 4e-170], 1e-300),
    ([5e-324, 0.0], 1.0),
]
extremes = pytest.mark.parametrize(("values", "limit"), EXTREMES, ids=str)


def exact_norm(values: list[float]) -> float:
    """Infinite where double has no such number."""
    return math.hypot(*values)


@extremes
def test_a_norm_is_right_wherever_double_holds_it(values: list[float], limit: float) -> None:
    info = fs.SGD(np.zeros(len(values)), clip_norm=math.inf).step(np.array(values))
    assert info.grad_norm == pytest.approx(exact_norm(values), rel=1e-14)
    assert info.applied


@extremes
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_gradients_are_clipped_to_the_norm_asked_for(
    values: list[float], limit: float, scale: float
) -> None:
    w = np.zeros(len(values))
    opt = fs.SGD(w, lr=1.0, clip_norm=limit)
    info = opt.step(np.array(values), grad_scale=scale)
    assert info.applied
    shift = math.frexp(max(map(abs, values)))[1]
    scaled = [math.ldexp(value, -shift) for value in values]
    length = math.hypot(*scaled)
    if length * math.ldexp(1.0, min(shift, 1023)) / scale <= limit:
        assert_same_bits([w], [0.0 - np.array(values) / scale])
    else:
        np.testing.assert_allclose(w, -np.array(scaled) * (limit / length), rtol=1e-12)


@pytest.mark.parametrize("limit", [1.0, 1e-3, 1e-8, 1e-28])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_factor_that_float32_holds_badly_clips_as_exactly(limit: float, sign: int) -> None:
    w, grads = np.zeros(3, np.float32), np.array([3e37, -4e37, 1e30], np.float32)
    fs.SGD(w, lr=1.0, clip_norm=limit, maximize=sign > 0).step(grads)
    exact = grads.astype(np.float64) * (limit / np.sqrt(np.sum(grads.astype(np.float64) ** 2)))
    np.testing.assert_allclose(w, sign * exact, rtol=3e-7, atol=1e-45)


@pytest.mark.parametrize("row", ROWS[::3], ids=lambda row: row.id)
@extremes
def test_extreme_gradients_follow_the_oracle_in_mixed_models_of_any_split(
    row: Row, values: list[float], limit: float
) -> None:
    sizes = (1030, 5, 2050)
    params = [*arrays(sizes, np.float64, 0), *arrays(sizes, np.float32, 1)]
    oracle = Oracle(row.rule, row.full, params)
    opt = row.build(params, clip_norm=limit)
    for step in range(1, 4):
        grads = [*arrays(sizes, np.float64, step), *arrays(sizes, np.float32, step + 9)]
        for grad in grads[:3]:
            grad *= max(map(abs, values)) / 8
        if max(map(abs, values)) < 1:
            grads[3:] = [np.zeros_like(g) for g in grads[3:]]
        with np.errstate(all="ignore"):
            norm = oracle.step(grads, clip_norm=limit)
        assert opt.step(grads).grad_norm == norm
    assert_same_bits(params, oracle.params)


@pytest.mark.parametrize("isa", fs.build_info()["isa_supported"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_a_norm_out_of_range_has_the_same_bits_for_instruction_sets_and_threads(
    isa: str, threads: int, size: float
) -> None:
    sizes = (7, 70_001, 1025)
    grads = [g * size for g in arrays(sizes, np.float64, 1)]
    _core.use_isa(isa)
    fs.set_num_threads(threads)
    params = arrays(sizes, np.float64, 0)
    found = fs.SGD(params, clip_norm=math.inf).step(grads).grad_norm
    with np.errstate(over="ignore"):
        assert found == grad_norm(grads, sizes)
    whole = fs.SGD([np.zeros(sum(sizes))], clip_norm=math.inf).step([np.concatenate(grads)])
    assert found == whole.grad_norm


@extremes
@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
def test_finite_gradients_are_not_taken_for_others(
    values: list[float], limit: float, nonfinite: str
) -> None:
    opt = fs.SGD({"a": np.zeros(len(values))}, lr=1.0, nonfinite=nonfinite)
    info = opt.step({"a": np.array(values)})
    assert (info.applied, opt.steps_skipped) == (True, 0)


@pytest.mark.parametrize(("bad", "what"), [(np.nan, "NaN"), (np.inf, "infinity")])
@pytest.mark.parametrize("other", [1.0, 1e300, 1e-300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_refusal_names_the_parameter_and_what_its_gradient_holds(
    bad: float, what: str, other: float, dtype: type
) -> None:
    params = {"a": np.zeros(3), "b": np.zeros(70, dtype)}
    opt = fs.SGD(params, lr=1.0, nonfinite="raise")
    grads = {"a": np.full(3, other), "b": np.ones(70, dtype)}
    grads["b"][66] = -bad
    with pytest.raises(ValueError, match=rf"^params\['b'\]: gradient holds {what}; nothing was"):
        opt.step(grads)
    assert not np.concatenate(list(params.values())).any()


@pytest.mark.parametrize("norm", [1e-6, 0.3, 1e-300])
def test_a_norm_at_or_below_the_limit_changes_nothing_and_one_above_is_brought_to_it(
    norm: float,
) -> None:
    for value in (norm, math.nextafter(norm, 0), norm / 3):
        w = np.zeros(1)
        fs.SGD(w, lr=1.0, clip_norm=norm).step(np.array([value]))
        assert w[0] == -value
    for value in (norm * 1.5, norm * 1e9):
        w = np.zeros(1)
        fs.SGD(w, lr=1.0, clip_norm=norm).step(np.array([value]))
        assert w[0] == pytest.approx(-norm, rel=1e-15)


def test_an_infinite_limit_clips_nothing_whatever_the_gradients_are() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        results = []
        for limit in (None, math.inf):
            params = {"a": np.ones(2), "b": np.ones(2)}
            opt = fs.AdamW(params, lr=0.1, clip_norm=limit)
            opt.step({"a": np.array([bad, 1.0]), "b": np.ones(2)})
            results.append([params["a"], params["b"]])
        assert np.isfinite(results[0][1]).all()
        assert_same_bits(*results)


def test_under_a_finite_limit_infinity_makes_the_others_0_and_nan_makes_all_nan() -> None:
    w = np.ones(3)
    fs.SGD(w, lr=1.0, clip_norm=1.0).step(np.array([np.inf, 2.0, -1e300]))
    assert np.isnan(w[0])
    assert w[1:].tolist() == [1.0, 1.0]
    w = np.ones(3)
    fs.SGD(w, lr=1.0, clip_norm=1.0).step(np.array([np.nan, 2.0, 0.0]))
    assert np.isnan(w).all()


@pytest.mark.parametrize("optimizer", [fs.Adam, fs.AdamW, fs.AdaBelief])
@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"eps_mode": "hat"}], ids=str)
def test_a_square_beyond_the_type_stops_an_element_and_makes_no_nan(
    optimizer: Any, options: dict[str, Any]
) -> None:
    w = np.ones(2, np.float32)
    opt = optimizer(w, lr=0.1, nonfinite="raise", weight_decay=0.0, **options)
    for gradient in (1e20, 1.0, -1.0, 0.0, -1e20, 1e20, 1.0):
        assert opt.step(np.array([gradient, 1.0], np.float32)).applied
    assert w[0] == 1.0
    (state,) = opt.state.values()
    assert state["v"][0] == np.inf
    assert np.isfinite(w).all()


def outcomes(cupy: Any, params: Any, grads: list[Array], on_device: bool, **options: Any) -> Any:
    opt = fs.SGD(params, lr=1.0, **options)
    infos = [opt.step([cupy.asarray(g)] if on_device else [g]) for g in grads]
    norms = [(i.grad_norm, i.applied) for i in infos]
    return repr(norms), opt.steps_applied


@extremes
@pytest.mark.parametrize("nonfinite", ["propagate", "skip", "raise"])
def test_a_gpu_has_the_bits_of_the_cpu(
    cupy: Any, values: list[float], limit: float, nonfinite: str
) -> None:
    host = np.zeros(3000)
    device = cupy.asarray(host)
    size = max(map(abs, values)) / 8
    grads = [g * size for g in arrays((3000,) * 3, np.float64, 1)]
    if nonfinite == "skip":
        grads[1][2001] = np.nan
        grads.append(np.full(3000, np.inf))
    grads.append(np.ones(3000))
    options = {"clip_norm": limit, "nonfinite": nonfinite}
    expected = outcomes(cupy, [host], grads, False, **options)
    assert outcomes(cupy, [device], grads, True, **options) == expected
    assert_same_bits([device.get()], [host])


def test_a_graph_takes_a_norm_out_of_range_in_its_replays(cupy: Any) -> None:
    host, device = np.zeros(2000), cupy.zeros(2000)
    gradient = cupy.zeros(2000)
    opts = [fs.SGD([p], lr=0.5, clip_norm=1.0, nonfinite="skip") for p in (host, device)]
    opts[1].bind([gradient])
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        graph = captured(opts[1], stream, 5)
        for k, size in enumerate((1e200, 1.0, np.inf, 1e-200, 1e250)):
            grads = arrays((2000,), np.float64, k)[0] * size
            gradient[...] = cupy.asarray(grads)
            graph.launch()
            stream.synchronize()
            opts[0].step([grads])
    assert opts[1].steps_applied == opts[0].steps_applied == 4
    assert_same_bits([device.get()], [host])
