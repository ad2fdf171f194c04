"""What all batch-size policies share: limits, rounding, patience, saved state, messages."""

from __future__ import annotations

import copy
import json
import math
import re
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import batch_sizes, schedules

pytest.importorskip("hypothesis", reason="hypothesis is not installed")
import hypothesis
from hypothesis import strategies as st

Clock = fs.Clock
NAN, INF = math.nan, math.inf
WANTED: list[Any] = [0]


def given(**options: Any) -> batch_sizes.Policy:
    """A policy whose rule wants what WANTED holds."""
    return batch_sizes.expression(lambda clock: WANTED[0], **options)


def sizes(
    policy: batch_sizes.Policy, wanted: list[Any], samples: list[int] | None = None
) -> list[int]:
    """The sizes where the rule of ``given`` wants these numbers, one after another."""
    times = range(len(wanted)) if samples is None else samples
    found = []
    for number, n in zip(wanted, times, strict=True):
        WANTED[0] = number
        found.append(policy.next_size(Clock(samples=n)))
    return found


@pytest.mark.parametrize(
    ("options", "wanted", "expected"),
    [
        ({}, [1.5, 2.5, 2.4999, 0.2, -7, 0], [2, 3, 2, 1, 1, 1]),
        ({"minimum": 5, "maximum": 9}, [4, 5.4, 9.4, 9.6, INF], [5, 5, 9, 9, 9]),
        ({"multiple_of": 8}, [3, 11, 12, 20, 27.9, 1], [8, 8, 16, 24, 24, 8]),
        ({"multiple_of": 8, "minimum": 9, "maximum": 33}, [1, 9, 19, 99], [16, 16, 16, 32]),
        ({"threshold": 0.5}, [10, 15, 15.6, 8, 7.4], [10, 10, 16, 16, 7]),
        ({"monotone": True}, [10, 9, 12, 1], [10, 10, 12, 12]),
        ({"max_growth": 1.5}, [10, 100, 100, 20, 1], [10, 15, 22, 20, 1]),
        ({"max_growth": 1.5}, [1, 100, 100, 100, 100], [1, 2, 3, 4, 6]),
        ({"max_growth": 1.5, "multiple_of": 8}, [8, 100, 100, 100], [8, 16, 24, 32]),
        ({"max_growth": 1e308}, [10, 99], [10, 99]),
        ({"max_growth": 1.2, "threshold": 0.5}, [10, 14, 40], [10, 10, 12]),
    ],
)
def test_a_number_becomes_a_size_in_the_stated_order(
    options: dict[str, Any], wanted: list[float], expected: list[int]
) -> None:
    assert sizes(given(**options), wanted) == expected


def test_a_size_dwells_for_so_many_samples_since_the_last_change() -> None:
    found = sizes(given(dwell=100), [10, 20, 20, 30, 30, 5], [0, 99, 100, 150, 199, 200])
    assert found == [10, 10, 20, 20, 20, 5]
    with pytest.raises(
        ValueError, match=r"batch_sizes.fixed\(n=8, dwell=9\) has dwell .* tell samples"
    ):
        batch_sizes.fixed(8, dwell=9).next_size(Clock(step=0))


def test_what_the_maximum_cuts_off_goes_to_the_learning_rate() -> None:
    policy = given(maximum=100, overflow="lr", multiple_of=32)
    factor = 0.5 * policy.overflow
    values = []
    for wanted in (10, 100, 200, 400, INF, 50):
        WANTED[0] = wanted
        policy.next_size(Clock())
        values.append(factor())
    assert values == [0.5, 0.5, 0.25, 0.125, 0.0, 0.5]
    assert repr(factor) == "0.5 * batch_sizes.expression.overflow"
    clipped = given(maximum=100)
    assert (sizes(clipped, [1000]), clipped.overflow()) == ([100], 1.0)


def test_overflow_stays_while_the_rule_knows_nothing() -> None:
    statistics = SimpleNamespace(noise_scale=400.0)
    policy = batch_sizes.noise_scale(statistics, start=8, maximum=100, overflow="lr")
    policy.next_size(Clock())
    statistics.noise_scale = None
    assert (policy.next_size(Clock()), policy.overflow()) == (100, 0.25)


def test_an_optimizer_uses_the_overflow_and_is_resumed_with_it() -> None:
    def build() -> tuple[batch_sizes.Policy, fs.SGD]:
        policy = batch_sizes.exponential(8, 2, maximum=16, overflow="lr")
        return policy, fs.SGD(np.ones(2), lr=0.5 * policy.overflow)

    policy, opt = build()
    for _ in range(4):
        policy.next_size(Clock(step=opt.steps_applied))
        info = opt.step(np.ones(2))
    assert info.lr == 0.125
    other, resumed = build()
    other.load_state_dict(policy.state_dict())
    resumed.load_state_dict(opt.state_dict())
    assert resumed.step(np.ones(2)).lr == 0.125
    other.next_size(Clock(step=5))
    assert resumed.step(np.ones(2)).lr == 0.03125


