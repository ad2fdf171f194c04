"""What is remembered of a run: which saved states it takes, and its copies."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import batch_sizes, control, schedules
from fusestep.gradients import AdaScale, GradientStatistics
from fusestep.memory import Remembering

CURVE = schedules.linear(start=1.0, end=0.5, length=10)
CONTROLS: dict[str, Callable[[], control.Control]] = {
    "Plateau": lambda: control.Plateau(factor=0.5, patience=1, cooldown=2),
    "LossBackoff": control.LossBackoff,
    "Rollback": lambda: control.Rollback(grow=1.1, upper=4.0),
    "LossGap": control.LossGap,
    "ReduceThenGrow": lambda: control.ReduceThenGrow(patience_bad=2, patience_good=1),
    "RestartBelow": lambda: control.RestartBelow(CURVE, threshold=1.5),
    "RestartBelow to a number": lambda: control.RestartBelow(CURVE, 1.5, reset_to=0.25),
    "BestOf": lambda: control.BestOf([0.1, 0.2, CURVE], trial=2),
}


def learnt() -> GradientStatistics:
    statistics = GradientStatistics(horizon=100)
    statistics.add([2.0, 6.0], [8, 8], 3.0)
    return statistics


POLICIES: dict[str, Callable[[], batch_sizes.Policy]] = {
    "threshold": lambda: batch_sizes.polynomial(8, 64, length=20, threshold=0.1),
    "monotone": lambda: batch_sizes.polynomial(64, 8, length=20, monotone=True),
    "growth": lambda: batch_sizes.polynomial(8, 64, length=20, max_growth=1.5),
    "dwell": lambda: batch_sizes.polynomial(8, 64, length=20, dwell=40),
    "overflow": lambda: batch_sizes.fixed(64, maximum=32, overflow="lr"),
    "noise_scale": lambda: batch_sizes.noise_scale(learnt(), start=8, maximum=64),
    "cabs": lambda: batch_sizes.cabs(learnt(), start=8, maximum=64),
    "loss_ratio": lambda: batch_sizes.loss_ratio(8, maximum=64),
    "increase": lambda: batch_sizes.increase_instead_of_decay(CURVE, 8, maximum=64),
}
OTHERS: dict[str, Callable[[], Remembering]] = {
    "GradientStatistics": learnt,
    "AdaScale": lambda: AdaScale(learnt(), base_batch=8),
}
ALL: dict[str, Callable[[], Any]] = {**CONTROLS, **POLICIES, **OTHERS}


def every(makers: dict[str, Any]) -> Any:
    return pytest.mark.parametrize("make", makers.values(), ids=makers)


def run(thing: Any, begin: int = 0, updates: int = 9) -> list[float]:
    """What it gives in some updates: finite numbers."""
    given = []
    for t in range(begin, begin + updates):
        loss = 2.0 + math.sin(1.7 * t)
        if isinstance(thing, control.Control):
            thing.observe(loss, step=t)
            given.append(thing.value)
        elif isinstance(thing, batch_sizes.Policy):
            thing.observe(loss=loss, lr=0.1)
            given += [thing.next_size(fs.Clock(t, 16 * t, t / 8)), thing.overflow()]
        elif isinstance(thing, AdaScale):
            given.append(thing.advance(16 + t))
        else:
            thing.add([2.0, 6.0 + t], [8, 8], 3.0)
            given += [thing.gradient_variance, thing._cells.variance()]
    assert all(math.isfinite(value) for value in given)
    return given


def text(thing: Any) -> str:
    return json.dumps(thing.state_dict(), allow_nan=False)


HOSTILE: list[Any] = [None, True, False, "text", b"text", [], [1], {}, 1j, object(), 10**400]
HOSTILE += [math.nan, math.inf, -math.inf, -1, -0.5, -0.0, 0, 1, 1.5, 3, 7.0, 1e308, -1e308, 5e-324]
HOSTILE += [2**53 - 1, 2**53, 2**63 - 1, -(2**70), np.float32(0.5), np.int8(-1), np.ones(1)]


def changed(state: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The state with each of its numbers replaced by each of the hostile values."""
    for name, value in state.items():
        for bad in HOSTILE:
            yield name, {**state, name: bad}
            for i in range(len(value) if isinstance(value, list) else 0):
                yield name, {**state, name: [*value[:i], bad, *value[i + 1 :]]}


@every(ALL)
@pytest.mark.parametrize("updates", [0, 4, 9])
def test_a_state_is_refused_with_its_place_or_taken_and_gone_on_from(
    make: Any, updates: int
) -> None:
    thing = make()
    run(thing, updates=updates)
    before = text(thing)
    taken = 0
    for name, state in changed(thing.state_dict()):
        refused = ""
        try:
            thing.load_state_dict(state)
        except fs.StateError as error:
            refused = str(error)
        if refused:
            assert name in refused
            assert text(thing) == before
            continue
        taken += 1
        again = make()
        again.load_state_dict(json.loads(text(thing)))
        assert text(again) == text(thing)
        assert run(again, begin=9) == run(thing, begin=9)
        thing.load_state_dict(json.loads(before))
    assert 0 < taken < len(list(changed(json.loads(before)))) / 2


class Odd(dict[str, Any]):
    can_be_read = True

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(key) if self.can_be_read else self.refuse()

    def refuse(self) -> Any:
        raise OSError("the disk is gone")


