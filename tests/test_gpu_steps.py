"""Steps over CuPy arrays have the bits of steps over NumPy arrays, and wait for nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusestep as fs
from emulation.cuda import Driver
from tables.models import DTYPES, Array, arrays, assert_same_bits, micro_batches
from tables.registry import ONE_EACH, ROWS, Row

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
STEPS = 10
# around vectors, thread blocks, blocks of sums and chunks
SIZES = (0, 1, 2, 3, 5, 8, 17, 63, 255, 257, 1023, 1025, 4095, 4097, 8195)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"clip_norm": 1.0},
    {"clip_norm": 1.0, "clip_value": 0.003, "nonfinite": "raise"},
    {"clip_value": 0.5, "nonfinite": "skip"},
]


def to_device(cupy: Any, values: list[Any]) -> list[Any]:
    return [None if v is None else cupy.asarray(v) for v in values]


def assert_same_state(device: fs.optim.Optimizer, host: fs.optim.Optimizer) -> None:
    """Arrays and counts, as they are saved."""
    a, b = device.state_dict(), host.state_dict()
    assert {k: v for k, v in a.items() if k not in ("parameters", "accumulated")} == {
        k: v for k, v in b.items() if k not in ("parameters", "accumulated")
    }
    for path, entry in b["parameters"].items():
        assert a["parameters"][path]["updates"] == entry["updates"]
        assert_same_bits(
            list(a["parameters"][path]["state"].values()), list(entry["state"].values())
        )


CASES: list[tuple[Row, type, dict[str, Any]]] = [
    *((row, np.float32, {}) for row in ROWS),
    *((row, np.float64, {}) for row in ONE_EACH),
    *((row, dtype, o) for row in ONE_EACH for dtype in DTYPES for o in OPTIONS[1:]),
]


@pytest.mark.parametrize(
    ("row", "dtype", "options"),
    CASES,
    ids=lambda v: v.id if isinstance(v, Row) else str(v) if isinstance(v, dict) else v.__name__,
)
def test_every_rule_has_the_bits_of_the_cpu(
    cupy: Any, row: Row, dtype: type, options: dict[str, Any]
) -> None:
    host, device = arrays(SIZES, dtype, 0), to_device(cupy, arrays(SIZES, dtype, 0))
    opts = [row.build(params, **options) for params in (host, device)]
    for step in range(1, STEPS + 1):
        grads = arrays(SIZES, dtype, step)
        if options.get("nonfinite") == "skip" and step in (2, 3, 7):
            grads[-1][step] = np.nan
        scale = 4.0 if step % 2 else 1.0
        infos = [
            opts[0].step(grads, grad_scale=scale),
            opts[1].step(to_device(cupy, grads), grad_scale=scale),
        ]
        if step in (1, 3, STEPS):
            assert repr(infos[0]) == repr(infos[1])
    assert_same_bits([p.get() for p in device], host)
    assert_same_state(opts[1], opts[0])


@every_dtype
@pytest.mark.parametrize("offset", [1, 2, 3, 5])
def test_arrays_off_any_boundary_have_the_same_bits(cupy: Any, dtype: type, offset: int) -> None:
    sizes = (1, 5, 127, 4099)
    host = arrays(sizes, dtype, 0)
    device, gradients = [], []
    for values in host:
        room = cupy.zeros(values.size + offset, dtype)
        room[offset:] = cupy.asarray(values)
        device.append(room[offset:])
        gradients.append(cupy.zeros(values.size + 1, dtype)[1:])
    opts = [fs.AdamW(params, lr=0.01, clip_norm=0.5) for params in (host, device)]
    for step in range(1, 4):
        values = arrays(sizes, dtype, step)
        for gradient, value in zip(gradients, values, strict=True):
            gradient[...] = cupy.asarray(value)
        assert opts[0].step(values).grad_norm == opts[1].step(gradients).grad_norm
    assert_same_bits([p.get() for p in device], host)


def test_special_values_have_the_same_bits(cupy: Any) -> None:
    special = [0.0, -0.0, 1e-42, -1e-42, 1e-38, np.nan, np.inf, -np.inf, 3e38, -3e38, 1.0]
    values = np.array([a for a in special for _ in special], np.float32)
    slopes = np.array([b for _ in special for b in special], np.float32)
    for options in OPTIONS[:2]:
        host, device = values.copy(), cupy.asarray(values)
        for params, slope in ((host, slopes), (device, cupy.asarray(slopes))):
            opt = fs.AdamW(params, lr=0.1, **options)
            for _ in range(3):
                opt.step(slope)
        assert_same_bits([device.get()], [host])


def test_a_sum_of_several_levels_has_the_same_bits(cupy: Any) -> None:
    sizes = (1_000_003, 0, 77, 1024 * 1100)
    host = arrays(sizes, np.float32, 0)
    device = to_device(cupy, host)
    grads = arrays(sizes, np.float32, 1)
    opts = [fs.SGD(params, lr=0.1, clip_norm=np.inf) for params in (host, device)]
    for _ in range(2):  # the counters are as they were
        assert opts[0].step(grads).grad_norm == opts[1].step(to_device(cupy, grads)).grad_norm


@pytest.mark.parametrize("nonfinite", ["propagate", "skip"])
def test_parameters_that_sit_out_and_many_groups_have_the_same_bits(
    cupy: Any, nonfinite: str
) -> None:
    sizes = tuple(range(20, 40))
    groups = [{"match": str(k), "lr": 0.001 * (k + 1), "maximize": k % 3 == 0} for k in range(12)]
    host = arrays(sizes, np.float32, 0)
    device = to_device(cupy, host)
    host[4], device[4] = host[4].astype(np.float64), cupy.asarray(host[4].astype(np.float64))
    options: dict[str, Any] = {"groups": groups, "clip_norm": 2.0, "nonfinite": nonfinite}
    opts = [fs.Adam(params, lr=0.01, **options) for params in (host, device)]
    for step in range(1, 9):
        grads: list[Any] = arrays(sizes, np.float32, step)
        if nonfinite == "skip" and step in (2, 5, 6):
            grads[19][3] = np.nan
        grads[4] = grads[4].astype(np.float64)
        for k in range(step % 4):
            grads[(3 * step + k) % 20] = None
        opts[0].step(grads)
        opts[1].step(to_device(cupy, grads))
    assert_same_bits([p.get() for p in device], host)
    assert_same_state(opts[1], opts[0])


def test_schedules_and_settings_changed_between_steps_are_followed(cupy: Any) -> None:
    curve = fs.schedules.cosine(0.1, length=3, by="epoch")
    for nonfinite in ("propagate", "skip"):
        host, device = arrays((50,), np.float32, 0), to_device(cupy, arrays((50,), np.float32, 0))
        opts = [fs.SGD(p, lr=curve, momentum=0.5, nonfinite=nonfinite) for p in (host, device)]
        for step in range(1, 13):
            grads = arrays((50,), np.float32, step)
            if nonfinite == "skip" and step in (2, 3, 5):
                grads[0][0] = np.inf
            clock = fs.Clock(epoch=step / 5)
            infos = [
                opts[0].step(grads, clock=clock),
                opts[1].step(to_device(cupy, grads), clock=clock),
            ]
            if step == 6:
                for opt in opts:
                    opt.lr = fs.schedules.linear(0.3, 0.1, length=9)
            if step == 9:
                for opt in opts:
                    opt.weight_decay = 0.1
            if step > 10:
                assert infos[0].lr == infos[1].lr
        assert_same_bits([p.get() for p in device], host)


def test_accumulated_gradients_and_their_statistics_have_the_same_bits(cupy: Any) -> None:
    sizes, dtype = (3, 70, 1500), np.float32
    host, device = arrays(sizes, dtype, 0), to_device(cupy, arrays(sizes, dtype, 0))
    opts = [fs.Adam(p, lr=0.01, clip_norm=1.0) for p in (host, device)]
    seen = [fs.gradients.GradientStatistics() for _ in opts]
    for step in range(1, 4):
        for grads, samples in micro_batches(sizes, dtype, step):
            squares = [
                opts[0].accumulate(grads, samples),
                opts[1].accumulate(to_device(cupy, grads), samples),
            ]
            assert squares[0] == float(squares[1])
        if step == 2:  # saved in the middle, and loaded by the other
            states = [opt.state_dict() for opt in opts]
            opts[0].load_state_dict(states[1])
            opts[1].load_state_dict(states[0])
        for opt, statistics in zip(opts, seen, strict=True):
            opt.step(statistics=statistics)
    assert_same_bits([p.get() for p in device], host)
    assert seen[0].state_dict() == seen[1].state_dict()


@every_row
def test_a_run_moves_from_the_cpu_to_the_gpu_and_back(cupy: Any, row: Row) -> None:
    host, moving = arrays(SIZES, np.float32, 0), arrays(SIZES, np.float32, 0)
    opt, other = row.build(host, clip_norm=1.0), row.build(moving, clip_norm=1.0)
    params: list[Any] = moving
    for step in range(1, 7):
        grads = arrays(SIZES, np.float32, step)
        opt.step(grads)
        on_device = step in (3, 4)
        if step in (3, 5):
            state = other.state_dict()
            params = to_device(cupy, params) if on_device else [p.get() for p in params]
            other = row.build(params, clip_norm=1.0)
            other.load_state_dict(state)
        other.step(to_device(cupy, grads) if on_device else grads)
    assert_same_bits(params, host)


def test_a_step_is_one_launch_two_with_a_norm_and_waits_for_nothing(emulated: Driver) -> None:
    import cupy

    sizes = (5000, 3, 0, 777)
    grads = to_device(cupy, arrays(sizes, np.float32, 1))
    for options, launches in (
        ({}, 1),
        ({"clip_value": 0.1}, 1),
        ({"clip_norm": 1.0}, 2),
        ({"nonfinite": "skip"}, 2),
    ):
        opt = fs.AdamW(to_device(cupy, arrays(sizes, np.float32, 0)), **options)
        opt.bind(grads)
        opt.step()
        cupy.cuda.Device().synchronize()
        before = emulated.launches, emulated.synchronizations
        for _ in range(10):
            opt.step()
        assert emulated.launches - before[0] == 10 * launches
        assert emulated.synchronizations == before[1]
        assert opt.steps_applied == 11


def test_other_gradient_arrays_every_step_wait_for_nothing(emulated: Driver) -> None:
    import cupy

    opt = fs.AdamW(to_device(cupy, arrays((300, 20), np.float32, 0)), clip_norm=1.0)
    host: list[Array] = arrays((300, 20), np.float32, 0)
    other = fs.AdamW(host, clip_norm=1.0)
    gradients = [to_device(cupy, arrays((300, 20), np.float32, step)) for step in range(8)]
    opt.step(gradients[0])
    cupy.cuda.Device().synchronize()
    before = emulated.synchronizations
    infos = [opt.step(grads) for grads in gradients[1:]]
    assert emulated.synchronizations == before
    norms = [other.step(arrays((300, 20), np.float32, step)).grad_norm for step in range(8)]
    assert [info.grad_norm for info in infos] == norms[1:]


def test_what_a_step_told_is_kept_for_a_while(cupy: Any) -> None:
    opt = fs.SGD(cupy.zeros(3, np.float32), lr=0.1, clip_norm=1.0)
    grads = cupy.asarray(np.full(3, 2.0, np.float32))
    first = opt.step(grads)
    infos = [opt.step(grads) for _ in range(255)]
    assert infos[-1].grad_norm == first.grad_norm == np.sqrt(12.0)
    opt.step(grads)
    cupy.cuda.Device().synchronize()
    with pytest.raises(fs.StateError, match="what that step told is gone: ask for it within"):
        _ = first.grad_norm
