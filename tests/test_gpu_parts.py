"""Parts of a step on a GPU: where they begin and end, what is launched, and what waits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusestep as fs
from emulation.cuda import Driver
from fusestep import _core
from fusestep.engines.cuda.launcher import Launcher
from tables.models import DTYPES, arrays, assert_same_bits, captured

CONSTANTS = _core.launch_constants()
BLOCK, CHUNK = CONSTANTS["kBlock"], CONSTANTS["kChunk"]
# leaves that begin off any boundary, and blocks that begin anywhere inside a chunk
SIZES = (3, 9001, 0, 1, 1022, 12_345, 4096)
TOTAL = sum(SIZES)
ENDS = [*range(BLOCK, TOTAL, BLOCK), TOTAL]


def placed(cupy: Any, sizes: tuple[int, ...], dtype: Any, seed: int) -> list[Any]:
    return [cupy.asarray(values) for values in arrays(sizes, dtype, seed)]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", [fs.AdamW, fs.LAMB])
def test_a_part_begins_and_ends_anywhere_in_an_array(
    emulated: Driver, rule: Any, dtype: Any, backward: bool
) -> None:
    import cupy

    emulated.backward = backward
    host, device = arrays(SIZES, dtype, 0), placed(cupy, SIZES, dtype, 0)
    opts = [rule(p, lr=0.1, weight_decay=0.1, clip_norm=1.0) for p in (host, device)]
    for step in (1, 2):
        opts[0].step(arrays(SIZES, dtype, step))
        opts[1]._plan.begin_parts(placed(cupy, SIZES, dtype, step), 1.0, None)
        for end in ENDS:
            opts[1]._plan.update_part(end)
    assert_same_bits([p.get() for p in device], host)


@pytest.fixture
def launched(emulated: Driver, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Kernels and how many thread blocks of them there were."""
    run, found = Launcher.run, []

    def noted(launcher: Any, uploads: Any, launches: Any, waits: bool) -> None:
        found.extend((kernel, grid) for kernel, grid, _, _ in launches)
        run(launcher, uploads, launches, waits)

    monkeypatch.setattr(Launcher, "run", noted)
    return found


def test_a_part_has_a_thread_block_for_each_chunk_of_its_elements(
    launched: list[tuple[str, int]],
) -> None:
    import cupy

    plan: Any = fs.AdamW(placed(cupy, SIZES, np.float32, 0))._plan
    begins = np.cumsum([0, *SIZES])
    for ends in (ENDS, [TOTAL], [BLOCK, BLOCK, 20 * BLOCK, TOTAL]):
        plan.begin_parts(placed(cupy, SIZES, np.float32, 1), 1.0, None)
        first = 0
        for end in ends:
            launched.clear()
            plan.update_part(end)
            chunks = {
                (leaf, (at - begins[leaf]) // CHUNK)
                for at in range(first, end)
                for leaf in [np.searchsorted(begins, at, side="right") - 1]
            }
            assert launched == ([("fusestep_update", len(chunks))] if chunks else [])
            first = end


def test_a_part_of_a_rule_with_sums_takes_the_arrays_that_end_in_it(
    launched: list[tuple[str, int]],
) -> None:
    import cupy

    plan: Any = fs.LAMB(placed(cupy, SIZES, np.float32, 0))._plan
    expected = {4 * BLOCK: (1, 1), 9 * BLOCK: (4, 3), 10 * BLOCK: (1, 1), TOTAL: (5, 2)}
    plan.begin_parts(placed(cupy, SIZES, np.float32, 1), 1.0, None)
    for end in (4 * BLOCK, 8 * BLOCK, 9 * BLOCK, 10 * BLOCK, 11 * BLOCK, TOTAL):
        launched.clear()
        plan.update_part(end)
        if end not in expected:
            assert launched == []
            continue
        chunks, leaves = expected[end]
        assert launched == [
            ("fusestep_collect", chunks),
            ("fusestep_combine", leaves),
            ("fusestep_update", chunks),
        ]


def test_parts_wait_only_where_the_device_alone_knows_whether_the_step_applies(
    emulated: Driver,
) -> None:
    import cupy

    cases: list[tuple[dict[str, Any], float | None, int]] = [
        ({"clip_norm": 1.0}, None, 0),
        ({"nonfinite": "skip"}, None, 1),
        ({"nonfinite": "raise"}, None, 1),
        ({"nonfinite": "skip"}, 4.0, 0),
        ({"nonfinite": "raise"}, 4.0, 0),
    ]
    for options, squared_norm, waits in cases:
        grads = placed(cupy, SIZES, np.float32, 1)
        plan: Any = fs.AdamW(placed(cupy, SIZES, np.float32, 0), **options)._plan
        cupy.cuda.Device().synchronize()
        before = emulated.synchronizations
        for _ in range(2):
            plan.begin_parts(grads, 1.0, None, squared_norm=squared_norm)
            assert plan.update_part(TOTAL)
        assert emulated.synchronizations == before + 2 * waits


def test_parts_may_come_between_steps_that_the_device_counts(cupy: Any) -> None:
    curve = fs.schedules.linear(1.0, 0.1, length=9)
    host, device = arrays((5000,), np.float32, 0), placed(cupy, (5000,), np.float32, 0)
    opts = [fs.NAdam(p, lr=curve, nonfinite="skip") for p in (host, device)]
    for step in range(8):
        grads = arrays((5000,), np.float32, step)
        if step in (1, 2, 5):
            grads[0][step] = np.inf
        told = opts[0].step(grads)
        on_device = [cupy.asarray(g) for g in grads]
        if step % 3 == 2:
            plan: Any = opts[1]._plan
            info = plan.begin_parts(on_device, 1.0, None)
            assert info.applied == told.applied
            if info.applied:
                assert [plan.update_part(end) for end in (2 * BLOCK, 5000)] == [False, True]
            assert opts[1].lr == opts[0].lr
        else:
            opts[1].step(on_device)
    assert_same_bits([p.get() for p in device], host)
    assert repr(opts[1].state_dict()) == repr(opts[0].state_dict())


def test_a_part_follows_the_one_before_on_another_stream(cupy: Any) -> None:
    host, device = arrays((5000,), np.float32, 0), placed(cupy, (5000,), np.float32, 0)
    grads = placed(cupy, (5000,), np.float32, 1)
    for module, params in ((np, host), (cupy, device)):
        opt = fs.LAMB(params, lr=0.1, clip_norm=1.0)
        opt.accumulate([module.asarray(g) for g in arrays((5000,), np.float32, 2)], 3)
        opt.step()
        opt.bind(grads if module is cupy else arrays((5000,), np.float32, 1))
        if module is np:
            opt.step()
            continue
        cupy.cuda.Device().synchronize()
        plan: Any = opt._plan
        streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(3)]
        with streams[0]:
            plan.begin_parts(None, 1.0, None)
        with streams[1]:
            plan.update_part(BLOCK)
        with streams[2]:
            plan.update_part(5000)
            streams[2].synchronize()
    assert_same_bits([p.get() for p in device], host)