@every(ALL)
def test_a_state_that_is_read_in_an_odd_way_is_read_or_refused(make: Any) -> None:
    thing = make()
    run(thing)
    before = text(thing)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for name in thing.state_dict():
        with pytest.raises(fs.StateError, match=rf"  {name}\[0\].* is nested too deeply"):
            thing.load_state_dict({**thing.state_dict(), name: deep})
    gone = Odd(thing.state_dict())
    gone.can_be_read = False
    with pytest.raises(fs.StateError, match="it can't be read: OSError: the disk is gone"):
        thing.load_state_dict(gone)
    assert text(thing) == before
    other = make()
    other.load_state_dict(Odd(thing.state_dict()))
    other.load_state_dict(MappingProxyType(thing.state_dict()))
    assert text(other) == before


@every(ALL)
def test_a_state_with_other_names_is_refused(make: Any) -> None:
    thing = make()
    run(thing)
    before = text(thing)
    state = thing.state_dict()
    few = dict(list(state.items())[1:])
    first = next(iter(state))
    for bad, message in (
        *[(value, "it must be a dict of") for value in (None, 3, "text", [])],
        ({}, f"  {first}: not saved"),
        (few, f"  {first}: not saved"),
        ({**state, "other": 1}, "  other: unknown"),
        ({**state, 3: 1}, "  3: names must be text"),
    ):
        with pytest.raises(fs.StateError, match=message):
            thing.load_state_dict(bad)  # type: ignore[arg-type]
    assert text(thing) == before


@every(ALL)
def test_a_copy_goes_on_by_itself_with_the_same_memory(make: Any) -> None:
    thing = make()
    run(thing, updates=5)
    copies = [copy.deepcopy(thing), copy.copy(thing)]
    if isinstance(thing, control.Control):
        copies.append(pickle.loads(pickle.dumps(thing)))
    before = text(thing)
    expected = None
    for other in copies:
        assert text(other) == before
        given = run(other, begin=5)
        expected = expected or given
        assert given == expected
        assert text(thing) == before
    assert run(thing, begin=5) == expected


PLATEAU, TREND, BEST = "Plateau", "ReduceThenGrow", "BestOf"
# what no run leads to, and the field that is named
IMPOSSIBLE: list[tuple[str, dict[str, Any], str]] = [
    (PLATEAU, {"value": 1.5}, "value"),
    (PLATEAU, {"bad": 2}, "bad"),
    (PLATEAU, {"cooling": 3}, "cooling"),
    (TREND, {"value": 1.1}, "value"),
    (TREND, {"bad": 3}, "bad"),
    (TREND, {"good": 2}, "good"),
    ("LossBackoff", {"value": 1.5}, "value"),
    ("LossBackoff", {"previous": 0.0}, "previous"),
    ("Rollback", {"value": 4.5}, "value"),
    ("Rollback", {"best_value": 4.5}, "best_value"),
    ("LossGap", {"value": 0.0}, "value"),
    ("LossGap", {"best": -1.0}, "best"),
    ("RestartBelow", {"seen": 3, "value": 4.0}, "value"),
    ("RestartBelow", {"value": -1.0}, "value"),
    (BEST, {"count": 12}, "count"),
    (BEST, {"count": 4}, "falls"),
    (BEST, {"falls": [0.5]}, "falls"),
    (BEST, {"count": 1, "value": 1.0}, "value"),
    (BEST, {"count": 7, "falls": [1.0, 2.0, None], "value": 3.0}, "value"),
    ("dwell", {"size": 0}, "size"),
    ("dwell", {"changed_at": -1.0}, "changed_at"),
    ("overflow", {"overflow": 1.5}, "overflow"),
    ("overflow", {"overflow": -0.5}, "overflow"),
    ("increase", {"highest": -1.0}, "highest"),
    ("cabs", {"loss": -1.0}, "loss"),
    ("cabs", {"lr": -1.0}, "lr"),
    ("loss_ratio", {"first_loss": 0.0}, "first_loss"),
    ("GradientStatistics", {"weight": 1.5}, "weight"),
    ("GradientStatistics", {"weight": 0.0}, "weight"),
    ("GradientStatistics", {"variance": 1e308, "weight": 0.5}, "variance"),
    ("GradientStatistics", {"squared_gradient": -1e308, "weight": 0.5}, "squared_gradient"),
    ("AdaScale", {"progress": -1.0}, "progress"),
    ("AdaScale", {"progress": 1e16}, "progress"),
]


@pytest.mark.parametrize(("kind", "values", "field"), IMPOSSIBLE, ids=str)
def test_what_no_run_leads_to_is_refused(kind: str, values: dict[str, Any], field: str) -> None:
    thing = ALL[kind]()
    before = text(thing)
    with pytest.raises(fs.StateError, match=rf"does not fit .*\n  {field}:? "):
        thing.load_state_dict({**thing.state_dict(), **values})
    assert text(thing) == before


@every(CONTROLS)
def test_the_last_step_that_a_clock_can_tell_is_not_passed(make: Any) -> None:
    leaf = make()
    for step in (2**53 - 2, 2**53 - 1, None):
        leaf.observe(1.0, step=step)
        assert leaf.state_dict()["seen"] == 2**53 - 1
        assert math.isfinite(leaf.value)
        make().load_state_dict(leaf.state_dict())
