"""Steps that a CUDA graph has captured and replays, with settings from a table made ahead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ... import _core
from .info import CudaStepInfo
from .launcher import Launcher

_REPORT = 0  # of all replays


class _Shape(NamedTuple):
    """What a captured launch has in it for good."""

    nonfinite: str
    needs_sum: bool
    entries: int
    clips: bool
    grad_scale: float


class Replays:
    """The table that a captured step reads, and what must hold for it to be read."""

    def __init__(self, native: _core.CudaPlan, device: Launcher) -> None:
        self._native = native
        self._device = device
        self._table = device.new_table()
        self.has_graphs = False
        self._shape: _Shape | None = None
        self._first_row = b""
        self._first_clock: Any = None
        self.ready = False  # the table is of the present counts, and the device counts

    def prepare(self, steps: int, clocks: Sequence[Any] | None, grad_scale: float) -> None:
        """Evaluates the settings of the next steps."""
        native, device = self._native, self._device
        if native.nonfinite == "raise":
            raise _core.StateError(
                "prepare_replays: a captured step can't raise: nonfinite must be 'skip' or "
                "'propagate'"
            )
        if not native.is_bound:
            raise _core.StateError(
                "prepare_replays: a captured step reads the same gradient arrays in every replay: "
                "bind(grads) first"
            )
        self._first_clock = clocks[0] if clocks else None
        needs_sum, _ = native.begin(None, grad_scale, self._first_clock, False)
        for i in range(steps):
            native.add_row(clocks[i] if clocks else None, i)
        rows, norms = native.table()
        entries = len(rows) // steps
        shape = _Shape(native.nonfinite, needs_sum, entries, len(norms) > 0, grad_scale)
        fits = shape == self._shape and device.kernels.has(native.cases())
        if self._table.is_fixed and not fits:
            self._table = device.new_table()
            self.retire()
            raise _core.StateError(
                "prepare_replays: the captured step does not fit the present settings: call this "
                "once more, and capture anew"
            )
        device.compile_all()  # nothing can be compiled during the capture
        device.fill_table(self._table, rows, norms)
        device.upload_gradients()
        device.upload_entries()
        counts = np.array([native.attempted, native.applied, native.applied, steps], np.int64)
        device.upload("progress", counts)
        device.reports.get(_REPORT)["exhausted"] = 0
        self._shape, self._first_row = shape, rows[:entries]
        native.take_part()
        self.ready = True

    def capture(
        self, gradients: Any, grad_scale: float, clock: Any, take_norm: bool
    ) -> CudaStepInfo:
        """The launches of a step, recorded by the current stream."""
        native, device = self._native, self._device
        if not self.ready:
            raise _core.StateError(
                "a step can be captured after prepare_replays(steps), which makes the table of "
                "settings that it reads"
            )
        if gradients is not None or native.accumulated_samples > 0 or clock is not None:
            raise _core.StateError(
                "a captured step takes bound gradients and the clocks of prepare_replays: "
                "bind(grads), then step() without arguments"
            )
        needs_sum, _ = native.begin(None, grad_scale, self._first_clock, take_norm)
        native.add_row(self._first_clock, 0)
        rows, norms = native.table()
        shape = _Shape(native.nonfinite, needs_sum, len(rows), len(norms) > 0, grad_scale)
        if shape != self._shape or rows != self._first_row or not device.has_gradients():
            raise _core.StateError(
                "settings or gradients have changed since prepare_replays(steps): call it again"
            )
        native.fill(needs_sum, True, *self._table.at, device.reports.address(_REPORT), _REPORT)
        if needs_sum:
            device.sum()
        else:
            device.conclude()
        device.update()
        self._table.is_fixed = self.has_graphs = True
        return CudaStepInfo(device, (native.lr,), 0, None, known=True)

    def retire(self) -> None:
        """The table is of counts, or of gradients, that are no more: replays find no row."""
        self.ready = False
        if self.has_graphs:
            self._device.upload("progress", np.zeros(2, np.int64), 16)

    def check(self) -> None:
        """Raises StateError where there were more replays than rows; waits for them."""
        if not self.has_graphs:
            return
        self._device.synchronize()
        report = self._device.reports.get(_REPORT)
        if report["exhausted"]:
            report["exhausted"] = 0
            raise _core.StateError(
                "a captured step was replayed more often than prepare_replays(steps) said: the "
                "replays beyond updated nothing"
            )
