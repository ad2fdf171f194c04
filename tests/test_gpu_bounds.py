"""What the GPU engine refuses, its streams, and steps that are captured and replayed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusestep as fs
from emulation.cuda import Driver
from tables.models import arrays, assert_same_bits, captured


def ones(cupy: Any, *shape: int, dtype: Any = np.float32) -> Any:
    return cupy.asarray(np.ones(shape, dtype))


def test_arrays_that_do_not_fit_are_named(cupy: Any) -> None:
    w = ones(cupy, 2, 3)
    opt = fs.SGD({"w": w}, lr=0.1)
    cases: list[tuple[Any, type[Exception], str]] = [
        (np.ones((2, 3), np.float32), TypeError, "gradient must be a cupy.ndarray, not numpy.nda"),
        (ones(cupy, 3, 2), ValueError, r"gradient has shape \(3, 2\), the parameter has \(2, 3\)"),
        (
            ones(cupy, 2, 3, dtype=np.float64),
            TypeError,
            "gradient has dtype float64, the parameter",
        ),
        (ones(cupy, 3, 2).T, ValueError, r"gradient must be C-contiguous.*cupy.ascontiguousarray"),
        (w, ValueError, r"gradient shares memory with params\['w'\], which the step writes"),
        ([1.0], TypeError, "gradient must be a cupy.ndarray, not list"),
    ]
    for gradient, error, message in cases:
        with pytest.raises(error, match=rf"params\['w'\]: {message}"):
            opt.step({"w": gradient})
    assert opt.steps_attempted == 0
    assert np.array_equal(w.get(), np.ones((2, 3)))


def test_parameters_that_can_not_be_updated_are_named(cupy: Any) -> None:
    one = ones(cupy, 4)
    cases: list[tuple[Any, type[Exception], str]] = [
        ([one, np.ones(3)], TypeError, r"params\['1'\]: must be a cupy.ndarray, not numpy.ndarray"),
        ([one, one], ValueError, r"params\['1'\]: shares memory with params\['0'\]"),
        ([ones(cupy, 4, dtype=np.int32)], TypeError, "dtype must be float32 or float64"),
        ([ones(cupy, 2, 3).T], ValueError, "must be C-contiguous"),
    ]
    for params, error, message in cases:
        with pytest.raises(error, match=message):
            fs.SGD(params, lr=0.1)
    with pytest.raises(TypeError, match=r"gradient must be a numpy.ndarray, not cupy.ndarray"):
        fs.SGD(np.ones(4, np.float32), lr=0.1).step(one)


def test_another_device_is_refused(emulated: Driver) -> None:
    import cupy

    with cupy.cuda.Device(1):
        there = ones(cupy, 4)
    here = ones(cupy, 4)
    with pytest.raises(ValueError, match=r"params: is on device 1, must be on device 0"):
        fs.SGD(there, lr=0.1)
    opt = fs.SGD(here, lr=0.1)
    with pytest.raises(ValueError, match="gradient is on device 1, must be on device 0"):
        opt.step(there)
    with (
        cupy.cuda.Device(1),
        pytest.raises(ValueError, match="params are on device 0, the current"),
    ):
        opt.step(here)
    assert opt.steps_attempted == 0


def test_a_gradient_that_is_not_finite_is_named_and_nothing_changes(cupy: Any) -> None:
    params = {"a": ones(cupy, 5), "b": ones(cupy, 6)}
    opt = fs.Adam(params, lr=0.1, nonfinite="raise")
    grads = {"a": ones(cupy, 5), "b": cupy.asarray(np.array([1, 2, np.nan, 4, 5, 6], np.float32))}
    with pytest.raises(ValueError, match=r"params\['b'\]: gradient holds NaN; nothing"):
        opt.step(grads)
    assert opt.steps_attempted == 0
    assert np.array_equal(params["a"].get(), np.ones(5))
    assert opt.step({"a": ones(cupy, 5), "b": None}).applied


def test_a_step_follows_what_it_launched_on_another_stream(cupy: Any) -> None:
    host, device = arrays((5000,), np.float32, 0)[0], None
    device = cupy.asarray(host)
    opts = fs.Adam(host, lr=0.1, clip_norm=1.0), fs.Adam(device, lr=0.1, clip_norm=1.0)
    grads = arrays((5000,), np.float32, 1)[0]
    on_device = cupy.asarray(grads)
    cupy.cuda.Device().synchronize()
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(3)]
    for step in range(9):
        opts[0].step(grads)
        with streams[step % 3]:
            opts[1].step(on_device)
    state = opts[1].state_dict()["parameters"][""]["state"]  # of another stream than the last step
    assert_same_bits(list(state.values()), list(opts[0].state[""].values()))
    assert_same_bits([device.get()], [host])


@pytest.mark.parametrize(
    "options", [{}, {"clip_norm": 1.0}, {"clip_norm": 1.0, "nonfinite": "skip"}]
)
def test_a_captured_step_replays_with_its_schedule(cupy: Any, options: dict[str, Any]) -> None:
    curve = fs.schedules.warmup_cosine(peak=0.1, warmup=4, total=30)
    beta = fs.schedules.linear(0.5, 0.9, length=20)
    host = arrays((40, 5000), np.float32, 0)
    device = [cupy.asarray(p) for p in host]
    opts = [fs.Adam(p, lr=curve, betas=(beta, 0.99), **options) for p in (host, device)]
    grads = [cupy.zeros(p.shape, p.dtype) for p in host]
    opts[1].bind(grads)
    steps = [arrays((40, 5000), np.float32, seed) for seed in range(1, 26)]
    if "nonfinite" in options:
        for seed in (0, 3, 4, 11):
            steps[seed][1][7] = np.nan
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        graph = captured(opts[1], stream, 10)
        assert opts[1].steps_applied == 0
        for k, values in enumerate(steps):
            if k in (10, 20):
                opts[1].prepare_replays(10)
            for gradient, value in zip(grads, values, strict=True):
                gradient.set(value)
            graph.launch()
        stream.synchronize()
    for values in steps:
        opts[0].step(values)
    assert_same_bits([p.get() for p in device], host)
    assert (opts[1].steps_attempted, opts[1].steps_applied) == (25, opts[0].steps_applied)
    assert opts[1].state_dict()["parameters"]["0"]["updates"] == opts[0].steps_applied
    assert opts[1].step().lr == curve(step=opts[0].steps_applied)  # and goes on without the graph


def test_replays_beyond_what_was_prepared_update_nothing_and_tell(cupy: Any) -> None:
    w = ones(cupy, 3)
    opt = fs.SGD(w, lr=0.5)
    opt.bind(ones(cupy, 3))
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        graph = captured(opt, stream, 2)
        for _ in range(3):
            graph.launch()
        with pytest.raises(fs.StateError, match="replayed more often than prepare_replays"):
            _ = opt.steps_applied
        assert opt.steps_applied == 2
        assert np.array_equal(w.get(), np.zeros(3))


def test_a_graph_that_no_longer_fits_is_refused(cupy: Any) -> None:
    w = ones(cupy, 3)
    opt = fs.SGD(w, lr=0.5)
    opt.bind(ones(cupy, 3))
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        graph = captured(opt, stream, 2)
        opt.step()  # the rows are of the counts before it
        graph.launch()
        with pytest.raises(fs.StateError, match="replayed more often than prepare_replays"):
            _ = opt.steps_applied
        opt.prepare_replays(2)
        graph.launch()
        assert opt.steps_applied == 2
        with pytest.raises(ValueError, match="steps must be at most as many as before the step"):
            opt.prepare_replays(20)
        opt.clip_norm = 0.1
        with pytest.raises(fs.StateError, match="call this once more, and capture anew"):
            opt.prepare_replays(2)
        opt.prepare_replays(2)
        assert opt.steps_applied == 2
    assert np.array_equal(w.get(), np.zeros(3))


def test_a_failure_to_compile_counts_nothing_and_tells_what_to_do(
    emulated: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cupy

    def broken(*arguments: Any) -> None:
        raise OSError("libnvrtc.so: not found")

    for nonfinite in ("propagate", "skip"):
        opt = fs.Adam(ones(cupy, 4), lr=0.1, nonfinite=nonfinite)
        with monkeypatch.context() as patch:
            patch.setattr(cupy.cuda.nvrtc, "createProgram", broken)
            with pytest.raises(RuntimeError, match=r"libnvrtc.so: not found. CuPy needs NVRTC"):
                opt.step(ones(cupy, 4))
        assert opt.steps_attempted == 0
        opt.step(ones(cupy, 4))
        assert (opt.steps_applied, opt.state_dict()["parameters"][""]["updates"]) == (1, 1)


def test_a_gpu_that_nvrtc_does_not_know_gets_what_its_driver_translates(
    emulated: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cupy

    asked: list[str] = []
    compile_program = cupy.cuda.nvrtc.compileProgram

    def noted(program: Any, options: tuple[str, ...]) -> None:
        asked.extend(option for option in options if option.startswith("--gpu"))
        compile_program(program, options)

    monkeypatch.setattr(cupy.cuda.nvrtc, "compileProgram", noted)
    monkeypatch.setattr(cupy.cuda.nvrtc, "getCUBIN", None)
    monkeypatch.setattr(cupy.cuda.Device, "compute_capability", "121")
    w = ones(cupy, 3)
    fs.SGD(w, lr=1.0).step(ones(cupy, 3))
    assert np.array_equal(w.get(), np.zeros(3))
    assert asked == ["--gpu-architecture=compute_90"]


def test_an_optimizer_may_go_before_its_step_is_done(cupy: Any) -> None:
    w = ones(cupy, 5000)
    fs.SGD(w, lr=1.0, clip_norm=1e9).step(ones(cupy, 5000))
    assert np.array_equal(w.get(), np.zeros(5000))


def test_what_can_not_be_captured_is_refused(cupy: Any) -> None:
    opt = fs.SGD(ones(cupy, 3), lr=0.5)
    with pytest.raises(fs.StateError, match=r"bind\(grads\) first"):
        opt.prepare_replays(2)
    opt.bind(ones(cupy, 3))
    with pytest.raises(ValueError, match="clocks must be 2, one for each step, not 1"):
        opt.prepare_replays(2, clocks=[fs.Clock()])
    with pytest.raises(TypeError, match="prepare_replays is for parameters of CuPy"):
        fs.SGD(np.ones(3), lr=0.1).prepare_replays(1)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        try:
            with pytest.raises(fs.StateError, match=r"captured after prepare_replays\(steps\)"):
                opt.step()
        finally:
            stream.end_capture()
        opt.prepare_replays(2)
        opt.nonfinite = "raise"
        with pytest.raises(fs.StateError, match="can't raise"):
            opt.prepare_replays(2)
