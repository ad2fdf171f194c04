"""CUDA without a GPU: streams that run only when somebody waits for them, graphs, compiled modules.

A kernel is compiled by the host's C++ compiler. What a program submits stays in the queue of its
stream until the host synchronizes, so a buffer reused too early, or a result read too early, shows.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

EMULATION = Path(__file__).parent / "emulation"
KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+(?:__launch_bounds__\([^)]*\)\s*)?void\s+'
    r"(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\("
)
DEVICES = 2

Operation = Callable[[], object]


def compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "c++")) if os.name == "posix" else None


class CompileError(RuntimeError):
    """The kernels do not compile."""


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="emulated-cuda-")


@functools.cache
def compiled(code: str, options: tuple[str, ...]) -> ctypes.PyDLL:
    """The kernels of a source as functions launch_<name>; macros and include folders apply."""
    names = KERNEL.findall(code)
    folder = Path(tempfile.mkdtemp(dir=_folder().name))
    source, library = folder / "kernels.cpp", folder / "kernels.so"
    stubs = "".join(f"FUSESTEP_EMULATED({name})\n" for name in names)
    source.write_text(f'#include "device.h"\n#line 1 "kernels.cu"\n{code}\n{stubs}')
    given = [
        re.sub(r"^--(include-path|define-macro)=", lambda m: "-" + m[1][0].upper(), option)
        for option in options
    ]
    given = [option for option in given if re.match("-[DIU]", option)]
    command = [
        compiler() or "c++",
        "-std=c++17",
        "-O1",
        "-ffp-contract=off",
        "-fno-strict-aliasing",
    ]
    command += ["-shared", "-fPIC", f"-I{EMULATION}", *given, str(source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise CompileError(done.stderr)
    loaded = ctypes.PyDLL(str(library))  # keeps Python's lock: the emulation runs one launch
    for name in names:
        getattr(loaded, f"launch_{name}").restype = ctypes.c_bool
    return loaded


class Driver:
    """The devices of one test: their streams, who is current, and what was counted."""

    def __init__(self) -> None:
        self.launches = 0  # of kernels and graphs, not of what is captured
        self.synchronizations = 0
        self.copies = 0  # between host and device
        self.backward = False  # whether the blocks of a grid run from the last to the first
        self.devices = DEVICES
        self.pointers = itertools.count(0x1000, 0x10)
        self.streams: list[Queue] = []
        self.null = [Queue(self, device, blocking=True, ptr=0) for device in range(DEVICES)]
        self.pinned: dict[int, int] = {}  # sizes by address
        self.local = threading.local()

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
        if self.capture is not None:
            self.capture.append(operation)
            return
        if self.blocking:  # the null stream and the others wait for each other
            for other in self.driver.streams:
                ordered = other is not self and other.device == self.device and other.blocking
                if ordered and 0 in (self.ptr, other.ptr) and other.waiting:
                    self.waiting.append(functools.partial(other.run, other.end))
        self.waiting.append(operation)

    def run(self, end: int | None = None) -> None:
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


def packed(argument: Any) -> tuple[bytes, object]:
    """The bytes that a kernel is given for an argument, and what must live until it has run."""
    if argument is None:
        return bytes(8), None
    if hasattr(argument, "__cuda_array_interface__"):
        return np.uint64(argument.data.ptr).tobytes(), argument
    if isinstance(argument, np.ndarray):
        if argument.size != 1:
            raise TypeError("an array passed by value has one element")
        return argument.tobytes(), None
    if isinstance(argument, (bool, int, float, np.generic)):
        return np.asarray(argument).tobytes(), None
    raise TypeError(f"Unsupported type {type(argument)}")


class Function:
    """One kernel of a module."""

    def __init__(self, module: RawModule, name: str) -> None:
        self.name = name
        try:
            self._launch = getattr(compiled(module.code, module.options), f"launch_{name}")
        except AttributeError:
            raise RuntimeError("CUDA_ERROR_NOT_FOUND: named symbol not found") from None

    def __call__(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        *,
        shared_mem: int = 0,
        stream: Any = None,
    ) -> None:
        sizes = [(*size, 1, 1)[:3] for size in (grid, block)]
        if min(map(min, sizes)) < 1 or np.prod(sizes[1]) > 1024 or shared_mem:
            raise RuntimeError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        owner = driver
        queue = owner.queue(None if stream is None else stream.ptr)
        arguments = [packed(argument) for argument in args]
        owner.launches += queue.capture is None
        queue.submit(functools.partial(self._run, owner, sizes, arguments))

    def _run(self, owner: Driver, sizes: list[Any], arguments: list[tuple[bytes, object]]) -> None:
        n = len(arguments)
        values = [ctypes.create_string_buffer(value, len(value)) for value, _ in arguments]
        matches = self._launch(
            *((ctypes.c_uint * 3)(*size) for size in sizes),
            ctypes.c_bool(owner.backward),
            ctypes.c_size_t(n),
            (ctypes.c_size_t * n)(*map(len, values)),
            (ctypes.c_void_p * n)(*map(ctypes.addressof, values)),
        )
        if not matches:
            raise TypeError(f"{self.name}: the arguments are not those of the kernel")


class RawModule:
    """Compiled when the first kernel is asked for, as CuPy does it."""

    def __init__(
        self,
        *,
        code: str,
        options: Sequence[str] = (),
        backend: str = "nvrtc",
        name_expressions: None = None,
    ) -> None:
        if name_expressions is not None:
            raise NotImplementedError("kernels are found by their C names")
        self.code, self.options, self.backend = code, tuple(options), backend

    def compile(self) -> None:
        compiled(self.code, self.options)

    def get_function(self, name: str) -> Function:
        return Function(self, name)


driver = Driver()


def restart() -> Driver:
    global driver
    driver = Driver()
    return driver