def test_copies_go_their_own_way() -> None:
    policy = batch_sizes.exponential(8, 2, maximum=16, overflow="lr")
    twin = copy.deepcopy(policy)
    twin.next_size(Clock(step=3))
    assert (policy.size, policy.overflow(), twin.size, twin.overflow()) == (None, 1.0, 16, 0.25)


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "minimum": st.integers(1, 50),
        "maximum": st.one_of(st.none(), st.integers(1, 300)),
        "multiple_of": st.integers(1, 20),
        "threshold": st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        "monotone": st.booleans(),
        "max_growth": st.sampled_from([None, 1.01, 1.5, 2.0, 4]),
        "dwell": st.sampled_from([0, 10, 100.5]),
    },
)
NUMBERS = st.one_of(st.floats(-10, 400), st.floats(-1e300, 2**50), st.integers(-5, 10**9))


@hypothesis.given(OPTIONS, st.lists(st.tuples(NUMBERS, st.integers(0, 60)), min_size=1))
def test_whatever_the_rule_gives_the_size_keeps_to_the_options(
    options: dict[str, Any], rows: list[tuple[float, int]]
) -> None:
    m, least = options.get("multiple_of", 1), options.get("minimum", 1)
    most = options.get("maximum") or 2**53 - 1
    hypothesis.assume(math.ceil(least / m) * m <= most)
    growth = options.get("max_growth")
    policy, old, samples, changed = given(**options), None, 0, 0
    for wanted, passed in rows:
        samples += passed
        inside = min(max(Fraction(wanted), least), most)
        low, high = math.ceil(Fraction(least, m)) * m, most // m * m
        target = min(max(math.floor(inside / m + Fraction(1, 2)) * m, low), high)
        size = sizes(policy, [wanted], [samples])[0]
        assert size % m == 0
        assert least <= size <= most
        if old is None:
            assert size == target
        elif size == old:
            kept = options.get("monotone", False) and target < old
            kept |= abs(target - old) <= options.get("threshold", 0) * old
            assert kept or samples - changed < options.get("dwell", 0)
        else:
            assert samples - changed >= options.get("dwell", 0)
            assert abs(target - old) > options.get("threshold", 0) * old
            assert size > old or not options.get("monotone", False)
            bound = target if growth is None else max(growth * old, old + m)
            assert size <= bound
            assert size == target or (target > size > old and size + m > bound)
        changed = samples if size != old else changed
        old = size


def test_saved_sizes_outside_of_new_limits_are_left_at_once() -> None:
    state = {"size": 100, "changed_at": 0.0, "overflow": 1.0}
    policy = batch_sizes.fixed(30, multiple_of=16, monotone=True, threshold=9.0, maximum=64)
    policy.load_state_dict(state)
    assert (policy.size, policy.next_size(Clock())) == (100, 32)
    adaptive = batch_sizes.noise_scale(SimpleNamespace(noise_scale=None), start=8, maximum=64)
    adaptive.load_state_dict(state)
    assert adaptive.next_size(Clock()) == 64


POLICIES: list[batch_sizes.Policy] = [
    batch_sizes.fixed(8, maximum=64),
    batch_sizes.increase_instead_of_decay(schedules.cosine(1.0, length=9), 8, maximum=64),
    batch_sizes.cabs(SimpleNamespace(gradient_variance=1.0), start=8),
    batch_sizes.loss_ratio(8),
]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_state_that_does_not_fit_is_refused_and_nothing_changes(policy: batch_sizes.Policy) -> None:
    policy.observe(loss=1.0, lr=0.5)
    policy.next_size(Clock(step=0, samples=5))
    before = policy.state_dict()
    assert json.loads(json.dumps(before, allow_nan=False)) == before
    wrong: dict[str, list[Any]] = {"size": [0, -1, 2**60, 1.5], "changed_at": [-1, INF]}
    wrong |= {"overflow": [None, 2, NAN], "highest": [None]}
    for name in before:
        for bad in ("text", True, NAN, [1], *wrong.get(name, [])):
            with pytest.raises(fs.StateError, match=rf"does not fit batch_sizes.*\n  {name}: "):
                policy.load_state_dict({**before, name: bad})
    unfit: dict[str, Any] = {"size: not saved": {}, "a dict of size, changed_at, overflow": None}
    unfit["other: unknown"] = {**before, "other": 1}
    for message, state in unfit.items():
        with pytest.raises(fs.StateError, match=message):
            policy.load_state_dict(state)
    assert policy.state_dict() == before


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (NAN, "must give a finite number, not nan"),
        (-INF, "must give a finite number, not -inf"),
        (None, "must give a number, not None"),
        ("8", "must give a number, not '8'"),
        (True, "must give a number, not True"),
        (np.array([8]), "must give a number, not array([8])"),
        (INF, "gives inf: it needs a maximum"),
        (10**400, "must give a number that a float can hold"),
        (1e300, "gives 1e+300: it needs a maximum"),
    ],
)
def test_a_rule_that_gives_no_size_is_named_and_nothing_changes(wanted: Any, message: str) -> None:
    policy = given(dwell=3)
    sizes(policy, [8])
    before = policy.state_dict()
    named = r"batch_sizes\.expression.*" + re.escape(message)
    with pytest.raises((TypeError, ValueError), match=named):
        sizes(policy, [wanted], [50])
    assert policy.state_dict() == before


