"""Interrupts where Ctrl-C may come: between any two lines of the package's Python code."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusestep as fs
from tables.models import plain

_PACKAGE = str(Path(fs.__file__).parent)


class Interrupt:
    """Raises KeyboardInterrupt before the line that is reached as number ``at``; None: counts."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.lines = 0  # so far
        self.where = ""

    def __call__(self, frame: Any, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            return None
        if event == "line":
            if self.lines == self.at:
                sys.settrace(None)
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                raise KeyboardInterrupt
            self.lines += 1
        return self

    def during(self, call: Callable[[], Any]) -> bool:
        """Whether it came before the call was over."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            call()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False


def halfway(
    make: Callable[[], Any],
    call: Callable[[Any], Any],
    look: Callable[[Any], Any],
    every: int = 1,
) -> tuple[int, list[str]]:
    """How many interrupts were tried, and which left neither the state before nor that after."""
    subject = make()
    before = plain(look(subject))
    call(subject)
    after = plain(look(subject))
    assert before != after
    found, at = [], 0
    while True:
        subject, interrupt = make(), Interrupt(at)
        if not interrupt.during(lambda subject=subject: call(subject)):  # type: ignore[misc]
            return at // every, found
        seen: list[Any] = []  # another thread must not be kept out
        thread = threading.Thread(target=lambda s=subject, to=seen: to.append(plain(look(s))))
        thread.start()
        thread.join()
        if seen not in ([before], [after]):
            found.append(interrupt.where)
        at += every
