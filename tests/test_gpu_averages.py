"""Averages and copies on a GPU have the bits of the CPU, in replayed graphs too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import emulation.cuda
import fusestep as fs
from emulation.cuda import Driver
from fusestep import expression
from tables.models import DTYPES, arrays, assert_same_bits, captured
from tables.registry import ROWS

# one rule of one pass, without state and with; one of two passes
RULES = [r for r in ROWS if not r.options and r.optimizer in (fs.SGD, fs.AdamW, fs.LAMB)]
SIZES = (0, 1, 3, 5, 63, 255, 1025, 4097, 8195)
MEAN = expression.step / (expression.step + 1)


def averages(opt: Any) -> list[Any]:
    """As they are saved."""
    saved = opt.state_dict()["parameters"].values()
    return [entry["state"]["average"] for entry in saved if "average" in entry["state"]]


def copies_of(params: list[Any]) -> dict[str, Any]:
    """Of two thirds of the parameters, in both types."""
    types = [DTYPES[i % 2] for i in range(len(params))]
    return {str(i): np.zeros(p.size, types[i]) for i, p in enumerate(params) if i % 3 != 1}


@pytest.mark.parametrize("nonfinite", ["propagate", "skip"])
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", RULES, ids=lambda row: row.id)
def test_averages_and_copies_have_the_bits_of_the_cpu(
    cupy: Any, row: Any, dtype: type, every: int, nonfinite: str
) -> None:
    host = arrays(SIZES, dtype, 0)
    device = [cupy.asarray(p) for p in host]
    host_copies = copies_of(host)
    device_copies = {path: cupy.asarray(copy) for path, copy in host_copies.items()}
    groups = [{"match": "3", "ema": None}, {"match": "5", "ema": 0.0}, {"match": "6", "ema": 1.0}]
    options = {"ema": MEAN, "ema_every": every, "groups": groups, "nonfinite": nonfinite}
    opts = [
        row.build(params, copies=copies, **options)
        for params, copies in ((host, host_copies), (device, device_copies))
    ]
    for step in range(1, 8):
        grads: list[Any] = arrays(SIZES, dtype, step)
        grads[step] = None
        if nonfinite == "skip" and step in (2, 5):
            grads[-1 if step == 2 else 0] = np.full_like(grads[-1 if step == 2 else 0], np.nan)
        opts[0].step(grads)
        opts[1].step([None if g is None else cupy.asarray(g) for g in grads])
    assert_same_bits([p.get() for p in device], host)
    assert_same_bits(averages(opts[1]), averages(opts[0]))
    assert_same_bits([c.get() for c in device_copies.values()], list(host_copies.values()))
    assert opts[1].averaged[3] is device[3]


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [1, 2, 3])
def test_copies_off_any_boundary_have_the_same_bits(
    cupy: Any, dtype: type, kind: type, offset: int
) -> None:
    host = arrays((4099,), dtype, 0)[0]
    device = cupy.asarray(host)
    room = cupy.zeros(4099 + offset, kind)
    opts = [fs.SGD(host, lr=0.1), fs.SGD(device, lr=0.1, copies={"": room[offset:]})]
    grads = arrays((4099,), dtype, 1)[0]
    opts[0].step(grads)
    opts[1].step(cupy.asarray(grads))
    assert_same_bits([room[offset:].get()], [host.astype(kind)])
    assert not room[:offset].get().any()


@pytest.mark.parametrize("behind", [None, 0, 3])
@pytest.mark.parametrize("nonfinite", ["propagate", "skip"])
@pytest.mark.parametrize("row", RULES[1:], ids=lambda row: row.id)
def test_a_captured_step_averages_as_its_rows_say(
    cupy: Any, row: Any, nonfinite: str, behind: int | None
) -> None:
    emulation.cuda.driver.behind = behind
    stream = cupy.cuda.Stream(non_blocking=True)
    host = arrays((40, 5000), np.float32, 0)
    device = [cupy.asarray(p) for p in host]
    options: dict[str, Any] = {"ema": MEAN, "ema_every": 2, "nonfinite": nonfinite}
    copies = {"1": cupy.zeros(5000, np.float64)}
    opts = [row.build(device, copies=copies, **options), row.build(host, **options)]
    grads = [cupy.zeros(p.shape, p.dtype) for p in host]
    with stream:
        opts[0].bind(grads)
        graph = captured(opts[0], stream, 5)
        for step in range(8):
            if step == 5:
                opts[0].prepare_replays(3)
            values = arrays((40, 5000), np.float32, step)
            if nonfinite == "skip" and step in (1, 2, 6):
                values[0][3] = np.nan
            for gradient, value in zip(grads, values, strict=True):
                gradient.set(value)
            graph.launch()
            stream.synchronize()
            opts[1].step(values)
    assert_same_bits([p.get() for p in device], host)
    assert_same_bits(averages(opts[0]), averages(opts[1]))
    assert_same_bits([copies["1"].get()], [host[1].astype(np.float64)])


def test_averages_cost_no_launch_and_no_waiting(emulated: Driver) -> None:
    import cupy

    params = [cupy.zeros(n, np.float32) for n in (5000, 3)]
    opt = fs.AdamW(params, ema=0.9, copies={"0": cupy.zeros(5000)})
    opt.bind([cupy.zeros(n, np.float32) for n in (5000, 3)])
    opt.step()
    cupy.cuda.Device().synchronize()
    before = emulated.launches, emulated.synchronizations
    for _ in range(5):
        opt.step()
    assert (emulated.launches, emulated.synchronizations) == (before[0] + 5, before[1])


def test_parameters_hold_their_averages_inside_and_their_own_bits_afterwards(cupy: Any) -> None:
    params = {"a": cupy.zeros(3, np.float32), "b": cupy.zeros((), np.float64)}
    opt = fs.SGD(params, lr=1.0, ema=0.5, groups=[{"match": "b", "ema": None}])
    grads = {"a": cupy.asarray(np.full(3, -2, np.float32)), "b": cupy.asarray(np.float64(-2))}
    for _ in range(2):
        opt.step(grads)
    stream = cupy.cuda.Stream(non_blocking=True)

    def evaluate() -> None:
        with stream, opt.averaged_in_place():
            assert params["a"].get().tolist() == [3, 3, 3]
            assert params["b"].get() == 4
            with pytest.raises(fs.StateError, match=r"leave averaged_in_place\(\) first"):
                opt.step(grads)
            params["a"][...] = 9
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        evaluate()
    stream.synchronize()
    assert params["a"].get().tolist() == [4, 4, 4]
    opt.step(grads)
    assert params["a"].get().tolist() == [6, 6, 6]
    assert opt.averaged["a"].get().tolist() == [4.5, 4.5, 4.5]


def test_replays_leave_parameters_alone_that_hold_their_averages(cupy: Any) -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    w = cupy.zeros(3, np.float32)
    opt = fs.SGD(w, lr=1.0, ema=0.5)
    with stream:
        opt.bind(cupy.asarray(np.full(3, -2, np.float32)))
        graph = captured(opt, stream, 5)
        graph.launch()
        with opt.averaged_in_place():
            graph.launch()
            stream.synchronize()
            assert w.get().tolist() == [2, 2, 2]
        with pytest.raises(fs.StateError, match="replayed more often"):
            _ = opt.steps_applied
        opt.prepare_replays(2)
        graph.launch()
        stream.synchronize()
    assert w.get().tolist() == [4, 4, 4]
    assert opt.averaged.get().tolist() == [3, 3, 3]


def test_an_interrupt_while_averages_are_put_in_place_takes_them_back(
    emulated: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cupy

    from fusestep.engines.cuda.launcher import Launcher

    params = [cupy.zeros(2, np.float32) for _ in range(2)]
    opt = fs.SGD(params, lr=1.0, ema=1.0)
    for _ in range(2):
        opt.step([cupy.asarray(np.ones(2, np.float32)) for _ in params])
    write = Launcher.write
    for whole in (False, True):
        calls = []

        def interrupted(self: Any, pairs: Any, whole: bool = whole, calls: Any = calls) -> None:
            calls.append(len(pairs))
            write(self, pairs if whole or len(calls) > 1 else pairs[:1])
            if len(calls) == 1 + whole:
                raise KeyboardInterrupt

        monkeypatch.setattr(Launcher, "write", interrupted)
        with pytest.raises(KeyboardInterrupt), opt.averaged_in_place():
            assert whole
        assert [p.get().tolist() for p in params] == [[-2, -2], [-2, -2]]
        assert calls == [2, 2, 2][: 2 + whole]


def test_copies_of_another_library_or_device_are_refused(cupy: Any) -> None:
    w = cupy.zeros(3, np.float32)
    with pytest.raises(TypeError, match=r"copies\[''\]: must be a cupy.ndarray, not numpy.ndarray"):
        fs.SGD(w, copies={"": np.zeros(3)})
    with pytest.raises(ValueError, match=r"copies\[''\]: shares memory with params"):
        fs.SGD(w, copies={"": w})
