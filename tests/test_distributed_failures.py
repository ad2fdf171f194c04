"""A rank that fails is an error on all of them, never a hang; nothing has changed by then."""

from __future__ import annotations

import copy
import os
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import distributed
from runs import processes
from tables.models import plain
from tables.ranks import on_ranks

WORLD, FAILS, STEPS = 3, 2, 5  # rank 1 fails in one of some steps


class Rank:
    """One rank of a run whose every part remembers something."""

    def __init__(self, group: Any) -> None:
        random = np.random.default_rng(5)
        x, y = random.standard_normal((90, 4)), random.standard_normal(90)
        self.rank = group.rank
        self.params = {"w": random.standard_normal(4), "b": np.zeros(1)}
        self.opt = distributed.Sharded(
            fs.AdamW,
            self.params,
            group=group,
            leaves=8,
            lr=fs.schedules.cosine(0.1, length=9) * fs.control.Plateau(0.5, patience=0),
            clip_norm=0.5,
            nonfinite="skip",
            ema=0.9,
        )
        self.statistics = fs.gradients.GradientStatistics(horizon=100)
        loader = fs.Loader({"x": x, "y": y}, 13, seed=1, shard=self.opt.share, epochs=9)
        self.batches = [batch for batch, _ in zip(loader, range(STEPS), strict=False)]

    calls = staticmethod(lambda loss, grads: (loss, grads))  # a fault puts another in its place

    def loss_and_grads(self, batch: Any) -> Any:
        error = batch["x"] @ self.params["w"] + self.params["b"] - batch["y"]
        slope = 2 * error / error.size
        grads = {"w": slope @ batch["x"], "b": slope.sum(keepdims=True)}
        return self.calls(float((error**2).mean()), grads)

    def step(self, step: int, *, clock: int | None = None, statistics: Any = None) -> None:
        """A step on a batch, with the clock of another one where it is given."""
        batch = copy.copy(self.batches[step])
        batch.clock = self.batches[step if clock is None else clock].clock
        statistics = statistics or self.statistics
        distributed.step(self.opt, self.loss_and_grads, batch, statistics=statistics)

    def told(self) -> Any:
        """All that the run has changed, but for the state of other ranks' shards."""
        counts = self.opt.steps_attempted, self.opt.steps_skipped
        return plain([self.params, self.opt.state, self.statistics.state_dict(), counts])


def fails(loss: float, grads: Any) -> Any:
    raise MemoryError("no room")


def wrong_shape(loss: float, grads: Any) -> Any:
    return loss, {**grads, "b": np.zeros(2)}


def lacks_one(loss: float, grads: Any) -> Any:
    return loss, {"w": grads["w"]}


def no_loss(loss: float, grads: Any) -> Any:
    return "low", grads


def calls(function: Any) -> Callable[[Rank], None]:
    def fault(rank: Rank) -> None:
        rank.calls = function
        try:
            rank.step(FAILS)
        finally:
            del rank.calls

    return fault


def other_statistics(rank: Rank) -> None:
    """Those of another optimizer."""
    learnt = fs.gradients.GradientStatistics()
    other = fs.SGD(np.ones(2), lr=1.0)
    for _ in range(2):
        other.accumulate(np.ones(2), samples=1)
    other.step(statistics=learnt)
    rank.step(FAILS, statistics=learnt)


def fails_twice(rank: Rank) -> None:
    rank.calls = fails
    try:
        other_statistics(rank)
    finally:
        del rank.calls


def other_clock(rank: Rank) -> None:
    rank.step(FAILS, clock=FAILS + 1)


def other_setting(rank: Rank) -> None:
    rank.opt.clip_norm = 0.25
    try:
        rank.step(FAILS)
    finally:
        rank.opt.clip_norm = 0.5


def ahead(rank: Rank) -> None:
    """Has done a step that the others have not, as if it had loaded another state."""
    state = rank.opt._own.state_dict()
    rank.opt._own.load_state_dict({**state, "attempted": state["attempted"] + 1})
    rank.step(FAILS)


def too_few(rank: Rank) -> None:
    rank.opt.step(clock=rank.batches[FAILS].clock)


OTHER = "rank 1: is at step {} of another model, settings or run than rank 0"


