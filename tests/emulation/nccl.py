"""What CuPy has for NCCL, between threads: messages move when an event after them is asked for."""

from __future__ import annotations

import ctypes
import queue
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

SIZES = {7: 4, 8: 8}  # bytes of NCCL's float32 and float64


class Array(np.ndarray):
    """An array whose memory is known by its address alone."""

    data = property(lambda self: SimpleNamespace(ptr=self.ctypes.data))


class Communicator:
    """A rank's; `failure` is what NCCL will tell of itself."""

    def __init__(self, rank: int, wires: Any) -> None:
        self.rank, self.wires = rank, wires
        self.failure: Exception | None = None
        self.aborted = False

    def send(self, pointer: int, count: int, kind: int, peer: int, stream: int) -> None:
        sent = ctypes.string_at(pointer, count * SIZES[kind])
        grouped().append(((self.rank, peer), lambda: self.wires[self.rank, peer].put(sent) is None))

    def recv(self, pointer: int, count: int, kind: int, peer: int, stream: int) -> None:
        def received() -> bool:
            try:
                told = self.wires[peer, self.rank].get_nowait()
            except queue.Empty:
                return False
            assert len(told) == count * SIZES[kind]
            ctypes.memmove(pointer, told, len(told))
            return True

        grouped().append(((peer, self.rank), received))

    def check_async_error(self) -> None:
        if self.failure is not None:
            raise self.failure

    def abort(self) -> None:
        self.aborted = True


LOCAL = threading.local()


def grouped() -> list[tuple[tuple[int, int], Callable[[], bool]]]:
    """The wire of each message, and what moves it if it can."""
    return LOCAL.calls


def start() -> None:
    LOCAL.calls = []


class Event:
    def __init__(self) -> None:
        self.waiting = list(LOCAL.calls)

    @property
    def done(self) -> bool:
        waiting, held = [], set()  # messages of a wire keep their order
        for wire, move in self.waiting:
            if wire in held or not move():
                held.add(wire)
                waiting.append((wire, move))
        self.waiting = waiting
        return not waiting


def modules() -> dict[str, ModuleType]:
    """CuPy's modules, as far as they are needed, by their names."""
    top, below = ModuleType("cupy"), ModuleType("cupy.cuda")
    nccl = SimpleNamespace(NCCL_FLOAT32=7, NCCL_FLOAT64=8, groupStart=start, groupEnd=lambda: None)
    stream = SimpleNamespace(ptr=0, record=Event)
    below.__dict__.update(nccl=nccl, get_current_stream=lambda: stream)
    top.__dict__.update(cuda=below)
    return {"cupy": top, "cupy.cuda": below}


def communicators(world: int) -> list[Communicator]:
    wires = {pair: queue.Queue() for pair in np.ndindex(world, world)}
    return [Communicator(rank, wires) for rank in range(world)]
