"""What CuPy calls streams, events, graphs and devices, over the emulated ones."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from emulation import cuda
from emulation.cuda import Queue


def pinned(size: int) -> Any:
    """Host memory of whose later contents an asynchronous copy takes what it finds."""
    kind = type(
        "PinnedMemoryPointer",
        (ctypes.c_ubyte * max(size, 1),),
        {"ptr": property(ctypes.addressof), "size": lambda self: len(self)},
    )
    memory = kind()
    known = cuda.driver.pinned
    known[memory.ptr] = len(memory)
    weakref.finalize(memory, known.pop, memory.ptr, None)
    return memory


class Device:
    """A device, and the context in which it is the current one."""

    def __init__(self, device: int | None = None) -> None:
        self.id = cuda.driver.device if device is None else int(device)
        self._outer: list[int] = []

    compute_capability = "90"

    def use(self) -> None:
        cuda.driver.device = self.id

    def synchronize(self) -> None:
        cuda.driver.synchronizations += 1
        for queue in list(cuda.driver.streams):
            if queue.device == self.id:
                queue.refuse_capture()
                queue.run()

    def __enter__(self) -> Device:
        self._outer.append(cuda.driver.device)
        self.use()
        return self

    def __exit__(self, *_: object) -> None:
        cuda.driver.device = self._outer.pop()

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)


class Graph:
    """What a stream captured; a launch replays all of it."""

    def __init__(self, operations: list[Callable[[], object]]) -> None:
        self._operations = operations

    def launch(self, stream: Any = None) -> None:
        queue = cuda.driver.queue(None if stream is None else stream.ptr)
        cuda.driver.launches += 1
        for operation in self._operations:
            queue.submit(operation)

    def upload(self, stream: Any = None) -> None:
        pass


class Stream:
    """A stream of the current device, and the context in which it is the current one."""

    null: Stream

    def __init__(
        self, null: bool = False, non_blocking: bool = False, *, _queue: Queue | None = None
    ) -> None:
        owner = cuda.driver
        if null:
            _queue = owner.null[owner.device]
        self._queue = _queue or Queue(owner, owner.device, blocking=not non_blocking)
        self._outer: list[Queue | None] = []

    ptr = property(lambda self: self._queue.ptr)
    device_id = property(lambda self: self._queue.device)

    @property
    def done(self) -> bool:
        """Each time it is asked, the device goes on by one operation."""
        ready = not self._queue.waiting
        self._queue.run(self._queue.begun + 1)
        return ready

    def synchronize(self) -> None:
        self._queue.synchronize()

    def use(self) -> Stream:
        cuda.driver.current[self.device_id] = self._queue
        return self

    def __enter__(self) -> Stream:
        self._outer.append(cuda.driver.current.get(self.device_id))
        return self.use()

    def __exit__(self, *_: object) -> None:
        outer = self._outer.pop()
        if outer is None:
            del cuda.driver.current[self.device_id]
        else:
            cuda.driver.current[self.device_id] = outer

    def is_capturing(self) -> bool:
        return self._queue.capture is not None

    def begin_capture(self, mode: int | None = None) -> None:
        if self.ptr == 0 or self.is_capturing():
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: cannot capture this stream")
        self._queue.capture = []

    def end_capture(self) -> Graph:
        operations, self._queue.capture = self._queue.capture, None
        if operations is None:
            raise RuntimeError("cudaErrorIllegalState: the stream is not captured")
        return Graph(operations)

    def record(self, event: Event | None = None) -> Event:
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        self._queue.refuse_capture()
        if event.recorded is not None:
            queue, end = event.recorded
            self._queue.submit(lambda: queue.run(end))


class Event:
    """A place in a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        self.recorded: tuple[Queue, int] | None = None

    def record(self, stream: Stream | None = None) -> None:
        queue = cuda.driver.queue(None if stream is None else stream.ptr)
        queue.refuse_capture()
        queue.submit(lambda: None)
        self.recorded = queue, queue.end

    @property
    def done(self) -> bool:
        """Each time it is asked, the device goes on by one operation."""
        if self.recorded is None:
            return True
        queue, end = self.recorded
        ready = queue.begun >= end
        queue.run(min(queue.begun + 1, end))
        return ready

    def synchronize(self) -> None:
        if self.recorded is not None:
            queue, end = self.recorded
            cuda.driver.synchronizations += 1
            queue.run(end)


def get_current_stream(device_id: int | None = None) -> Stream:
    return Stream(_queue=cuda.driver.queue())


def _memcpy_async(target: int, source: int, size: int, kind: int, stream: int) -> None:
    cuda.copy(target, source, size, kind, cuda.driver.queue(stream))


def runtime() -> SimpleNamespace:
    """The functions and constants of cupy.cuda.runtime."""
    return SimpleNamespace(
        memcpyHostToHost=0,
        memcpyHostToDevice=1,
        memcpyDeviceToHost=2,
        memcpyDeviceToDevice=3,
        memcpyDefault=4,
        streamCaptureModeGlobal=0,
        streamCaptureModeThreadLocal=1,
        streamCaptureModeRelaxed=2,
        is_hip=False,
        memcpyAsync=_memcpy_async,
        getDevice=lambda: cuda.driver.device,
        getDeviceCount=lambda: cuda.driver.devices,
        deviceSynchronize=lambda: Device().synchronize(),
    )
