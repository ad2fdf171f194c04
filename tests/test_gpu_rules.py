"""What rules ask for beyond one pass: values handed on, sums over tensors; and norms given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import emulation.cuda
import fusestep as fs
from emulation.cuda import Driver
from tables.models import DTYPES, arrays, assert_same_bits, captured


def full(cupy: Any, value: float) -> Any:
    return cupy.asarray(np.full(3, value, np.float32))


@pytest.mark.parametrize("behind", [None, 0, 3, 7])
@pytest.mark.parametrize(
    ("rule", "setting"), [(fs.NAdam, "momentum_decay"), (fs.ScheduleFreeAdamW, "lr")]
)
def test_what_updates_hand_on_is_that_of_the_updates_that_applied(
    cupy: Any, behind: int | None, rule: Any, setting: str
) -> None:
    emulation.cuda.driver.behind = behind
    gradients = (1.0, np.nan, 1.0, np.nan, np.nan, 1.0, 2.0, np.nan, 1.0, 1.0)
    params, expected = full(cupy, 1), np.ones(3, np.float32)
    decay = fs.schedules.linear(0.5, 0.1, length=4, by="epoch")  # not of the updates alone
    for value in (0.3, decay):
        options = {"lr": 0.1, setting: value}
        opt, host = (rule(p, **options, nonfinite="skip") for p in (params, expected))
        for step, gradient in enumerate(gradients):
            clock = fs.Clock(epoch=step / 3)
            opt.step(full(cupy, gradient), clock=clock)
            host.step(np.full(3, gradient, np.float32), clock=clock)
            if step == 5:
                opt.betas = host.betas = (0.5, 0.9)
        assert np.array_equal(params.get(), expected)
        assert opt._plan.values == host._plan.values


def test_what_updates_hand_on_needs_no_waiting(emulated: Driver) -> None:
    import cupy

    opt = fs.NAdam(full(cupy, 1), lr=0.1, nonfinite="skip")
    opt.step(full(cupy, 1))
    gradients = full(cupy, 1)
    before = emulated.synchronizations
    for _ in range(10):
        opt.step(gradients)
    assert emulated.synchronizations == before


@pytest.mark.parametrize("rule", [fs.NAdam, fs.RAdam, fs.ADOPT, fs.ScheduleFreeAdamW, fs.LAMB])
@pytest.mark.parametrize("nonfinite", ["propagate", "skip"])
def test_a_captured_step_changes_its_kernel_hands_on_and_goes_twice_over_tensors(
    cupy: Any, rule: Any, nonfinite: str
) -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    host = arrays((40, 5000), np.float32, 0)
    device = [cupy.asarray(p) for p in host]
    opt, expected = (rule(p, lr=0.1, weight_decay=0.1, nonfinite=nonfinite) for p in (device, host))
    grads = [cupy.zeros(p.shape, p.dtype) for p in host]
    with stream:
        opt.bind(grads)
        graph = captured(opt, stream, 6)
        for step in range(8):
            if step == 6:
                opt.prepare_replays(2)
            values = arrays((40, 5000), np.float32, step)
            if nonfinite == "skip" and step == 2:
                values[0][3] = np.nan
            for gradient, value in zip(grads, values, strict=True):
                gradient.set(value)
            graph.launch()
            stream.synchronize()
            expected.step(values)
    assert_same_bits([p.get() for p in device], host)
    assert opt._plan.values == expected._plan.values


@pytest.mark.parametrize("nonfinite", ["propagate", "skip", "raise"])
def test_a_norm_from_elsewhere_clips_and_skips_as_on_the_cpu(cupy: Any, nonfinite: str) -> None:
    host, device = np.ones(3, np.float32), full(cupy, 1)
    opts = [fs.SGD(p, lr=0.1, clip_norm=0.5, nonfinite=nonfinite) for p in (host, device)]
    for squared_norm in (100.0, np.inf, 1e-4):
        seen = []
        for opt, gradient in zip(opts, (np.ones(3, np.float32), full(cupy, 1)), strict=True):
            plan: Any = opt._plan
            try:
                info = plan.step([gradient], 1.0, None, squared_norm=squared_norm)
                seen.append((info.grad_norm, info.applied))
            except ValueError as error:
                seen.append(str(error))
        assert seen[0] == seen[1]
    assert_same_bits([device.get()], [host])
    assert opts[0].steps_applied == opts[1].steps_applied


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_over_tensors_have_the_bits_of_the_cpu_level_by_level(
    emulated: Driver, dtype: type, backward: bool
) -> None:
    import cupy

    emulated.backward = backward
    # blocks, chunks, and more blocks than a level takes
    sizes = (1, 15, 1024, 1025, 4096, 4097, 0, 70_001, 1024 * 1030 + 3)
    host = arrays(sizes, dtype, 0)
    device = [cupy.asarray(p) for p in host]
    opts = [fs.LAMB(p, lr=0.1, weight_decay=0.1) for p in (host, device)]
    for step in (1, 2):
        grads: list[Any] = arrays(sizes, dtype, step)
        grads[step] = None
        opts[0].step(grads)
        opts[1].step([None if g is None else cupy.asarray(g) for g in grads])
    assert_same_bits([p.get() for p in device], host)


@pytest.mark.parametrize(("weight_decay", "launches"), [(0.1, 3), (0.0, 1)])
def test_sums_over_tensors_take_three_launches_and_wait_for_nothing(
    emulated: Driver, weight_decay: float, launches: int
) -> None:
    import cupy

    opt = fs.LAMB([full(cupy, 1), full(cupy, 2)], lr=0.1, weight_decay=weight_decay)
    grads = [full(cupy, 1), full(cupy, 3)]
    opt.step(grads)
    cupy.cuda.Device().synchronize()
    before = emulated.launches, emulated.synchronizations
    for _ in range(5):
        opt.step(grads)
    assert (emulated.launches, emulated.synchronizations) == (before[0] + 5 * launches, before[1])


def test_a_graph_is_captured_anew_where_updates_begin_to_need_sums(cupy: Any) -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    opt = fs.LAMB(full(cupy, 1), lr=0.1, weight_decay=0.1)
    opt.step(full(cupy, 1))  # both kinds are compiled
    opt.weight_decay = 0.0
    with stream:
        opt.bind(full(cupy, 1))
        captured(opt, stream, 2)
        opt.weight_decay = 0.1
        with pytest.raises(fs.StateError, match="capture anew"):
            opt.prepare_replays(2)


def test_sums_that_some_updates_need_are_taken_for_those_alone(cupy: Any) -> None:
    host = arrays((5000, 40, 5000), np.float32, 0)
    device = [cupy.asarray(p) for p in host]
    plain = {"match": "0", "weight_decay": 0.0}
    opts = [fs.LAMB(p, lr=0.1, weight_decay=0.0, groups=[plain]) for p in (host, device)]
    for step in range(1, 5):
        if step == 3:
            for opt in opts:
                opt.weight_decay = 0.1
        grads = arrays((5000, 40, 5000), np.float32, step)
        opts[0].step(grads)
        opts[1].step([cupy.asarray(g) for g in grads])
    assert_same_bits([p.get() for p in device], host)
