"""An interrupt at any line leaves what is remembered as it was before, or as it is after."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fusestep as fs
from fusestep import batch, control
from fusestep.gradients import AdaScale, GradientStatistics
from test_memory import ALL, every, run, text

PACKAGE = str(Path(fs.__file__).parent)


class Interrupt:
    """Raises KeyboardInterrupt before a line of the package, where a signal handler could."""

    def __init__(self, line: int) -> None:
        self.left = line

    def __call__(self, frame: Any, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            if self.left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
            self.left -= 1
        return self


def interrupted(call: Callable[[], Any], line: int) -> bool:
    """Calls with an interrupt at that line; whether there is one."""
    before = sys.gettrace()
    sys.settrace(Interrupt(line))
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def moved(thing: Any) -> None:
    """Takes in one update."""
    if isinstance(thing, control.Control):
        thing.observe(7.0)
    elif isinstance(thing, batch.Policy):
        thing.observe(loss=7.0, lr=0.2)
    elif isinstance(thing, AdaScale):
        thing.advance(24)
    else:
        thing.add([2.0, 9.0], [8, 8], 3.0)


def shown(thing: Any) -> tuple[Any, ...]:
    """All that can be seen of it, its expressions too."""
    if isinstance(thing, control.Control):
        return text(thing), thing.value
    if isinstance(thing, batch.Policy):
        return text(thing), thing.size, thing.overflow(), getattr(thing, "lr", thing.overflow)()
    if isinstance(thing, GradientStatistics):
        return text(thing), *(cell() for cell in thing.cells)
    return text(thing), thing.progress, thing.steps()


@every(ALL)
@pytest.mark.parametrize("what", ["moved", "loaded", "sized"])
def test_an_interrupt_leaves_what_is_remembered_whole(make: Any, what: str) -> None:
    if what == "sized" and not isinstance(make(), batch.Policy):
        return
    other = make()
    run(other, updates=7)
    state = other.state_dict()
    calls: dict[str, Callable[[Any], Any]] = {
        "moved": moved,
        "loaded": lambda thing: thing.load_state_dict(state),
        "sized": lambda thing: thing.next_size(fs.Clock(step=15, samples=900, epoch=2.0)),
    }
    thing = make()
    run(thing, updates=3)
    begin = thing.state_dict()
    before = shown(thing)
    calls[what](thing)
    after = shown(thing)
    lines = 0
    while True:
        thing.load_state_dict(begin)
        if not interrupted(lambda: calls[what](thing), lines):
            break
        assert shown(thing) in (before, after)
        lines += 1
    assert shown(thing) == after
    assert lines > 3
