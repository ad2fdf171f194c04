"""Memory that host and device share, or exchange without waiting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_TURNS = 256
_ALIGNMENT = 256  # bytes
_TO_DEVICE = 1  # cudaMemcpyHostToDevice


class Uploads:
    """Copies to the device that wait for nobody: through pinned memory, in turns."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._turns: list[_Turn | None] = [None] * _TURNS
        self._next = 0

    def copy(self, data: Any, target: int, stream: Any) -> None:
        """Copies bytes or an array to an address, in the order of the stream."""
        if len(data) == 0:
            return
        source = np.frombuffer(data, np.uint8)
        turn = self._turns[self._next]
        if turn is not None:
            turn.event.synchronize()  # long done, most often
        if turn is None or turn.view.nbytes < source.nbytes:
            pinned = self._cupy.cuda.alloc_pinned_memory(max(4096, source.nbytes))
            event = self._cupy.cuda.Event(disable_timing=True)
            turn = _Turn(pinned, np.frombuffer(pinned, np.uint8), event)
            self._turns[self._next] = turn
        turn.view[: source.nbytes] = source
        runtime = self._cupy.cuda.runtime
        runtime.memcpyAsync(target, turn.pinned.ptr, source.nbytes, _TO_DEVICE, stream.ptr)
        turn.event.record(stream)
        self._next = (self._next + 1) % _TURNS


class _Turn(NamedTuple):
    pinned: Any
    view: Any
    event: Any


class Table:
    """Rows of settings on the device, and the clipping norm of each. Grows, but need not stay."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._memory: Any = None
        self._outgrown: list[Any] = []  # launches may still read it
        self._split = 0  # where the norms begin
        self.is_fixed = False  # for the good of who has read its addresses

    @property
    def at(self) -> tuple[int, int]:
        """The addresses of the rows and of the norms."""
        first = int(self._memory.data.ptr)
        return first, first + self._split

    def take(self, rows: bytes, norms: bytes, uploads: Uploads, stream: Any) -> tuple[int, int]:
        """Uploads them; their addresses. ValueError where a fixed table has no room."""
        size = 0 if self._memory is None else self._memory.nbytes
        if not size or len(rows) > self._split or len(norms) > size - self._split:
            if self.is_fixed:
                raise ValueError(
                    "steps must be at most as many as before the step was captured, which reads "
                    "the table made then"
                )
            self._outgrown.append(self._memory)
            self._split = max(2 * self._split, len(rows), 96)
            self._memory = self._cupy.empty(2 * self._split, np.uint8)
        uploads.copy(rows, self.at[0], stream)
        uploads.copy(norms, self.at[1], stream)
        return self.at


class Arena:
    """Named pieces of one allocation on the device, zeros at first."""

    def __init__(self, cupy: Any, sizes: Mapping[str, int]) -> None:
        self._sizes = dict(sizes)
        starts, size = {}, 0
        for name, count in sizes.items():
            starts[name] = size
            size += -(-count // _ALIGNMENT) * _ALIGNMENT
        self._memory = cupy.zeros(max(1, size), np.uint8)
        self._starts = starts
        self.at = {name: self._memory.data.ptr + start for name, start in starts.items()}

    def read(self, name: str, dtype: Any) -> Any:
        """What a piece holds, once all work of the current stream is done."""
        start = self._starts[name]
        return self._memory[start : start + self._sizes[name]].get().view(dtype)


REPORT = np.dtype(
    [
        ("sum", "f8"),
        ("grad_norm", "f8"),
        ("attempted", "i8"),
        ("applied", "i8"),
        ("applies", "u8"),
        ("exhausted", "u8"),
        ("number", "u8"),
    ]
)


class Reports:
    """What steps tell, in memory of the host that the device writes. The latest are kept.

    Numbers are never used twice; number 0 is that of all replays, with a place of its own.
    """

    SLOTS = 256

    def __init__(self, cupy: Any) -> None:
        self._pinned = cupy.cuda.alloc_pinned_memory((self.SLOTS + 1) * REPORT.itemsize)
        self._slots = np.frombuffer(self._pinned, REPORT, self.SLOTS + 1)
        self._slots["number"] = 0
        self._latest = 0

    def next(self) -> int:
        """The number of a new report."""
        self._latest += 1
        return self._latest

    def address(self, number: int) -> int:
        """Where the device writes the report of that number."""
        return int(self._pinned.ptr) + self._slot(number) * REPORT.itemsize

    def get(self, number: int) -> Any:
        """That report, or the one that has taken its place or not made it yet."""
        return self._slots[self._slot(number)]

    def _slot(self, number: int) -> int:
        return self.SLOTS if number == 0 else number % self.SLOTS
