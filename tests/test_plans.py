"""What a plan writes it writes in one go, or not at all."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import _core
from fusestep.expression.program import program_of
from tables.models import Array


class Slots:
    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen = 0


def plan_of(opt: Any) -> Any:
    return opt._plan


def test_what_comes_with_an_update_is_set_if_there_is_one() -> None:
    w, observer = np.ones(2), Slots()
    opt = fs.SGD(w, lr=1.0, nonfinite="skip")
    plan = plan_of(opt)
    changes = [(observer, "seen", 1), (opt.groups, "seen", 2)]
    with pytest.raises(AttributeError):
        plan.step([np.ones(2)], 1.0, None, changes=changes)
    assert (observer.seen, opt.steps_attempted, w.tolist()) == (0, 0, [1.0, 1.0])
    with pytest.raises(ValueError, match="shape"):
        plan.step([np.ones(3)], 1.0, None, changes=changes[:1])
    assert not plan.step([np.full(2, np.nan)], 1.0, None, changes=changes[:1]).applied
    assert observer.seen == 0
    opt.nonfinite = "raise"
    with pytest.raises(ValueError, match="NaN"):
        plan.step([np.full(2, np.nan)], 1.0, None, changes=changes[:1])
    assert observer.seen == 0
    assert plan.step([np.ones(2)], 1.0, None, changes=changes[:1]).applied
    assert observer.seen == 1


# a whole load


def other_numbers(settings: Any) -> Any:
    """With another learning rate, the first column."""
    changed = settings.copy()
    changed[:, 0] += 1.0
    return changed


def loaded(opt: Any, **other: Any) -> dict[str, Any]:
    """A load that fits, but for what is given."""
    plan = plan_of(opt)
    state = {
        "updates": [3, 4],
        "attempted": 7,
        "applied": 5,
        "accumulated": (0.0, 0, 0.0, []),
        "settings": other_numbers(plan.settings),
        "program": None,
        "targets": [],
        "nonfinite": "skip",
        "arrays": [],
        "changes": None,
    }
    return {**state, **other}


def facts(opt: Any) -> str:
    plan = plan_of(opt)
    tables = plan.settings.tolist(), plan.nonfinite
    counts = plan.updates, plan.attempted, plan.applied, plan.accumulated
    return repr((tables, counts, opt.state, list(opt._parameters.values())))


def model() -> Any:
    opt = fs.SGD([np.ones(2), np.ones(3)], lr=0.5, momentum=0.5)
    opt.step([np.ones(2), np.ones(3)])
    return opt


def momentum(opt: Any, k: int) -> Array:
    array: Array = opt.state[str(k)]["momentum"]
    return array


def test_a_load_writes_all_of_it() -> None:
    opt, observer = model(), Slots()
    plan = plan_of(opt)
    settings = other_numbers(plan.settings)
    pairs = [(momentum(opt, k), np.arange(2.0 + k)) for k in range(2)]
    plan.load(**loaded(opt, arrays=pairs, changes=[(observer, "seen", 9)]))
    assert (plan.updates, plan.attempted, plan.applied) == ([3, 4], 7, 5)
    assert np.array_equal(plan.settings, settings, equal_nan=True)
    assert (plan.nonfinite, observer.seen) == ("skip", 9)
    assert [momentum(opt, k).tolist() for k in range(2)] == [[0.0, 1.0], [0.0, 1.0, 2.0]]


def read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


def target(**place: int) -> Any:
    bounds = {"lower": 0.0, "upper": 1.0, "below_upper": False, "smallest": 0.0}
    return _core.Target(
        **{"group": 0, "column": 0, "name": "lr", "expected": "", **bounds, **place}
    )


def one() -> Any:
    return program_of([fs.schedules.constant(1.0)])[0]


BAD_LOADS: list[tuple[str, Callable[[Any], dict[str, Any]], type[Exception]]] = [
    ("too few updates", lambda o: {"updates": [1]}, ValueError),
    ("negative updates", lambda o: {"updates": [1, -1]}, ValueError),
    ("huge updates", lambda o: {"updates": [1, 2**63]}, TypeError),
    ("more applied than attempted", lambda o: {"applied": 8}, ValueError),
    ("negative applied", lambda o: {"applied": -1}, ValueError),
    ("huge attempted", lambda o: {"attempted": 2**63}, TypeError),
    ("flags without accumulators", lambda o: {"accumulated": (0.0, 0, 0.0, [True])}, ValueError),
    ("samples without batches", lambda o: {"accumulated": (1.0, 0, 0.0, [])}, ValueError),
    ("batches without samples", lambda o: {"accumulated": (0.0, 1, 0.0, [])}, ValueError),
    ("infinite samples", lambda o: {"accumulated": (np.inf, 1, 0.0, [])}, ValueError),
    ("samples that are none", lambda o: {"accumulated": (np.nan, 1, 0.0, [])}, ValueError),
    ("negative samples", lambda o: {"accumulated": (-1.0, 1, 0.0, [])}, ValueError),
    ("other table", lambda o: {"settings": np.zeros((2, 9))}, ValueError),
    ("other nonfinite", lambda o: {"nonfinite": "sometimes"}, ValueError),
    ("targets alone", lambda o: {"targets": [target()]}, ValueError),
    ("no such column", lambda o: {"targets": [target(column=99)], "program": one()}, ValueError),
    ("no such group", lambda o: {"targets": [target(group=1)], "program": one()}, ValueError),
    ("no target", lambda o: {"targets": [(0, 0)]}, TypeError),
    ("no such attribute", lambda o: {"changes": [(o, "nothing", 1)]}, AttributeError),
    ("other size", lambda o: {"arrays": [(momentum(o, 0), np.ones(3))]}, ValueError),
    ("other dtype", lambda o: {"arrays": [(momentum(o, 0), np.ones(2, "f4"))]}, ValueError),
    ("other order", lambda o: {"arrays": [(momentum(o, 0), np.ones(2, ">f8"))]}, TypeError),
    ("no array", lambda o: {"arrays": [(momentum(o, 0), [1.0, 2.0])]}, TypeError),
    ("masked", lambda o: {"arrays": [(momentum(o, 0), np.ma.ones(2))]}, TypeError),
    ("strided", lambda o: {"arrays": [(momentum(o, 0), np.ones(4)[::2])]}, ValueError),
    ("alias", lambda o: {"arrays": [(momentum(o, 0), momentum(o, 0))]}, ValueError),
    ("twice", lambda o: {"arrays": [(momentum(o, 0), np.ones(2))] * 2}, ValueError),
    ("constant", lambda o: {"arrays": [(read_only(np.ones(2)), np.ones(2))]}, ValueError),
]


@pytest.mark.parametrize(
    ("other", "error"), [b[1:] for b in BAD_LOADS], ids=[b[0] for b in BAD_LOADS]
)
def test_a_load_with_one_thing_wrong_writes_nothing(
    other: Callable[[Any], dict[str, Any]], error: type[Exception]
) -> None:
    opt, observer = model(), Slots()
    good = {
        "arrays": [(momentum(opt, 1), np.arange(3.0))],
        "changes": [(observer, "seen", 1)],
    }
    bad = other(opt)
    for name, values in good.items():
        bad[name] = values + bad.get(name, [])
    before = facts(opt)
    with pytest.raises(error):
        plan_of(opt).load(**loaded(opt, **bad))
    assert facts(opt) == before
    assert observer.seen == 0


def test_accumulated_sums_are_not_loaded_beside_bound_gradients() -> None:
    opt = model()
    opt.bind([np.ones(2), np.ones(3)])
    before = facts(opt)
    with pytest.raises(fs.StateError, match="bound"):
        plan_of(opt).load(**loaded(opt, accumulated=(1.0, 1, 0.0, [])))
    assert facts(opt) == before


def test_micro_batches_of_no_gradients_alone_update_nothing_after_a_load() -> None:
    w = [np.ones(3)]
    first = fs.AdamW(w)
    first.accumulate([None], 3)
    opt = fs.AdamW(w)
    opt.load_state_dict(first.state_dict())
    assert opt.accumulated == 3.0
    assert opt.step().applied
    assert (w[0] == 1.0).all()
    assert opt.accumulated == 0.0


# settings


def test_a_plan_has_a_copy_of_its_tables() -> None:
    opt = model()
    plan = plan_of(opt)
    before = plan.settings
    plan.settings[...] = 99.0
    assert opt.lr == 0.5
    assert np.array_equal(plan.settings, before, equal_nan=True)


SETTINGS: list[Callable[[Any], None]] = [
    lambda opt: setattr(opt, "lr", 9.0),
    lambda opt: setattr(opt, "lr", fs.schedules.linear(1.0, 0.0, length=3)),
    lambda opt: setattr(opt, "weight_decay", 9.0),
    lambda opt: setattr(opt.groups[0], "lr", 9.0),
    lambda opt: setattr(opt, "clip_norm", 9.0),
    lambda opt: setattr(opt, "clip_value", fs.schedules.linear(1.0, 0.5, length=3)),
    lambda opt: setattr(opt, "nonfinite", "skip"),
]


def described(opt: Any) -> str:
    settings = opt.lr, opt.weight_decay, opt.groups[0].lr, opt.clip_norm, opt.clip_value
    return repr((settings, opt.nonfinite, opt.schedules, opt._settings.values, repr(opt)))


@contextmanager
def another_thread_stepping(opt: Any, w: Array) -> Iterator[list[bool]]:
    """Whether each of its steps had the rate that it tells."""
    stop, gradient = threading.Event(), np.ones_like(w)
    exact: list[bool] = []

    def work() -> None:
        while not stop.is_set():
            before = w[0]
            with contextlib.suppress(fs.StateError):
                exact.append(opt.step(gradient).lr == before - w[0])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield exact
    finally:
        stop.set()
        thread.join()


def test_a_setting_that_is_refused_while_another_thread_steps_stays_as_it_was() -> None:
    w = np.zeros(2_000_000)
    opt = fs.SGD(w, lr=0.5, clip_norm=1e30)
    refused = 0
    with another_thread_stepping(opt, w):
        while refused < 5 * len(SETTINGS):
            before = described(opt)
            try:
                SETTINGS[refused % len(SETTINGS)](opt)
            except fs.StateError:
                assert described(opt) == before
                refused += 1


def test_the_rate_that_a_step_tells_is_the_one_it_used_whoever_sets_it_meanwhile() -> None:
    w = np.zeros(2_000_000)
    opt = fs.SGD(w, lr=1.0, clip_norm=1e30)
    with another_thread_stepping(opt, w) as exact:
        while len(exact) < 40:
            with contextlib.suppress(fs.StateError):
                opt.lr = 1.0 + len(exact) % 3
    assert all(exact)


def test_a_refused_step_leaves_the_rate_where_it_was() -> None:
    rate = fs.schedules.linear(1.0, 0.0, length=4)
    opt = fs.SGD([np.ones(2), np.ones(2)], lr=rate, clip_value=rate + 1, nonfinite="raise")
    for _ in range(2):
        opt.step([np.ones(2), np.ones(2)])
    assert (opt.lr, opt.clip_value) == (0.75, 1.75)
    for bad in (
        [np.ones(2), np.ones(3)],
        [np.ones(2), np.full(2, np.nan)],
        [np.ones(2), next(iter(opt._parameters.values()))],
    ):
        with pytest.raises(ValueError, match=r"nothing was updated|has shape|shares memory"):
            opt.step(bad)
        assert (opt.lr, opt.clip_value) == (0.75, 1.75)


def test_no_setting_moves_where_one_of_the_schedules_gives_what_it_may_not() -> None:
    falling = fs.schedules.linear(1.0, -1.0, length=4)
    opt = fs.SGD(np.ones(2), lr=falling + 1, momentum=falling * 0.5, clip_norm=falling)
    opt.step(np.ones(2))
    opt.step(np.ones(2))
    before = opt.lr, opt.momentum, opt.clip_norm
    assert before == (1.5, 0.25, 0.5)
    with pytest.raises(ValueError, match="clip_norm must be greater than 0"):
        opt.step(np.ones(2))
    assert (opt.lr, opt.momentum, opt.clip_norm) == before


def test_a_clock_that_tells_step_zero_is_followed() -> None:
    opt = fs.SGD(np.ones(2), lr=fs.schedules.linear(1.0, 0.0, length=4))
    for _ in range(3):
        opt.step(np.ones(2))
    assert opt.step(np.ones(2), clock=fs.Clock(step=0)).lr == 1.0
    assert opt.step(np.ones(2), clock=fs.Clock(step=3)).lr == 0.25
    assert opt.step(np.ones(2)).lr == 0.0  # five updates by then


@pytest.mark.parametrize("name", ["clip_norm", "clip_value"])
def test_a_scheduled_limit_holds_in_the_step_that_it_is_for(name: str) -> None:
    limits = fs.schedules.linear(8.0, 0.0, length=4)
    w = np.zeros(1)
    opt = fs.SGD(w, lr=1.0, **{name: limits})
    for expected in (8.0, 6.0, 4.0, 2.0):
        before = w[0]
        opt.step(np.full(1, 64.0))
        assert before - w[0] == pytest.approx(expected, rel=1e-6)
