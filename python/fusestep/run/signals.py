"""Signals that ask a program to end, for loops that want to save first."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """Notes SIGTERM and SIGINT inside a with statement; a SIGINT after that interrupts at once.

    Used once. The handlers there were are back after it. Nothing changes outside the main thread,
    nor for a signal that is ignored, or that something other than Python handles.
    """

    def __init__(self) -> None:
        self.received: str | None = None  # the name of the first
        self._former: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            # SIGINT first, and last when leaving: no KeyboardInterrupt comes between the two
            for number in (signal.SIGINT, signal.SIGTERM):
                former = signal.getsignal(number)
                if former not in (None, signal.SIG_IGN):
                    self._former[number] = former
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # in a forked child it means what it meant before
            self._restore()
            signal.raise_signal(number)
            return
        if self.received is None:
            self.received = signal.Signals(number).name
            outer = self._former[number]
            if getattr(outer, "__func__", None) is StopSignals._note:  # of a loop around this one
                outer(number, frame)
        elif number == signal.SIGINT:
            self._restore()
            raise KeyboardInterrupt

    def _restore(self) -> None:
        for number, former in reversed(list(self._former.items())):
            if signal.getsignal(number) == self._note:  # and not what the body has set
                signal.signal(number, former)
