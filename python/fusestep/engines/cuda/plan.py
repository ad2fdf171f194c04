"""A plan over arrays of the GPU: checked and prepared natively, launched from here.

Nothing waits for the device but what must know something of it: ``nonfinite="raise"``, and whoever
asks for a norm or a count. Where the device alone knows how many updates there were, with
``nonfinite="skip"`` or when a captured step is replayed, it counts them itself and takes the
settings of its next update from a table.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import _core
from .info import CudaStepInfo
from .launcher import Launcher
from .replays import Replays

_MOST_UNKNOWN = 32  # steps under way of which the host does not know whether they applied


class CudaPlan:
    """What `_core.CpuPlan` is for NumPy arrays."""

    takes_foreign = False

    def __init__(self, native: _core.CudaPlan, cupy: Any, device: int) -> None:
        self._native = native
        self._device = Launcher(native, cupy, device)
        self._busy = Lock()
        self._counts = False  # whether the device does
        self._unknown: deque[int] = deque()  # reports of steps that it has not told of yet
        self._latest: CudaStepInfo | None = None  # of the last step, if its settings are not known
        self._table = self._device.new_table()  # of steps that the device counts
        self._replays = Replays(native, self._device)
        self._bound: Any = None
        self._accumulators: Sequence[Any] = ()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One call at a time: a second thread is refused, because its order would be chance."""
        with self._native.held():
            if not self._busy.acquire(blocking=False):
                raise _core.StateError("this optimizer is already inside a call")
            try:
                yield
            finally:
                self._busy.release()

    def held(self) -> _core.Hold:
        return self._native.held()

    # what was checked, and goes on natively

    def rebind(
        self,
        parameters: list[Any],
        containers: Sequence[_core.Entry] = (),
        changes: _core.Changes | None = None,
    ) -> None:
        with self._alone():
            if self._device.enter():
                raise _core.StateError("rebind: not while a stream is capturing")
            self._let_host_count()
            self._native.rebind(parameters, list(containers), changes)
            self._device.upload("leaves", self._native.leaves())

    def check_same(self, parameters: list[Any]) -> None:
        self._native.check_same(parameters)

    def bind(self, gradients: Any) -> None:
        self._native.bind(gradients)
        self._bound = None if gradients is None else tuple(gradients)

    @property
    def is_bound(self) -> bool:
        return self._native.is_bound

    @property
    def is_captured(self) -> bool:
        """Whether a graph replays a step of it."""
        return self._replays.has_graphs

    @property
    def settings(self) -> npt.NDArray[np.float64]:
        self._know_row()
        return self._native.settings

    def set_settings(
        self,
        settings: npt.NDArray[np.float64],
        program: _core.Program | None,
        targets: list[_core.Target],
        changes: _core.Changes | None = None,
    ) -> None:
        with self._alone():
            self._native.set_settings(settings, program, targets, changes)
            self._latest = None

    def load(
        self,
        *,
        accumulated: tuple[float, int, float, list[bool]],
        arrays: Sequence[tuple[Any, npt.NDArray[Any] | None]] = (),
        **state: Any,
    ) -> None:
        device = self._device
        with self._alone():
            if device.enter():
                raise _core.StateError("load_state_dict: not while a stream is capturing")
            # what may fail, before anything is written: the device's memory, its counts
            copies = [
                (array, device.cupy.asarray(np.ascontiguousarray(values)).reshape(array.shape))
                for array, values in arrays
                if values is not None
            ]
            self._let_host_count()
            self._native.load(accumulated=accumulated, **state)
            self._latest = None
            for array, values in copies:
                array[...] = values
            for array, values in arrays:
                if values is None:
                    array.fill(0)
            device.upload("weighted", np.array([accumulated[2]]))

    @property
    def nonfinite(self) -> str:
        return self._native.nonfinite

    @nonfinite.setter
    def nonfinite(self, value: str) -> None:
        with self._alone():
            self.settle()
            self._native.nonfinite = value

    # counts, which the device may have to be asked for

    @property
    def attempted(self) -> int:
        self.settle()
        return self._native.attempted

    @property
    def applied(self) -> int:
        self.settle()
        return self._native.applied

    @property
    def updates(self) -> list[int]:
        self._device.enter()  # who saves or loads a state reads or writes arrays next
        self.settle()
        return self._native.updates

    def settle(self) -> None:
        """Waits for the device where it counts, and takes over its counts."""
        if self._counts:
            self._device.synchronize()
            attempted, applied = map(int, self._device.read("progress", np.int64)[:2])
            self._native.resolve(attempted - self._native.attempted, applied - self._native.applied)
            self._unknown.clear()
        self._replays.check()

    def _take_row(self) -> None:
        """Waits for the last step where the device alone knows which settings it used."""
        if self._latest is not None:
            self._native.take_row(self._latest.row)
            self._latest = None

    def _know_row(self) -> None:
        with suppress(_core.StateError), self._alone():  # another thread's step is not disturbed
            self._take_row()

    def _let_host_count(self) -> None:
        self.settle()
        self._replays.retire()
        self._counts = False

    # steps

    def step(
        self,
        gradients: Any,
        grad_scale: float,
        clock: Any,
        take_norm: bool = False,
        changes: _core.Changes | None = None,
        learn: Callable[[float], _core.Changes] | None = None,
    ) -> CudaStepInfo:
        with self._alone():
            if self._device.enter():
                return self._replays.capture(gradients, grad_scale, clock, take_norm)
            if self._native.nonfinite != "skip":
                self.settle()
                info = self._plain_step(gradients, grad_scale, clock, take_norm, changes)
                changes = None
            else:
                info = self._skipping_step(gradients, grad_scale, clock, take_norm)
            if (changes or learn) and info.applied:
                learnt = learn(info.grad_norm or 0.0) if learn else ()
                _core.commit([*(changes or ()), *learnt])
            return info

    def _skipping_step(
        self, gradients: Any, grad_scale: float, clock: Any, take_norm: bool
    ) -> CudaStepInfo:
        if self._replays.ready:
            self.settle()
        try:
            return self._counted_step(gradients, grad_scale, clock, take_norm)
        except ValueError:
            if not self._unknown:
                raise
        self.settle()  # a schedule may have been asked for a row that is not needed
        return self._counted_step(gradients, grad_scale, clock, take_norm)

    def _plain_step(
        self,
        gradients: Any,
        grad_scale: float,
        clock: Any,
        take_norm: bool,
        changes: _core.Changes | None,
    ) -> CudaStepInfo:
        native, device = self._native, self._device
        needs_sum, _ = native.begin(gradients, grad_scale, clock, take_norm)
        device.upload_gradients()
        number = device.reports.next() if needs_sum else 0
        report = device.reports.address(number)
        if needs_sum:
            native.fill(True, False, 0, 0, report, number)
            device.sum()
            if native.nonfinite == "raise":
                self._refuse_nonfinite(number, gradients)
        table = native.prepare()
        try:
            device.compile()
        except RuntimeError:
            native.undo()
            native.take_back()
            raise
        device.upload_entries()
        address = 0 if table is None else device.fill_table(self._table, table)[0]
        native.fill(needs_sum, False, address, 0, report, number)
        device.update()
        self._counts = False
        self._latest = None
        self._replays.retire()
        native.commit(changes)
        return CudaStepInfo(device, (native.lr,), 0, number or None, known=True)

    def _refuse_nonfinite(self, number: int, gradients: Any) -> None:
        if self._device.report(number)["applies"]:
            return
        self._native.take_back()
        if gradients is None:
            gradients = self._bound if self._bound is not None else self._accumulators
        for i, gradient in enumerate(gradients):
            if self._native.gradients[i] == 0:
                continue
            values = gradient.get()
            if np.isnan(values).any():
                raise ValueError(self._native.refusal(i, "NaN"))
            if np.isinf(values).any():
                raise ValueError(self._native.refusal(i, "infinity"))
        # another stream has written the gradient since
        raise ValueError(self._native.refusal(len(gradients), "NaN or infinity"))

    def _counted_step(
        self, gradients: Any, grad_scale: float, clock: Any, take_norm: bool
    ) -> CudaStepInfo:
        """A step that applies or not, as the device will find, and may follow others like it."""
        native, device = self._native, self._device
        self._resolve()
        _, others = native.begin(gradients, grad_scale, clock, take_norm)
        self._latest = None
        if others or len(self._unknown) >= _MOST_UNKNOWN:
            self.settle()
        base, rates = native.applied, []
        for ahead in range(len(self._unknown) + 1):
            native.add_row(clock, ahead)
            rates.append(native.lr)
        rows, norms = native.table()
        device.compile()
        device.upload_gradients()
        device.upload_entries()
        at, norms_at = device.fill_table(self._table, rows, norms)
        if not self._counts:
            counts = np.array([native.attempted, native.applied], np.int64)
            device.upload("progress", counts)
            self._counts = True
        device.upload("progress", np.array([base, len(rates)], np.int64), 16)
        number = device.reports.next()
        native.fill(True, True, at, norms_at, device.reports.address(number), number)
        device.sum()
        device.update()
        self._replays.retire()
        native.take_part()
        native.launched()
        self._unknown.append(number)
        info = CudaStepInfo(device, tuple(rates), base, number, known=False)
        self._latest = info if len(rates) > 1 else None
        return info

    def _resolve(self) -> None:
        """Takes over what steps have reported by now."""
        while self._unknown:
            report = self._device.reports.get(self._unknown[0])
            if int(report["number"]) != self._unknown[0]:
                return
            self._native.resolve(1, int(report["applied"]) - self._native.applied)
            self._unknown.popleft()

    def prepare_replays(self, steps: int, clocks: Sequence[Any] | None, grad_scale: float) -> None:
        with self._alone():
            if self._device.enter():
                raise _core.StateError("prepare_replays: not while a stream is capturing")
            self.settle()
            self._take_row()
            self._replays.prepare(steps, clocks, grad_scale)
            self._counts = True
            self._device.synchronize()  # a graph may be launched on another stream

    # accumulation

    def set_accumulators(self, arrays: list[Any]) -> None:
        self._native.set_accumulators(arrays)
        self._accumulators = arrays
        self._device.upload("leaves", self._native.leaves())

    def accumulate(self, gradients: Any, samples: float) -> Any:
        """Adds a micro-batch; the sum of squares is an array of the device, without shape."""
        native, device = self._native, self._device
        with self._alone():
            device.enter()
            squares = device.cupy.empty((), np.float64)
            first = native.accumulated_samples == 0
            holds = native.begin_micro_batch(gradients, samples, squares.data.ptr)
            self._replays.retire()  # they read the same table of gradients
            if first:
                device.upload("weighted", np.zeros(1))
            device.upload_gradients()
            device.upload("holds", holds)
            device.sum()
            native.end_micro_batch(samples)
            return squares

    def refuse_capture(self) -> None:
        """Raises StateError while the current stream is capturing."""
        if self._device.enter():
            raise _core.StateError("accumulate: not while a stream is capturing")

    @property
    def accumulated(self) -> tuple[float, int, float, list[bool]]:
        samples, micro_batches, _, holds = self._native.accumulated
        squares = float(self._device.read("weighted", np.float64)[0]) if micro_batches else 0.0
        return samples, micro_batches, squares, holds

    @property
    def accumulated_samples(self) -> float:
        return self._native.accumulated_samples

    def discard_accumulated(self) -> None:
        self._native.discard_accumulated()