def test_parts_are_refused_while_a_stream_is_capturing_and_where_a_graph_replays(
    cupy: Any,
) -> None:
    w, g = cupy.asarray(np.zeros(2 * BLOCK)), cupy.asarray(np.ones(2 * BLOCK))
    opt = fs.SGD(w, lr=1.0)
    opt.bind(g)
    plan: Any = opt._plan
    cupy.cuda.Device().synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(fs.StateError, match="begin_parts: not while a stream is capturing"):
            plan.begin_parts(None, 1.0, None)
        stream.end_capture()
        plan.begin_parts(None, 1.0, None)
        plan.update_part(BLOCK)
        stream.begin_capture()
        with pytest.raises(fs.StateError, match="update_part: not while a stream is capturing"):
            plan.update_part(2 * BLOCK)
        stream.end_capture()
        assert plan.update_part(2 * BLOCK)
        captured(opt, stream, 3).launch()
        with pytest.raises(fs.StateError, match="begin_parts: a graph replays a step"):
            plan.begin_parts(None, 1.0, None)
        stream.synchronize()
    assert set(w.get()) == {-2.0}
    assert opt.steps_applied == 2


def test_a_part_that_can_not_be_launched_may_be_repeated(
    cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, fails = Launcher.run, [False]

    def failing(launcher: Any, *queued: Any) -> None:
        if fails[0]:
            raise OSError("no driver")
        run(launcher, *queued)

    monkeypatch.setattr(Launcher, "run", failing)
    w = cupy.asarray(np.zeros(2 * BLOCK))
    opt = fs.SGD(w, lr=1.0, clip_norm=1e9)
    plan: Any = opt._plan
    grads = [cupy.asarray(np.ones(2 * BLOCK))]
    fails[0] = True
    with pytest.raises(OSError, match="no driver"):
        plan.begin_parts(grads, 1.0, None)
    fails[0] = False
    assert (opt.steps_attempted, plan.updates) == (0, [0])
    plan.begin_parts(grads, 1.0, None)
    plan.update_part(BLOCK)
    fails[0] = True
    with pytest.raises(OSError, match="no driver"):
        plan.update_part(2 * BLOCK)
    fails[0] = False
    assert plan.update_part(2 * BLOCK)
    assert set(w.get()) == {-1.0}
    assert (opt.steps_applied, plan.updates) == (1, [1])


def test_parts_of_many_groups_read_their_settings_from_memory(cupy: Any) -> None:
    sizes = (700,) * 12
    groups = [{"match": str(k), "weight_decay": k / 10} for k in range(12)]
    host, device = arrays(sizes, np.float32, 0), placed(cupy, sizes, np.float32, 0)
    opts = [fs.AdamW(p, lr=0.1, groups=groups) for p in (host, device)]
    plan: Any = opts[1]._plan
    for step in (1, 2):
        opts[0].step(arrays(sizes, np.float32, step))
        plan.begin_parts(placed(cupy, sizes, np.float32, step), 1.0, None)
        for end in (2 * BLOCK, 3 * BLOCK, 8400):
            plan.update_part(end)
    assert_same_bits([p.get() for p in device], host)
