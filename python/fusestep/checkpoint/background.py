"""Writing while training goes on: of a snapshot, by a thread."""

from __future__ import annotations

import atexit
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from ..cuda.memory import pinned

Write = Callable[[Mapping[str, Any]], None]


class Background:
    """The writes that threads do, the errors they ended with, the memory of snapshots.

    There is no lock, which an interrupt or a fork could leave locked: calls exchange lists.
    """

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self._memory: list[np.ndarray[Any, Any]] = []  # for the next snapshot

    def start(self, arrays: Mapping[str, Any], write: Write) -> None:
        """Copies the arrays, and has a thread write the copies. The interpreter's exit waits."""
        memory, copies = self._snapshot(arrays)

        def work() -> None:
            try:
                write(copies)
            except BaseException as error:
                self._errors.append(error)
            self._memory[:] = [memory]

        thread = threading.Thread(target=work, name="fusestep checkpoint")
        atexit.unregister(self._warn)
        atexit.register(self._warn)
        thread.start()
        self._threads.append(thread)  # now that others can wait for it

    def finish(self) -> None:
        """Waits for all writes, and raises the error of one that failed, once."""
        self.raise_once(self.join())

    def join(self) -> BaseException | None:
        """Waits for all writes; gives the first error, which is still to be raised."""
        for thread in list(self._threads):
            thread.join()
            with suppress(ValueError):  # another thread has waited, too
                self._threads.remove(thread)
        return self._errors[0] if self._errors else None

    def raise_once(self, error: BaseException | None) -> None:
        """Raises an error of a write unless somebody did, or there is none."""
        if error in self._errors:
            self._errors.remove(error)
            raise error

    def wait(self) -> None:
        """Finishes, and gives the memory of snapshots back."""
        try:
            self.finish()
        finally:
            self._memory.clear()

    def _snapshot(self, arrays: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Memory, and copies of the arrays in it; those of a GPU have memory that it can write."""
        size = sum(array.nbytes for array in arrays.values() if isinstance(array, np.ndarray))
        memory = self._memory.pop() if self._memory else np.empty(0, np.uint8)
        if memory.size < size:
            memory = np.empty(size, np.uint8)
        copies, end = {}, 0
        for name, array in arrays.items():
            if isinstance(array, np.ndarray):
                begin, end = end, end + array.nbytes
                copies[name] = memory[begin:end].view(array.dtype).reshape(array.shape)
                np.copyto(copies[name], array)
            else:
                copies[name] = host_copy(array)
        return memory, copies

    def _warn(self) -> None:
        """At exit there is no next call to raise an error."""
        for error in self._errors:
            warnings.warn(str(error), RuntimeWarning, stacklevel=1)


def host_copy(array: Any) -> Any:
    """A copy of an array of CuPy, in pinned memory, which CuPy keeps for the next one."""
    import cupy

    host = pinned(cupy, array.shape, array.dtype)
    with array.device:
        array.get(out=host)
    return host


writer = Background()  # of this process: one disk, one write at a time
