"""A plan's memory, kernels and stream on a GPU, for the native plan that decides what happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cuda.compiling import compiled
from ...cuda.memory import Uploads, finish_before, follow, pinned

# a kernel by its name, thread blocks, threads of each, and the struct that it is given
Launch = tuple[str, int, int, npt.NDArray[np.void]]


class Launcher:
    """What `_core.CudaPlan` asks for. Never synchronises unless it is told to.

    Args:
        rule: the struct in ``csrc/rules`` for which updates are compiled.
        size: bytes of the device, zeros at first.
        report_size: bytes of the host that the device writes.
    """

    def __init__(self, cupy: Any, number: int, rule: str, size: int, report_size: int) -> None:
        self._cupy = cupy
        self._number = number
        self._rule = rule
        self._kernels: dict[str, Any] = {}
        self._uploads = Uploads(cupy)
        self._stream: list[Any] = []  # the latest one
        self._memory = cupy.zeros(size, np.uint8)
        self._reports = pinned(cupy, (report_size,), np.uint8)
        self._tables: list[Any] = []  # launches and graphs may still read those outgrown
        self.address = int(self._memory.data.ptr)
        self.reports = int(self._reports.ctypes.data)
        finish_before(self, self._stream, (self._uploads, self._reports, self._tables))

    def enter(self) -> bool:
        """Goes on in the current stream, behind what was launched on another.

        Returns whether that stream is capturing.
        """
        cuda = self._cupy.cuda
        current = cuda.Device().id
        if current != self._number:
            raise ValueError(
                f"params are on device {self._number}, the current device is {current}: "
                f"use `with cupy.cuda.Device({self._number}):`"
            )
        stream = cuda.get_current_stream()
        if stream.is_capturing():
            return True
        for last in self._stream:
            if last.ptr != stream.ptr and not last.is_capturing():
                follow(self._cupy, stream, last)
        self._stream[:] = [stream]
        return False

    def compile(self, source: str, kernels: Sequence[str], cases: Sequence[int]) -> None:
        """Compiles kernels of a file in ``csrc/cuda``, for these cases of the rule if any."""
        listed = ",".join(map(str, cases))
        options = (f"-DFUSESTEP_RULE={self._rule}", f"-DFUSESTEP_CASES={listed}") if cases else ()
        get = compiled(self._cupy, source, *options).get_function
        self._kernels |= {name: get(name) for name in kernels}

    def run(
        self, uploads: Sequence[tuple[int, bytes]], launches: Sequence[Launch], waits: bool
    ) -> None:
        """Queues copies of bytes to addresses, then launches; may wait until all that is done."""
        for address, data in uploads:
            self._uploads.copy(data, address, self._stream[0])
        for kernel, grid, threads, struct in launches:
            self._kernels[kernel]((grid,), (threads,), (struct,))
        if waits:
            self._stream[0].synchronize()

    def synchronize(self) -> None:
        """Waits for all that was launched."""
        self._cupy.cuda.Device(self._number).synchronize()

    def read(self, offset: int, size: int) -> bytes:
        """What the memory holds, once all that was launched is done."""
        with self._cupy.cuda.Device(self._number):
            self.synchronize()
            held: bytes = self._memory[offset : offset + size].get().tobytes()
            return held

    def allocate(self, size: int) -> int:
        """The address of more memory, which lasts as long as the device."""
        self._tables.append(self._cupy.empty(size, np.uint8))
        return int(self._tables[-1].data.ptr)

    def new_number(self) -> tuple[Any, int]:
        """A double on the device, as an array without shape, and its address."""
        number = self._cupy.empty((), np.float64)
        return number, int(number.data.ptr)

    def staged(self, arrays: Sequence[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        """Values for arrays, (destination, source), where the device can copy them; None: zeros."""
        return [(array, self._staged(array, source)) for array, source in arrays]

    def _staged(self, array: Any, source: Any) -> Any:
        if source is None or isinstance(source, self._cupy.ndarray):
            return 0 if source is None else source
        return self._cupy.asarray(np.ascontiguousarray(source)).reshape(array.shape)

    def kept(self, arrays: Sequence[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        """What destinations hold now, as pairs that `write` takes."""
        return [(array, array.copy()) for array, _ in arrays]

    def write(self, staged: Sequence[tuple[Any, Any]]) -> None:
        """Queues the copying of what is staged."""
        for array, values in staged:
            array[...] = values

    def nonfinite_in(self, gradient: Any) -> str | None:
        """What of "NaN" and "infinity" an array holds, if any; waits for it."""
        values = gradient.get()
        if np.isnan(values).any():
            return "NaN"
        return "infinity" if np.isinf(values).any() else None
