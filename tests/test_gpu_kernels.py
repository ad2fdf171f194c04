"""The kernels of the GPU, run by the host: the bits of the NumPy oracle, and so of the CPU."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from emulation.cuda import Driver
from fusestep import _core
from tables import device_model, norms, oracle, registry
from tables.device_model import (
    CSRC,
    ENTRY,
    OUTCOME,
    PROGRESS,
    REPORT,
    TREATMENTS,
    Model,
    on_device,
    record,
)

# around a vector, a thread block's round of vectors, a chunk
SIZES = (1, 2, 3, 5, 16, 1023, 1029, 2050, 4095, 4096, 4101, 9003)
DTYPES = (np.float32, np.float64)
RAGGED = [
    [1],
    [1024],
    [1025],
    [5, 0, 0, 1020, 3000],
    [0, 7, 2048, 0],
    [0],
    [*range(1, 200)],
    [1] * 3000,
    [16 * 1024, 1],
    [3 * 16 * 1024 - 5, 100, 70_000],
]

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def cupy(emulated: Driver) -> Any:
    device_model.kernel.cache_clear()
    device_model.cases.cache_clear()
    import cupy

    return cupy


def bits(array: Array) -> Array:
    return array.view(np.uint32 if array.dtype == np.float32 else np.uint64)


def values(rng: np.random.Generator, size: int, dtype: Any) -> Array:
    """Of many sizes, subnormal ones among them."""
    spread = 10.0 ** rng.integers(-4, 3, size)
    spread[::11] = np.finfo(dtype).smallest_subnormal * 100
    return (rng.standard_normal(size) * spread).astype(dtype)


@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("treatment", range(3), ids=TREATMENTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("row", registry.ELEMENTWISE, ids=lambda row: row.id)
def test_an_update_has_the_bits_of_the_oracle(
    row: registry.Row, dtype: Any, treatment: int, offset: int
) -> None:
    rng = np.random.default_rng(7)
    params = [values(rng, size, dtype) for size in SIZES]
    full = {**row.full, "maximize": False}
    expected = oracle.Oracle(row.rule, full, params)
    names = oracle.states(row.rule, full)
    declared = [state[0] for state in _core.rules()[row.rule].states]
    begun = {declared.index(name): [state[name] for state in expected.state] for name in names}
    model = Model(params, states=begun, offset=offset)
    scale, limit = (3.0 if treatment == 2 else 1.0), (40.0 if treatment else np.inf)
    sign = -1.0 if treatment == 1 else 1.0
    for number in (1, 2, 3):
        grads: list[Array | None] = [values(rng, size, dtype) for size in SIZES]
        grads[2] = grads[-2] = None
        factor = 0.3 if treatment else 1.0
        entries = {}
        for updates in set(expected.updates):
            scalars, variant = device_model.prepared(row, dtype, updates + 1)
            entries[updates] = record(
                ENTRY,
                scalars=scalars,
                divisor=scale,
                limit=limit,
                sign=sign,
                kernel_case=device_model.case(dtype, treatment, variant),
            )
        keys = sorted(entries)
        entry_of = on_device(np.array([keys.index(n) for n in expected.updates], np.uint32))
        outcome = on_device(record(OUTCOME, factor=factor, applies=1))
        model.update(
            row.rule,
            grads,
            np.concatenate([entries[key] for key in keys]),
            entry_of=entry_of.data.ptr,
            outcome=outcome.data.ptr,
        )
        reals = [None if g is None else g / dtype(scale) * dtype(sign * factor) for g in grads]
        clip = None if math.isinf(limit) else limit
        expected.step(reals, clip_value=clip)
        for p, state, want, held in zip(
            model.params, model.states, expected.params, expected.state, strict=True
        ):
            np.testing.assert_array_equal(bits(p.get()), bits(want), err_msg=f"update {number}")
            for array, name in zip(state, names, strict=True):
                np.testing.assert_array_equal(bits(array.get()), bits(held[name]), err_msg=name)


def test_a_table_has_a_row_for_each_update_and_a_case_that_is_not_compiled_does_nothing() -> None:
    row = registry.Row("sgd", registry.fs.SGD, registry.defaults.SGD, {"lr": 0.5})
    params = [np.ones(5, np.float32), np.ones(3, np.float32)]
    scalars, variant = device_model.prepared(row, np.float32, 1)
    number = device_model.case(np.float32, 0, variant)
    table = np.zeros((3, 2), ENTRY)
    table["kernel_case"] = 10_000
    table[2, 1] = record(ENTRY, scalars=scalars, kernel_case=number)[0]
    model, held = Model(params), on_device(table)
    entry_of = on_device(np.array([0, 1], np.uint32))
    for applies, want in ((0, 1.0), (1, 0.0)):
        outcome = on_device(record(OUTCOME, factor=1.0, row=2, applies=applies))
        more = {"table": held.data.ptr, "outcome": outcome.data.ptr}
        grads = [np.full(p.size, 2, np.float32) for p in params]
        model.update("sgd", grads, table[0], entry_of=entry_of.data.ptr, **more)
        assert [set(p.get()) for p in model.params] == [{1.0}, {want}]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("sizes", RAGGED, ids=lambda sizes: f"{len(sizes)}-{sum(sizes)}")
def test_a_sum_of_squares_has_the_bits_of_the_oracle(
    sizes: list[int], backward: bool, emulated: Driver
) -> None:
    emulated.backward = backward
    rng = np.random.default_rng(sum(sizes))
    kinds = [DTYPES[i] for i in rng.integers(0, 2, len(sizes))]
    grads: list[Array | None] = [
        values(rng, size, kind) for size, kind in zip(sizes, kinds, strict=True)
    ]
    model = Model([g for g in grads if g is not None])
    assert model.sum(grads) == norms.squared_norm(grads, sizes)
    for i in range(0, len(grads), 3):
        grads[i] = None
    assert model.sum(grads) == norms.squared_norm(grads, sizes)


def test_sums_of_many_blocks_are_added_level_by_level() -> None:
    sizes = [1024 * 1024 + 40_000, 77]
    rng = np.random.default_rng(3)
    grads: list[Array | None] = [values(rng, size, np.float32) for size in sizes]
    model = Model([g for g in grads if g is not None])
    assert model.sum(grads) == norms.squared_norm(grads, sizes)
    optimizer = registry.fs.SGD([np.zeros_like(g) for g in grads], lr=0.0, clip_norm=math.inf)
    assert optimizer.step(grads).grad_norm == math.sqrt(model.sum(grads))


@pytest.mark.parametrize("offset", [0, 1])
def test_gradients_are_accumulated_on_the_way(cupy: Any, offset: int) -> None:
    sizes, rng = [5, 1020, 3000, 0, 40_000], np.random.default_rng(5)
    kinds = [np.float32, np.float64, np.float32, np.float32, np.float64]
    model = Model(
        [np.zeros(n, kind) for n, kind in zip(sizes, kinds, strict=True)],
        offset=offset,
        accumulates=True,
    )
    total = cupy.zeros(1)
    held: list[Array | None] = [None] * len(sizes)
    expected = 0.0
    for weight, absent in ((3.0, 1), (0.7, 2), (2.0, 0)):
        grads: list[Array | None] = [
            values(rng, n, kind) for n, kind in zip(sizes, kinds, strict=True)
        ]
        grads[absent] = None
        found = model.sum(grads, weight, weighted_sum=total.data.ptr)
        model.holds |= np.array([g is not None for g in grads])
        held = norms.accumulate(held, grads, weight)
        expected += weight * norms.squared_norm(grads, sizes)
        assert found == norms.squared_norm(grads, sizes)
    assert float(total[0]) == expected
    for array, want in zip(model.accumulators, held, strict=True):
        np.testing.assert_array_equal(bits(array.get()), bits(want))


class Concluded:
    """What one conclusion leaves; a sum that is given comes from a gradient of one element."""

    def __init__(
        self, gradient: float | None, progress: Any = None, clip_norms: Any = None, **fields: Any
    ) -> None:
        outcome, report = on_device(np.zeros(1, OUTCOME)), on_device(np.zeros(1, REPORT))
        conclusion = record(
            device_model.CONCLUSION,
            outcome=outcome.data.ptr,
            report=report.data.ptr,
            progress=0 if progress is None else progress.data.ptr,
            clip_norms=0 if clip_norms is None else clip_norms.data.ptr,
            has_sum=gradient is not None,
            **{"grad_scale": 1.0, "clip_norm": math.nan, **fields},
        )
        if gradient is None:
            device_model.kernel("sgd", "fusestep_conclude")((1,), (1,), (conclusion,))
        else:
            grads: list[Array | None] = [np.full(1, gradient)]
            Model([np.ones(1)]).sum(grads, concludes=1, conclusion=conclusion[0])
        self.outcome, self.report = outcome.get()[0], report.get()[0]


def test_a_conclusion_tells_the_norm_and_the_factor_of_clipping() -> None:
    done = Concluded(6.0, grad_scale=2.0, clip_norm=1.5, number=9)
    assert done.outcome.tolist() == (0.5, 0, 1)
    assert done.report.tolist() == (36.0, 3.0, 0, 0, 1, 0, 9)
    assert Concluded(6.0, clip_norm=100.0).outcome["factor"] == 1.0
    assert Concluded(6.0).outcome["factor"] == 1.0
    assert math.isnan(Concluded(math.nan, clip_norm=1.0).outcome["factor"])
    assert Concluded(None, number=4).report["number"] == 4


@pytest.mark.parametrize("gradient", [math.nan, math.inf, 1e200])
def test_what_is_not_finite_is_left_out_where_that_is_asked_for(gradient: float) -> None:
    assert Concluded(gradient, skips=1).outcome["applies"] == 0
    assert Concluded(gradient, skips=0).outcome["applies"] == 1
    assert Concluded(1.0, skips=1).outcome["applies"] == 1


def test_progress_counts_what_applies_and_chooses_the_row() -> None:
    progress = on_device(record(PROGRESS, attempted=10, applied=7, base=6, rows=3))
    norms = on_device(np.array([1.0, 2.0, math.nan]))
    seen = [
        Concluded(gradient, progress, norms, skips=1) for gradient in (4.0, math.inf, 4.0, 4.0, 1.0)
    ]
    rows = [(int(d.outcome["row"]), int(d.outcome["applies"])) for d in seen]
    assert rows == [(1, 1), (2, 0), (2, 1), (0, 0), (0, 0)]
    assert [d.outcome["factor"] for d in seen[::2][:2]] == [0.5, 1.0]
    assert [int(d.report["exhausted"]) for d in seen] == [0, 0, 0, 1, 1]
    assert [int(d.report["attempted"]) for d in seen] == [11, 12, 13, 13, 13]
    assert [int(d.report["applied"]) for d in seen] == [8, 8, 9, 9, 9]
    assert progress.get().tolist() == [(13, 9, 6, 3)]


def test_the_layouts_that_python_is_given_are_those_of_the_kernels(cupy: Any) -> None:
    text = (CSRC / "cuda" / "launch.h").read_text()
    bodies = dict(re.findall(r"^struct (?:alignas\(16\) )?(\w+) {(.*?)^};", text, re.M | re.S))
    declared = {
        kind: re.findall(r"(\w+)(?:\[\w+\])?;", re.sub("//.*", "", body))
        for kind, body in bodies.items()
    }
    assert declared == {kind: list(dtype.names or ()) for kind, dtype in device_model.KINDS.items()}
    kinds = device_model.KINDS
    fields = [(kind, name) for kind, names in declared.items() for name in names]
    measured = [f"offsetof({kind}, {name})" for kind, name in fields]
    measured += [f"sizeof({kind}::{name})" for kind, name in fields]
    measured += [f"sizeof({kind})" for kind in kinds]
    stores = "".join(f"to[{i}] = {value};" for i, value in enumerate(measured))
    code = '#include "launch.h"\nusing namespace fusestep::device;\n'
    code += f'extern "C" __global__ void measure(unsigned* to) {{ {stores} }}'
    to = cupy.zeros(len(measured), np.uint32)
    device_model.module(code)("measure")((1,), (1,), (to,))
    found = [(kinds[kind].fields or {})[name] for kind, name in fields]
    expected = [field[1] for field in found] + [field[0].itemsize for field in found]
    assert to.get().tolist() == expected + [dtype.itemsize for dtype in kinds.values()]