@pytest.mark.parametrize(
    ("fault", "own", "others"),
    [
        (calls(fails), MemoryError, "rank 1: MemoryError: no room"),
        (calls(wrong_shape), ValueError, "rank 1: ValueError: params['b']: gradient has shape"),
        (calls(lacks_one), ValueError, "rank 1: ValueError: grads: must have the keys"),
        (calls(no_loss), TypeError, "rank 1: TypeError: loss must be"),
        (other_statistics, fs.StateError, "rank 1: StateError: GradientStatistics("),
        (fails_twice, MemoryError, "rank 1: MemoryError: no room"),
        (other_clock, distributed.RankError, OTHER.format(2)),
        (other_setting, distributed.RankError, OTHER.format(2)),
        (ahead, distributed.RankError, OTHER.format(3)),
        (too_few, fs.StateError, "rank 1: StateError: 3 leaves of this rank have not been"),
    ],
    ids=[
        "exception",
        "shape",
        "tree",
        "loss",
        "statistics",
        "two",
        "clock",
        "setting",
        "ahead",
        "too few",
    ],
)
def test_a_rank_that_fails_is_an_error_of_all_and_the_run_goes_on_with_its_bits(
    fault: Callable[[Rank], None], own: type[Exception], others: str
) -> None:
    def work(group: Any, fault: Any = None) -> Any:
        rank, error = Rank(group), None
        for step in range(STEPS):
            if step == FAILS and fault is not None:
                before, state = rank.told(), rank.opt._own.state_dict()
                try:
                    fault(rank) if rank.rank == 1 else rank.step(step)
                except Exception as raised:
                    error = raised
                if fault is ahead:  # all go back
                    rank.opt._own.load_state_dict(state)
                assert rank.told() == before
            rank.step(step)
        rank.opt.verify()
        return error, rank.told()

    expected = [told for _, told in on_ranks(WORLD, work)]
    found = on_ranks(WORLD, lambda group: work(group, fault))
    assert [told for _, told in found] == expected
    for rank, (error, _) in enumerate(found):
        assert type(error) is (own if rank == 1 else distributed.RankError), error
        assert rank == 1 or others in str(error)


def test_all_skip_where_one_leaf_has_nan() -> None:
    def work(group: Any) -> Any:
        rank = Rank(group)
        for step in range(STEPS):
            begin, end, _ = rank.opt.share
            leaves = iter(range(begin, end))

            def nan_in_leaf_4(loss: float, grads: Any, leaves: Any = leaves) -> Any:
                return loss, {**grads, "b": np.full(1, np.nan if next(leaves) == 4 else 1.0)}

            if step == FAILS:
                rank.calls = nan_in_leaf_4
            rank.step(step)
            vars(rank).pop("calls", None)
        rank.opt.verify()
        counts = rank.opt.steps_attempted, rank.opt.steps_applied, rank.opt.steps_skipped
        assert counts == (STEPS, STEPS - 1, 1)
        return plain([rank.params, rank.statistics.state_dict()])

    (expected,) = on_ranks(1, work)
    assert on_ranks(WORLD, work) == [expected] * WORLD


def test_what_a_rank_failed_with_is_told_where_nobody_comes_to_hear_it() -> None:
    def work(group: Any) -> None:
        if group.rank == 0:
            calls(fails)(Rank(group))

    error, _ = on_ranks(2, work, timeout=0.2)
    assert isinstance(error, distributed.RankTimeout)
    assert isinstance(error.__cause__, MemoryError)


PROGRAM = "runs.distributed_failure"
KILLS = (0.0, 0.03, 0.2, 0.5)  # seconds after the start


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("seconds", KILLS)
def test_the_others_end_where_a_process_of_mpi_is_killed(seconds: float) -> None:
    status, said, errors = processes.on_mpi(3, PROGRAM, "killed", str(seconds), seconds=60)
    assert status != 0
    assert said.count("started") >= 1, errors


@pytest.mark.parametrize(("fault", "seconds"), [("late", 30), ("gone", 0)])
def test_a_process_of_mpi_that_does_not_come_is_named(fault: str, seconds: int) -> None:
    begin = time.monotonic()
    status, said, errors = processes.on_mpi(3, PROGRAM, fault, str(seconds), seconds=60)
    assert status != 0
    assert time.monotonic() - begin < 25
    assert re.search(r"rank [02]: rank [02] waited 3 s for rank 1: go on from a checkpoint", said)
    assert re.search(r"then: rank [02]: an earlier exchange of this group did not end", said)
    assert "RankTimeout" in errors


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize(("fault", "seconds"), [("killed", 0.1), ("late", 5)])
def test_the_others_end_where_a_process_of_torch_does_not_come(fault: str, seconds: float) -> None:
    first, _, last = processes.on_gloo(3, PROGRAM, fault, str(seconds), seconds=90)
    reason = "waited 3 s for rank 1" if fault == "late" else "lost rank"
    for rank, (status, said, errors) in ((0, first), (2, last)):
        assert status not in (0, None), errors
        assert f"rank {rank}: rank {rank} {reason}" in said
        assert f"then: rank {rank}: an earlier exchange of this group did not end" in said


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals for one process")
def test_an_interrupt_of_a_wait_for_mpi_is_raised_at_once() -> None:
    begin = time.monotonic()
    status, said, errors = processes.on_mpi(2, PROGRAM, "interrupted", "30", seconds=60)
    assert status != 0
    assert time.monotonic() - begin < 25
    assert "rank 0: interrupted" in said, errors
    assert "then: rank 0: an earlier exchange of this group did not end" in said