def test_statistics_that_are_no_numbers_are_named() -> None:
    for bad, message in (
        ("x", "reads noise_scale: it must be a number, not 'x'"),
        (NAN, "not nan"),
    ):
        policy = batch_sizes.noise_scale(SimpleNamespace(noise_scale=bad), start=8)
        with pytest.raises((TypeError, ValueError), match=rf"batch_sizes\.noise_scale.*{message}"):
            policy.next_size(Clock())


def test_a_rule_of_ones_own_is_a_class() -> None:
    class Steps(batch_sizes.Policy):
        def wanted(self, clock: fs.Clock) -> float | None:
            return None if clock.step == 2 else 10 * (clock.step or 0)

    policy = Steps(minimum=4)
    assert [policy.next_size(Clock(step=t)) for t in (0, 1, 2, 3)] == [4, 10, 10, 30]
    assert repr(policy) == "Steps(minimum=4)"
    with pytest.raises(TypeError, match=r"Steps\(\) must give a number, not None"):
        Steps().next_size(Clock(step=2))


def test_what_a_batch_size_may_be_typed_as() -> None:
    policy = batch_sizes.fixed(99)
    assert batch_sizes.as_policy(policy, n_samples=9) is policy
    line = schedules.linear(start=8, end=80, length=9)
    values: list[tuple[Any, int]] = [(np.int64(9), 9), (1, 1), (51, 51), ("full", 50), (line, 50)]
    for value, size in [*values, (lambda clock: clock.step * 2, 18), (lambda clock: 999, 50)]:
        assert batch_sizes.as_policy(value, n_samples=50).next_size(Clock(step=9)) == size
    for bad in (0, -1, 8.0, True, None, "half", [8], np.ones(1)):
        with pytest.raises((TypeError, ValueError), match="batch_size must be "):
            batch_sizes.as_policy(bad, n_samples=50)
    with pytest.raises(ValueError, match="n_samples must be at least 1"):
        batch_sizes.as_policy(8, n_samples=0)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"minimum": 0}, "minimum must be at least 1"),
    ({"maximum": 1.5}, "maximum must be a whole number, not 1.5"),
    ({"minimum": 9, "maximum": 8}, "from minimum=9 to maximum=8 there is no multiple of"),
    ({"minimum": 9, "maximum": 15, "multiple_of": 8}, "there is no multiple of multiple_of=8"),
    ({"multiple_of": True}, "multiple_of must be a whole number, not True"),
    ({"threshold": -0.1}, "threshold must be finite and at least 0, not -0.1"),
    ({"monotone": 1}, "monotone must be True or False, not 1"),
    ({"max_growth": 1}, "max_growth must be greater than 1, not 1"),
    ({"dwell": NAN}, "dwell must be finite and at least 0, not nan"),
    ({"overflow": "drop"}, "overflow must be one of clip, lr, not 'drop'"),
    ({"overflow": "lr"}, "overflow='lr' needs a maximum"),
    ({"most": 9}, "fixed has no argument 'most'; known are n, minimum, maximum"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        batch_sizes.fixed(8, **options)


def test_bad_clocks_and_observations_are_named() -> None:
    policy = batch_sizes.polynomial(8, 80, length=100, by="samples")
    with pytest.raises(ValueError, match=r"sizes\.polynomial.*: this expression reads samples"):
        policy.next_size(Clock(step=1))
    with pytest.raises(TypeError, match=r"clock must be a .*Clock, not 5"):
        policy.next_size(5)
    with pytest.raises(ValueError, match="samples must be finite and at least 0, not -1"):
        policy.next_size(Clock(samples=-1))
    for bad in ({"loss": "low"}, {"loss": np.ones(2)}, {"lr": "x"}, {"lr": -1}, {"lr": NAN}):
        with pytest.raises((TypeError, ValueError), match=f"{next(iter(bad))} must be "):
            policy.observe(**bad)
    policy.observe(loss=np.float32(1), lr=np.float64(0.1))
    assert policy.size is None
