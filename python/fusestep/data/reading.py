"""Rows that a source brings itself, read ahead by a thread or when they are needed."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from .sources import Array


class Reading:
    """Rows at some places, read once: ahead, or by whoever needs them before."""

    def __init__(
        self,
        read: Callable[[Array], list[Any]],
        places: Array,
        lock: Any,  # an RLock
    ) -> None:
        self._read, self._places, self._lock = read, places, lock
        self._rows: list[Any] | None = None
        self._error: BaseException | None = None

    def ahead(self) -> bool:
        """Reads; an error waits for whoever needs the rows. False while another reads."""
        if not self._lock.acquire(timeout=0.1):
            return False
        try:
            if self._rows is None:
                self._rows = self._read(self._places)
        except BaseException as error:
            self._error = error
        finally:
            self._lock.release()
        return True

    @property
    def has_come(self) -> bool:
        return self._rows is not None

    def rows(self) -> list[Any]:
        """The rows, or the error that there was."""
        with self._lock:  # which the thread that reads ahead has while it does
            if self._error is not None:
                raise self._error
            if self._rows is None:
                self._rows = self._read(self._places)
            return self._rows


class Reader:
    """Reads ahead in a thread that lives while there is something to read.

    A reading that nobody holds any more is left out, and so is all that has not begun when the
    process ends.
    """

    def __init__(self) -> None:
        self._waiting: deque[weakref.ref[Reading]] = deque()
        self._thread: threading.Thread | None = None

    def expect(self, reading: Reading) -> None:
        """Reads in the background, where there is a thread to be had.

        Whoever needs rows that no thread has read reads them, so it does no harm if the thread
        ends at this moment.
        """
        self._waiting.append(weakref.ref(reading))
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=self._work, name="fusestep-loader")
            thread.start()
            self._thread = thread

    def _work(self) -> None:
        goes_on = threading.main_thread().is_alive
        while goes_on() and self._waiting:
            reference = self._waiting.popleft()
            while (reading := reference()) is not None and not reading.ahead() and goes_on():
                del reading
            del reading
