"""CUDA without a GPU: streams that run only when somebody waits for them.

What a program submits stays in the queue of its stream until the host synchronizes, so a buffer
reused too early, or a result read too early, shows. A device may also be quicker, down to being
done with all before the host goes on: that must not decide what a program tells.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import threading
from collections.abc import Callable

DEVICES = 2

Operation = Callable[[], object]


class Driver:
    """The devices of one test: their streams, who is current, and what was counted."""

    def __init__(self) -> None:
        self.launches = 0  # of kernels and graphs, not of what is captured
        self.synchronizations = 0
        self.copies = 0  # between host and device
        self.behind: int | None = None  # operations that a stream leaves waiting; None: all
        self.backward = False  # whether the blocks of a grid run from the last to the first
        self.devices = DEVICES
        self.pointers = itertools.count(0x1000, 0x10)
        self.streams: list[Queue] = []
        self.null = [Queue(self, device, blocking=True, ptr=0) for device in range(DEVICES)]
        self.pinned: dict[int, int] = {}  # sizes by address
        self.local = threading.local()
        self.lock = threading.RLock()  # any thread may wait for a stream, a collector's too

    @property
    def device(self) -> int:
        return getattr(self.local, "device", 0)

    @device.setter
    def device(self, device: int) -> None:
        if not 0 <= device < self.devices:
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self.local.device = device

    @property
    def current(self) -> dict[int, Queue]:
        """The current stream of each device that has one other than the null stream."""
        if not hasattr(self.local, "streams"):
            self.local.streams = {}
        return self.local.streams

    def queue(self, ptr: int | None = None) -> Queue:
        if ptr is None:
            return self.current.get(self.device, self.null[self.device])
        if ptr == 0:
            return self.null[self.device]
        return next(queue for queue in self.streams if queue.ptr == ptr)

    def is_pinned(self, address: int) -> bool:
        return any(start <= address < start + size for start, size in self.pinned.items())

    def keep(self, memory: object) -> None:
        """Memory that the host drops stays until what is submitted by now has run."""
        for queue in self.streams:
            if queue.capture is None and queue.waiting:
                queue.waiting.append(lambda: memory)


class Queue:
    """What was submitted to a stream, in order; `begun` operations have left it."""

    def __init__(self, owner: Driver, device: int, blocking: bool, ptr: int | None = None) -> None:
        self.driver, self.device, self.blocking = owner, device, blocking
        self.ptr = next(owner.pointers) if ptr is None else ptr
        self.waiting: list[Operation] = []
        self.begun = 0
        self.capture: list[Operation] | None = None
        owner.streams.append(self)

    @property
    def end(self) -> int:
        return self.begun + len(self.waiting)

    def submit(self, operation: Operation) -> None:
        with self.driver.lock:
            self._submit(operation)

    def _submit(self, operation: Operation) -> None:
        if self.capture is not None:
            self.capture.append(operation)
            return
        if self.blocking:  # the null stream and the others wait for each other
            for other in self.driver.streams:
                ordered = other is not self and other.device == self.device and other.blocking
                if ordered and 0 in (self.ptr, other.ptr) and other.waiting:
                    self.waiting.append(functools.partial(other.run, other.end))
        self.waiting.append(operation)
        if self.driver.behind is not None:
            self.run(self.end - self.driver.behind)

    def run(self, end: int | None = None) -> None:
        with self.driver.lock:
            end = self.end if end is None else end
            while self.begun < end and self.waiting:
                operation = self.waiting.pop(0)
                self.begun += 1
                operation()

    def synchronize(self) -> None:
        self.refuse_capture()
        self.driver.synchronizations += 1
        self.submit(lambda: None)  # the null stream waits for those it is ordered with
        self.run()

    def refuse_capture(self) -> None:
        if self.capture is not None:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: not while a stream is captured")


def copy(target: int, source: int, size: int, kind: int, queue: Queue) -> None:
    """cudaMemcpyAsync: of host memory that is not pinned, CUDA takes or leaves all at once."""
    move = functools.partial(ctypes.memmove, target, source, size)
    capturing = queue.capture is not None
    queue.driver.copies += kind in (1, 2) and not capturing
    if kind == 1 and not capturing and not queue.driver.is_pinned(source):
        staged = ctypes.string_at(source, size)
        queue.submit(lambda: ctypes.memmove(target, staged, size))
    else:
        queue.submit(move)
    if kind == 2 and not capturing and not queue.driver.is_pinned(target):
        queue.synchronize()


driver = Driver()


def restart() -> Driver:
    global driver
    driver = Driver()
    return driver
