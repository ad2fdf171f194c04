"""An interrupt at any line leaves what is remembered as it was before, or as it is after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import fusestep as fs
from emulation.interrupts import Interrupt
from fusestep import batch_sizes, control
from fusestep.gradients import AdaScale, GradientStatistics
from test_memory import ALL, every, run, text


def moved(thing: Any) -> None:
    """Takes in one update."""
    if isinstance(thing, control.Control):
        thing.observe(7.0)
    elif isinstance(thing, batch_sizes.Policy):
        thing.observe(loss=7.0, lr=0.2)
    elif isinstance(thing, AdaScale):
        thing.advance(24)
    else:
        thing.add([2.0, 9.0], [8, 8], 3.0)


def shown(thing: Any) -> tuple[Any, ...]:
    """All that can be seen of it, its expressions too."""
    if isinstance(thing, control.Control):
        return text(thing), thing.value
    if isinstance(thing, batch_sizes.Policy):
        return text(thing), thing.size, thing.overflow(), getattr(thing, "lr", thing.overflow)()
    if isinstance(thing, GradientStatistics):
        return text(thing), *(cell() for cell in thing._cells)
    return text(thing), thing.progress, thing.steps()


@every(ALL)
@pytest.mark.parametrize("what", ["moved", "loaded", "sized"])
def test_an_interrupt_leaves_what_is_remembered_whole(make: Any, what: str) -> None:
    if what == "sized" and not isinstance(make(), batch_sizes.Policy):
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
        if not Interrupt(lines).during(lambda: calls[what](thing)):
            break
        assert shown(thing) in (before, after)
        lines += 1
    assert shown(thing) == after
    assert lines > 3
