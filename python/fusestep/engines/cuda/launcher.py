"""A plan's side of the device: its tables there, its kernels, the stream it works on."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from ... import _core
from .kernels import Kernels
from .memory import Arena, Reports, Table, Uploads


class Launcher:
    """Launches kernels with what the native plan has filled in. It never waits of itself."""

    def __init__(self, native: _core.CudaPlan, cupy: Any, device: int) -> None:
        self.cupy = cupy
        self.device = device
        self.kernels = Kernels(cupy, native.rule_type)
        self.reports = Reports(cupy)
        self._native = native
        self._update: Any = None
        self._uploads = Uploads(cupy)
        self._streams: list[Any] = []  # the latest one
        self._tables: list[Table] = []
        read = self._uploads, self.reports, self._tables
        weakref.finalize(self, _finish, self._streams, read).atexit = False
        leaves, chunks = native.leaves(), native.chunks()
        self._sum_grid, sums, groups = native.sum_layout()
        self._update_grid = len(chunks) // 8
        count = len(native.gradients)
        self._entry_of = np.zeros(count, np.uint32)  # as the device has it, and so the next
        self._gradients = np.zeros(count, np.uint64)
        self._arena = Arena(
            cupy,
            {
                "leaves": len(leaves),
                "chunks": len(chunks),
                "gradients": 8 * count,
                "entry_of": 4 * count,
                "holds": count,
                "partial": 8 * sums,
                "arrived": 4 * groups,
                "outcome": 24,
                "progress": 32,
                "weighted": 8,
                "plain_sum": 8,
            },
        )
        native.place(self._arena.at)
        self.enter()
        self.upload("leaves", leaves)
        self.upload("chunks", chunks)

    def enter(self) -> bool:
        """Goes on in the current stream, behind what was launched on another.

        Returns whether that stream is capturing.
        """
        cuda = self.cupy.cuda
        if cuda.Device().id != self.device:
            raise ValueError(
                f"params are on device {self.device}, the current device is {cuda.Device().id}: "
                f"use `with cupy.cuda.Device({self.device}):`"
            )
        stream = cuda.get_current_stream()
        capturing: bool = stream.is_capturing()
        if capturing:
            return True
        for last in self._streams:
            if last.ptr != stream.ptr and not last.is_capturing():
                stream.wait_event(last.record())
        self._streams[:] = [stream]
        return False

    @property
    def _stream(self) -> Any:
        return self._streams[0]

    def upload(self, name: str, data: Any, offset: int = 0) -> None:
        """Copies bytes or an array to a table, when the stream comes to it."""
        self._uploads.copy(data, self._arena.at[name] + offset, self._stream)

    def upload_gradients(self) -> None:
        """Tells the device where the gradients are, if that has changed."""
        if not self.has_gradients():
            self._gradients = self._native.gradients.copy()
            self.upload("gradients", self._gradients)

    def has_gradients(self) -> bool:
        """Whether the device knows where they are."""
        return bool(np.array_equal(self._native.gradients, self._gradients))

    def upload_entries(self) -> None:
        """Tells the device which entry each parameter follows, if that has changed."""
        entry_of = self._native.entry_of
        if not np.array_equal(entry_of, self._entry_of):
            self._entry_of = entry_of.copy()
            self.upload("entry_of", entry_of)

    def new_table(self) -> Table:
        """A table that lasts as long as what may read it."""
        self._tables.append(Table(self.cupy))
        return self._tables[-1]

    def fill_table(self, table: Table, rows: bytes, norms: bytes = b"") -> tuple[int, int]:
        """Copies rows of settings to a table; its addresses."""
        return table.take(rows, norms, self._uploads, self._stream)

    def compile(self) -> None:
        """Compiles the update that the native plan has prepared for, unless that was done."""
        self._update = self.kernels.update(self._native.cases())

    def compile_all(self) -> None:
        """Compiles whatever a step may launch."""
        self.compile()
        self.kernels.compile_sums()

    def update(self) -> None:
        """Launches the update that was compiled last."""
        if self._update_grid:
            self._launch(self._update, self._update_grid, self._native.update_arguments)

    def sum(self) -> None:
        """Launches the sum of squares, and what stands in for it where it leaves its range."""
        self._launch(self.kernels.sum, self._sum_grid, self._native.sum_arguments)
        if self._native.rescues:
            self._launch(self.kernels.sum, self._sum_grid, self._native.second_sum_arguments)

    def conclude(self) -> None:
        """Launches what the sum does at its end."""
        self._launch(self.kernels.conclude, 1, self._native.conclusion, threads=1)

    def read(self, name: str, dtype: Any) -> Any:
        """What a table holds; waits for the stream."""
        self.enter()
        return self._arena.read(name, dtype)

    def synchronize(self) -> None:
        """Waits for all that was launched."""
        self.cupy.cuda.Device(self.device).synchronize()

    def report(self, number: int) -> Any:
        """What the step of that number has told; waits for it."""
        report = self.reports.get(number)
        if int(report["number"]) < number:
            self.synchronize()
        if int(report["number"]) != number:
            raise _core.StateError(
                f"what that step told is gone: ask for it within the next {Reports.SLOTS - 1} steps"
            )
        return report

    def _launch(
        self, kernel: Any, grid: int, arguments: Any, threads: int = _core.DEVICE_THREADS
    ) -> None:
        kernel((grid,), (threads,), (arguments,))


def _finish(streams: list[Any], read: Any) -> None:
    """What the device still reads or writes must last until it has."""
    for stream in streams:
        if not stream.is_capturing():
            stream.synchronize()
