"""Policies as a loader saves them, and what becomes of them in another one."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import batch_sizes
from fusestep.saved_state import differences
from test_memory import POLICIES, every, run


def growing(clock: fs.Clock) -> float:
    return 8 + (clock.step or 0)


def shrinking(clock: fs.Clock) -> float:
    return 64 - (clock.step or 0)


class Rule:
    def __call__(self, clock: fs.Clock) -> float:
        return growing(clock)


FUNCTIONS: list[Any] = [growing, lambda clock: 8 + clock.step, Rule(), Rule().__call__]


def loader(size: Any) -> fs.Loader:
    return fs.Loader(np.arange(1000), size, seed=3)


def resuming(policy: batch_sizes.Policy, saved: Any) -> Any:
    """The changes with which a policy goes on from what another has saved."""
    changes = []
    with differences("this policy") as found:
        changes += policy._resuming(saved, "policy", found)
    return changes


def saved(thing: Any) -> Any:
    return json.loads(json.dumps(thing.state_dict(), allow_nan=False))


@pytest.mark.parametrize("options", [{}, {"dwell": 50}, {"monotone": True}], ids=str)
@pytest.mark.parametrize("rule", FUNCTIONS, ids=lambda rule: type(rule).__name__)
def test_a_policy_made_of_a_function_goes_on_where_it_was(rule: Any, options: Any) -> None:
    whole = [b.size for b in loader(batch_sizes.expression(rule, maximum=64, **options))]
    first = loader(batch_sizes.expression(rule, maximum=64, **options))
    begun = [part.size for _, part in zip(range(9), first, strict=False)]
    state = saved(first)
    again = loader(batch_sizes.expression(rule, maximum=64, **options))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.load_state_dict(state)
    assert begun + [b.size for b in again] == whole
    assert " at 0x" not in repr(batch_sizes.expression(rule)) + json.dumps(state)


def test_a_policy_is_typed_alike_in_every_process() -> None:
    code = """
import sys; sys.path.insert(0, "tests")
import test_batch_sizes_saved as t, test_memory as m
rules = [t.batch_sizes.expression(rule, dwell=1) for rule in t.FUNCTIONS]
print([policy._saved()["typed"] for policy in [*rules, *(make() for make in m.POLICIES.values())]])
"""
    texts = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert texts[0].stdout == texts[1].stdout
    assert "test_batch_sizes_saved:growing" in texts[0].stdout
    assert " at 0x" not in texts[0].stdout


def test_functions_are_compared_by_name() -> None:
    policy = batch_sizes.expression(growing, dwell=50)
    run(policy)
    state = json.loads(json.dumps(policy._saved()))
    other = batch_sizes.expression(shrinking, dwell=50)
    with pytest.warns(UserWarning, match=r"shrinking.* goes on from the state of .*:growing"):
        changes = resuming(other, state)
    assert other.size is None
    fs._core.commit(changes)
    assert other.state_dict() == policy.state_dict()

    named = [batch_sizes.expression(f, name="mine", dwell=50) for f in (growing, shrinking)]
    run(named[0])
    fs._core.commit(resuming(named[1], named[0]._saved()))
    assert named[1].size == named[0].size
    with pytest.raises(TypeError, match="name must be text, not 3"):
        batch_sizes.expression(growing, name=3)  # type: ignore[arg-type]


@every(POLICIES)
def test_a_policy_of_another_kind_begins_anew_and_says_so(make: Any) -> None:
    policy = make()
    run(policy)
    before = saved(policy)
    other = batch_sizes.doubling(start=8, every=4, maximum=64, threshold=0.5)
    run(other)
    with pytest.warns(
        UserWarning, match="begins anew, instead of going on from the state of batch."
    ):
        fs._core.commit(resuming(other, policy._saved()))
    assert other.state_dict() == batch_sizes.doubling(8, 4, maximum=64).state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = batch_sizes.fixed(32)  # a policy that remembers nothing has nothing to tell
        if "fixed" not in repr(policy):
            fs._core.commit(resuming(plain, policy._saved()))
        fs._core.commit(resuming(make(), policy._saved()))
    assert saved(policy) == before


@pytest.mark.parametrize(
    "bad",
    [None, 3, [], {}, {"typed": "batch_sizes.fixed(n=8)"}, {"typed": 3, "state": {}}]
    + [
        {"typed": "batch_sizes.loss_ratio(start=8)", "state": state}
        for state in (None, {}, {"size": 8})
    ],
    ids=str,
)
def test_what_is_saved_of_no_policy_is_refused(bad: Any) -> None:
    policy = batch_sizes.loss_ratio(8)
    run(policy)
    before = saved(policy)
    with pytest.raises(fs.StateError, match=r"\n  policy(: must|\.state|\.typed)"):
        resuming(policy, bad)
    state = {**loader(64).state_dict(), "policy": bad}
    sizes = loader(policy)
    with pytest.raises(fs.StateError):
        sizes.load_state_dict(state)
    assert (saved(policy), sizes.clock.samples) == (before, 0)


@every(POLICIES)
def test_what_is_calculated_first_changes_nothing(make: Any) -> None:
    policy = make()
    run(policy)
    before, overflow, size = saved(policy), policy.overflow(), policy.size
    clock = fs.Clock(step=30, samples=900, epoch=3.0)
    changes = [
        policy._observing(loss=1.0, lr=0.3),
        policy._restoring(before, "", []),
        policy._resetting(),
    ]
    decided, changes_of_size = policy._deciding(clock)
    assert (saved(policy), policy.overflow(), policy.size) == (before, overflow, size)
    assert policy.next_size(clock) == decided
    after = saved(policy)
    for some in (changes[2], changes[1], changes_of_size):
        fs._core.commit(some)
    assert saved(policy) == after


def test_a_state_of_the_earlier_module_is_gone_on_from() -> None:
    policy = batch_sizes.loss_ratio(8)
    run(policy)
    state = policy._saved()
    earlier = {**state, "typed": state["typed"].replace("batch_sizes.", "batch.")}
    other = batch_sizes.loss_ratio(8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fs._core.commit(resuming(other, earlier))
    assert other.state_dict() == policy.state_dict()
