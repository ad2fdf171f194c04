"""The emulated GPU is worth its tests: it is as lazy, and as strict, as CuPy on a real one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from emulation.cuda import Driver
from emulation.nvrtc import CompileError

SOURCE = """
struct Pair { float* data; int n; float by; };
extern "C" __global__ void scale(const Pair a) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < a.n) a.data[i] = a.data[i] * a.by;
}
extern "C" __global__ void __launch_bounds__(64) reverse(int* data, int n) {
    __shared__ int copy[64];
    copy[threadIdx.x] = data[threadIdx.x];
    __syncthreads();
    data[threadIdx.x] = copy[n - 1 - threadIdx.x];
}
extern "C" __global__ void place(unsigned* order, unsigned* arrived) {
    if (threadIdx.x == 0) order[atomicAdd(arrived, 1u)] = blockIdx.x * WIDTH;
}
"""
PAIR = np.dtype([("data", np.uint64), ("n", np.int32), ("by", np.float32)])


@pytest.fixture
def cupy(emulated: Driver) -> Any:
    import cupy

    return cupy


def pair(array: Any, by: float) -> np.ndarray[Any, Any]:
    return np.array([(array.data.ptr, array.size, by)], PAIR)


def kernel(cupy: Any, name: str) -> Any:
    return cupy.RawModule(code=SOURCE, options=("-DWIDTH=3",)).get_function(name)


def test_a_kernel_runs_when_somebody_waits_for_it(cupy: Any, emulated: Driver) -> None:
    x = cupy.asarray(np.arange(100, dtype=np.float32))
    argument = pair(x, 2.0)
    kernel(cupy, "scale")((2,), (64,), (argument,))
    argument["by"] = 7.0  # the launch has copied it
    assert x._host[1] != 2.0
    np.testing.assert_array_equal(x.get(), 2 * np.arange(100, dtype=np.float32))
    assert (emulated.launches, emulated.synchronizations) == (1, 1)


def test_the_threads_of_a_block_wait_for_each_other(cupy: Any) -> None:
    x = cupy.arange(64, dtype=np.int32)
    kernel(cupy, "reverse")((1,), (64,), (x, np.int32(64)))
    np.testing.assert_array_equal(x.get(), np.arange(64)[::-1])


@pytest.mark.parametrize("backward", [False, True])
def test_blocks_run_in_either_order_and_macros_apply(
    cupy: Any, emulated: Driver, backward: bool
) -> None:
    emulated.backward = backward
    order, arrived = cupy.zeros(5, np.uint32), cupy.zeros(1, np.uint32)
    kernel(cupy, "place")((5,), (4,), (order, arrived))
    np.testing.assert_array_equal(order.get(), np.arange(0, 15, 3)[:: -1 if backward else 1])
    assert int(arrived[0]) == 5


def test_arguments_of_another_layout_are_refused(cupy: Any) -> None:
    x = cupy.zeros(4, np.float32)
    kernel(cupy, "scale")((1,), (4,), (np.zeros(1, np.uint64),))
    with pytest.raises(TypeError, match="not those of the kernel"):
        x.get()


def test_what_does_not_compile_or_is_not_there_is_an_error(cupy: Any) -> None:
    with pytest.raises(CompileError, match="error"):
        cupy.RawModule(code='extern "C" __global__ void f(int) { g(); }').get_function("f")
    with pytest.raises(RuntimeError, match="NOT_FOUND"):
        kernel(cupy, "absent")


def test_a_raw_module_loses_subnormal_numbers_and_a_program_of_nvrtc_does_not(cupy: Any) -> None:
    tiny = np.full(1, 1e-40, np.float32)
    program = cupy.cuda.nvrtc.createProgram(SOURCE, "scale.cu", (), ())
    cupy.cuda.nvrtc.compileProgram(program, ("-DWIDTH=1",))
    module = cupy.cuda.function.Module()
    module.load(cupy.cuda.nvrtc.getPTX(program))
    for scale, want in (
        (module.get_function("scale"), 2 * tiny),
        (kernel(cupy, "scale"), 0 * tiny),
    ):
        x = cupy.asarray(tiny)
        scale((1,), (1,), (pair(x, 2.0),))
        assert x.get() == want


def test_a_pinned_buffer_is_read_when_the_copy_runs(cupy: Any) -> None:
    memory = cupy.cuda.alloc_pinned_memory(32)
    pinned, pageable = np.frombuffer(memory, np.float64, 4), np.zeros(4)
    pinned[...] = 0
    runtime, stream = cupy.cuda.runtime, cupy.cuda.get_current_stream()
    to = [cupy.empty(4), cupy.empty(4)]
    for target, source in zip(to, (pinned, pageable), strict=True):
        runtime.memcpyAsync(
            target.data.ptr, source.ctypes.data, 32, runtime.memcpyHostToDevice, stream.ptr
        )
        source[...] = 5
    stream.synchronize()
    assert [list(x.get()) for x in to] == [[5.0] * 4, [0.0] * 4]


def test_streams_wait_for_events_and_the_null_stream_for_blocking_ones(cupy: Any) -> None:
    scale = kernel(cupy, "scale")
    x = cupy.asarray(np.ones(4, np.float32))
    cupy.cuda.Stream.null.synchronize()
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    with streams[0]:
        scale((1,), (4,), (pair(x, 3.0),))
    event = streams[0].record()
    assert not event.done
    assert x.get()[0] in (1.0, 3.0)
    y = cupy.asarray(np.ones(4, np.float32))
    with streams[0]:
        scale((1,), (4,), (pair(y, 3.0),))
    cupy.cuda.Stream.null.synchronize()
    assert y._host[0] == 1.0  # nobody waited
    streams[1].wait_event(streams[0].record())
    streams[1].synchronize()
    assert y._host[0] == 3.0
    with cupy.cuda.Stream():
        scale((1,), (4,), (pair(y, 3.0),))
    assert y.get()[0] == 9.0


def test_a_captured_stream_is_replayed_by_its_graph(cupy: Any, emulated: Driver) -> None:
    x = cupy.asarray(np.ones(4, np.float32))
    cupy.cuda.Device().synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        kernel(cupy, "scale")((1,), (4,), (pair(x, 2.0),))
        with pytest.raises(RuntimeError, match="Capture"):
            x.get()
        graph = stream.end_capture()
    assert (emulated.launches, stream.is_capturing()) == (0, False)
    for _ in range(3):
        graph.launch(stream)
    stream.synchronize()
    assert x.get()[0] == 8.0
    assert emulated.launches == 3


def test_an_array_behaves_like_one_of_cupy(cupy: Any) -> None:
    host = np.arange(12, dtype=np.float32).reshape(3, 4)
    x = cupy.asarray(host)
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(x)
    x[1:, :2][...] = -1
    host[1:, :2] = -1
    x[0] = np.full(4, 7.0)
    host[0] = 7.0
    x[2, 3] = 0.5
    host[2, 3] = 0.5
    np.testing.assert_array_equal(x.get(), host)
    np.testing.assert_array_equal(x[np.array([2, 0])].get(), host[[2, 0]])
    np.testing.assert_array_equal(x.T.reshape(-1).get(), host.T.ravel())
    assert (float(x[2, 3]), len(x), x[1].ndim) == (0.5, 3, 1)
    assert (type(x).__module__, x.device.id) == ("cupy", 0)
    assert np.isnan(cupy.empty(3).get()).all()
    assert bool(cupy.isfinite(x).all())


def test_an_array_lives_on_the_device_that_was_current(cupy: Any) -> None:
    with cupy.cuda.Device(1):
        x = cupy.zeros(3)
    assert (x.device.id, cupy.zeros(3).device.id) == (1, 0)
    assert cupy.cuda.runtime.getDeviceCount() == 2
