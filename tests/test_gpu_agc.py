"""Adaptive gradient clipping on a GPU has the bits of the CPU, in replayed graphs too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import emulation.cuda
import fusestep as fs
from fusestep import schedules
from tables.models import DTYPES, Array, assert_same_bits, captured
from tables.registry import ROWS

# one rule of one pass, without state and with; one of two passes
RULES = [r for r in ROWS if not r.options and r.optimizer in (fs.SGD, fs.AdamW, fs.LAMB)]
# units that are columns, short runs, long runs, runs in pieces, and whole arrays
CASES: list[tuple[tuple[int, ...], int]] = [
    *[((), 0), ((17,), 0), ((5003,), 0), ((17_000,), 0), ((0, 4), 1), ((4, 0), 1)],
    *[((33, 64), 0), ((33, 64), 1), ((1030, 19), 1), ((3, 2049), 0), ((2049, 1), 1)],
    *[((3, 1030, 2), 1), ((40, 30, 3), 1), ((5, 3, 3, 7), -1), ((18, 3, 1, 1), 0)],
]
every_row = pytest.mark.parametrize("row", RULES, ids=lambda row: row.id)
either = pytest.mark.parametrize("nonfinite", ["propagate", "skip"])


def random(dtype: type, seed: int, scale: float = 1.0) -> list[Any]:
    """Those of every other array are smaller."""
    generator = np.random.default_rng(seed)
    return [
        np.array(generator.standard_normal(shape) * scale ** (i % 2), dtype)
        for i, (shape, _) in enumerate(CASES)
    ]


def groups_of() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]]
    groups = [{"match": str(i), "agc_axis": axis} for i, (_, axis) in enumerate(CASES)]
    groups[6]["agc"] = None
    groups[7]["agc"] = schedules.linear(0.1, 0.9, 5)
    return groups


def on(cupy: Any, values: list[Any]) -> list[Any]:
    return [None if v is None else cupy.asarray(v) for v in values]


def got(values: list[Any]) -> list[Array]:
    return [v.get() for v in values]


@either
@pytest.mark.parametrize("dtype", DTYPES)
@every_row
def test_every_kind_of_unit_has_the_bits_of_the_cpu(
    cupy: Any, row: Any, dtype: type, nonfinite: str
) -> None:
    host = random(dtype, 0)
    device = on(cupy, host)
    options = {"agc": 0.5, "groups": groups_of(), "nonfinite": nonfinite}
    if nonfinite == "skip":
        options |= {"clip_norm": 100.0, "clip_value": 0.9, "maximize": True, "ema": 0.5}
    opts = [row.build(params, **options) for params in (host, device)]
    for step in range(1, 6):
        grads = random(dtype, step, 0.2)
        grads[step] = None
        if nonfinite == "skip" and step == 3:
            grads[-1][0] = np.nan
        opts[0].step(grads, grad_scale=float(step))
        opts[1].step(on(cupy, grads), grad_scale=float(step))
        if step == 4:
            opts[0].groups[8].agc = opts[1].groups[8].agc = None
    assert_same_bits(got(device), host)


@every_row
def test_accumulated_gradients_are_clipped_once(cupy: Any, row: Any) -> None:
    host = random(np.float32, 0)
    device = on(cupy, host)
    opts = [row.build(params, agc=0.5, groups=groups_of()) for params in (host, device)]
    for seed in (1, 2):
        grads = random(np.float32, seed)
        opts[0].accumulate(grads, samples=3)
        opts[1].accumulate(on(cupy, grads), samples=3)
    for opt in opts:
        opt.step()
    assert_same_bits(got(device), host)


@pytest.mark.parametrize("behind", [None, 0])
@either
@every_row
def test_a_captured_step_clips_as_its_rows_say(
    cupy: Any, row: Any, nonfinite: str, behind: int | None
) -> None:
    emulation.cuda.driver.behind = behind
    stream = cupy.cuda.Stream(non_blocking=True)
    host = random(np.float32, 0)
    device = on(cupy, host)
    options: dict[str, Any] = {"agc": 0.5, "groups": groups_of(), "nonfinite": nonfinite}
    opts = [row.build(params, **options) for params in (device, host)]
    grads = [cupy.zeros(p.shape, p.dtype) for p in host]
    with stream:
        opts[0].bind(grads)
        graph = captured(opts[0], stream, 3)
        for step in range(5):
            if step == 3:
                opts[0].prepare_replays(2)
            values = random(np.float32, step + 1, 0.2)
            if nonfinite == "skip" and step in (1, 3):
                values[-1][0] = np.nan
            for gradient, value in zip(grads, values, strict=True):
                gradient.set(value)
            graph.launch()
            stream.synchronize()
            opts[1].step(values)
    assert_same_bits(got(device), host)


def test_a_step_in_parts_is_refused(cupy: Any) -> None:
    w = cupy.zeros((3, 4), np.float32)
    opt = fs.SGD(w, lr=1.0, agc=0.5, agc_axis=0)
    with pytest.raises(fs.StateError, match="with agc a step can't be updated in parts"):
        opt._plan.begin_parts([cupy.zeros((3, 4), np.float32)], 1.0, None)
    opt.step(cupy.asarray(np.ones((3, 4), np.float32)))
    assert opt.steps_applied == 1
