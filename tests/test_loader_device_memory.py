"""Memory of batches on a GPU is used again, but never too early; the host waits for nothing."""

from __future__ import annotations

import ctypes
import sys
import time
import weakref
from collections import defaultdict
from typing import Any, ClassVar

import numpy as np
import pytest

import emulation.cupy
import fusestep as fs
from emulation.cuda import Driver
from fusestep.data import device, stream
from tables.device_data import PLACES, Array, placed, some_data


@pytest.fixture
def cupy(emulated: Driver) -> Any:
    return sys.modules["cupy"]


class Recycled(emulation.cupy.Memory):
    """Memory as CuPy's pool gives it: what was let go goes to later work of the same stream."""

    free: ClassVar[defaultdict[Any, list[Array]]] = defaultdict(list)

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.arena = self.free[self.driver.queue().ptr, size]
        if self.arena:
            self.bytes = self.arena.pop()
            start = -self.bytes.ctypes.data % 256
            self.view = self.bytes[start : start + size]

    def __del__(self) -> None:
        self.arena.append(self.bytes)


@pytest.fixture
def recycling(cupy: Any, emulated: Driver, monkeypatch: pytest.MonkeyPatch) -> Any:
    """CuPy's pools: memory of the device, and pinned memory, is given out again at once."""
    pinned: defaultdict[int, list[Any]] = defaultdict(list)
    original = cupy.cuda.alloc_pinned_memory

    def alloc_pinned_memory(size: int) -> Any:
        memory = pinned[size].pop() if pinned[size] else original(size)
        view = (ctypes.c_ubyte * size).from_buffer(memory)
        weakref.finalize(view, pinned[size].append, memory)
        return view

    monkeypatch.setattr(stream, "_BYTES", 1)  # many blocks
    Recycled.free.clear()
    monkeypatch.setattr(emulation.cupy, "Memory", Recycled)
    monkeypatch.setattr(cupy.cuda, "alloc_pinned_memory", alloc_pinned_memory)
    return pinned


X, Y = np.arange(40_000).reshape(-1, 100), np.arange(400)


def copied(cupy: Any, array: Any) -> Any:
    """A copy by work that, as on a GPU, knows the address alone and keeps no memory."""
    result, runtime = cupy.empty(array.shape, array.dtype), cupy.cuda.runtime
    addresses, queue = (result.data.ptr, array.data.ptr), cupy.cuda.get_current_stream()
    runtime.memcpyAsync(*addresses, array.nbytes, runtime.memcpyDeviceToDevice, queue.ptr)
    return result


def copies_of_batches(
    cupy: Any, emulated: Driver, place: str, kept: list[Any], loader_first: bool
) -> list[Any]:
    """What a consumer computes that queues work and lets go, while the GPU has not begun."""
    loader = fs.Loader(placed(cupy, {"x": X, "y": Y}, place), 13, epochs=5, device="cuda")
    consumer, computed = cupy.cuda.Stream(non_blocking=True), []
    with consumer:
        for k, batch in enumerate(loader):
            computed.append((batch.indices, copied(cupy, batch["x"]), copied(cupy, batch["y"])))
            if k % 17 == 0:
                kept.append((batch.indices, batch["x"], batch["y"]))
    # one goes as far as it may before the other
    queues = [queue for queue in emulated.streams if queue.waiting]
    for queue in sorted(queues, key=lambda queue: (queue is consumer._queue) == loader_first):
        queue.run()
    return computed


def all_are_right(found: list[Any]) -> bool:
    return all(np.array_equal(a.get(), X[i]) and np.array_equal(b.get(), Y[i]) for i, a, b in found)


@pytest.mark.parametrize("loader_first", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_memory_is_used_again_when_nobody_holds_it_or_will_read_it(
    cupy: Any, emulated: Driver, recycling: Any, place: str, loader_first: bool
) -> None:
    kept: list[Any] = []
    computed = copies_of_batches(cupy, emulated, place, kept, loader_first)
    assert len(kept) > 5
    assert all_are_right(computed)
    assert all_are_right(kept)
    blocks = 5 * len(X) / 13 / 4
    assert 0 < sum(map(len, recycling.values())) < blocks


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("broken", ["_follow", "queued", "deliver"])
def test_a_loader_that_does_not_wait_is_found_out(
    cupy: Any,
    emulated: Driver,
    recycling: Any,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
    place: str,
) -> None:
    queued = device.Device.queued
    changed = {"queued": lambda self, memory=None: queued(self)}
    monkeypatch.setattr(device.Device, broken, changed.get(broken, lambda *_: None))
    found = copies_of_batches(cupy, emulated, place, [], loader_first=broken == "_follow")
    assert not all_are_right(found)


@pytest.mark.parametrize("place", PLACES)
def test_a_batch_outlives_its_loader(cupy: Any, recycling: Any, place: str) -> None:
    data = {"x": np.arange(1000).reshape(10, 100), "y": np.arange(10)}
    found = []
    for seed in range(5):
        loader = fs.Loader(placed(cupy, data, place), 10, device="cuda", seed=seed)
        found += [(batch.indices, batch["x"], batch["y"]) for batch in loader]
    for indices, x, y in found:
        assert np.array_equal(x.get(), data["x"][indices])
        assert np.array_equal(y.get(), indices)


@pytest.mark.parametrize(("order", "launches"), [("sequential", 1), ("hashed", 2), ("shuffled", 1)])
def test_a_block_takes_one_launch_and_the_host_never_waits(
    cupy: Any, emulated: Driver, order: str, launches: int
) -> None:
    loader = fs.Loader(placed(cupy, some_data(100), "device"), 5, order=order)
    assert len(list(loader)) == 20
    assert emulated.launches == 2 * launches  # the first batch, and all that follow
    assert emulated.synchronizations == 0


def test_rows_go_to_the_gpu_before_they_are_needed(
    cupy: Any, emulated: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_BYTES", 1)  # blocks of four batches, after the first batch
    fs.set_num_threads(2)
    batches = iter(fs.Loader({"x": X, "y": Y}, 13, device="cuda"))
    for _ in range(5):
        next(batches)
        time.sleep(0.02)  # while helpers gather
    assert emulated.copies == 2 * 4  # of the blocks so far, and of two ahead
