"""What a step is said to cost is what it costs: bytes and memory are counted in runs."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import distributed
from fusestep.distributed import plan
from fusestep.distributed.gathering import NUMBER
from fusestep.distributed.tree import pieces

ELEMENTS = 5 * 1024 * 100 + 77

JOBS = [
    plan.Job(ELEMENTS, ranks=1, leaves=1),
    plan.Job(ELEMENTS, ranks=1, leaves=5, flat=False),
    plan.Job(ELEMENTS, ranks=2, leaves=2),
    plan.Job(ELEMENTS, ranks=3, leaves=16, flat=False),
    plan.Job(ELEMENTS, ranks=4, leaves=16, itemsize=8),
    plan.Job(ELEMENTS, ranks=3, leaves=16, shares=[11, 4, 1], memory=[5, 1, 0]),
    plan.Job(ELEMENTS, ranks=3, leaves=9, shares=[9, 0, 0], states=1),
    plan.Job(ELEMENTS, ranks=2, leaves=2, buckets=3),
    plan.Job(ELEMENTS, ranks=3, leaves=12, buckets=4, flat=False),
    plan.Job(87_000, ranks=3, leaves=6, flat=False),
    plan.Job(900, ranks=3, leaves=3),
]
RULES = {1: (fs.SGD, {"momentum": 0.9}), 2: (fs.AdamW, {})}


class Counting:
    """A group of another, with the bytes that pass through it."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self.rank, self.world = group.rank, group.world
        self.sent: dict[str, int] = {}
        self.received: dict[str, int] = {}

    def gather_bytes(
        self, mine: bytes, sends: Sequence[Any] = (), receives: Sequence[Any] = ()
    ) -> list[bytes]:
        self._count(sends, receives)
        found: list[bytes] = self._group.gather_bytes(mine, sends, receives)
        return found

    def start(self, sends: Sequence[Any], receives: Sequence[Any]) -> Any:
        self._count(sends, receives)
        return self._group.start(sends, receives)

    def _count(self, sends: Sequence[Any], receives: Sequence[Any]) -> None:
        for counts, messages in ((self.sent, sends), (self.received, receives)):
            for _, number, array in messages:
                kind = "parameters" if number == NUMBER else "gradients"
                counts[kind] = counts.get(kind, 0) + array.nbytes


def stepped(job: plan.Job) -> list[tuple[Counting, distributed.Sharded, Any, Any]]:
    """Every rank of a job after two steps."""
    ranks = distributed.threads(job.ranks) if job.ranks > 1 else [distributed.alone()]
    found: list[Any] = [None] * job.ranks
    rule, settings = RULES[job.states]

    def run(group: Counting) -> None:
        sizes = [job.params // 3, 0, job.params - job.params // 3]
        params = {str(k): np.zeros(size, f"f{job.itemsize}") for k, size in enumerate(sizes)}
        if job.flat:
            params = distributed.flatten(params)
        grads = {path: np.ones_like(array) for path, array in params.items()}
        opt = distributed.Sharded(
            rule,
            params,
            group=group,
            leaves=job.leaves,
            shares=job.shares,
            memory=job.memory,
            buckets=job.buckets,
            lr=0.1,
            clip_norm=1.0,
            **settings,
        )
        for _ in range(2):
            group.sent, group.received = {}, {}
            for _ in range(opt.share.begin, opt.share.end):
                opt.accumulate(grads, samples=1)
            opt.step()
        found[group.rank] = group, opt, params, grads

    threads = [threading.Thread(target=run, args=(Counting(group),)) for group in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("job", JOBS, ids=range(len(JOBS)))
def test_the_bytes_of_a_plan_are_those_that_a_group_counts(job: plan.Job) -> None:
    for rank, (group, *_) in enumerate(stepped(job)):
        nothing = {"gradients": 0, "parameters": 0}
        assert plan.sent(job, rank) == nothing | group.sent
        assert plan.received(job, rank) == nothing | group.received


@pytest.mark.parametrize("job", JOBS[:-1], ids=range(len(JOBS) - 1))
def test_the_memory_of_a_plan_is_that_of_the_arrays(job: plan.Job) -> None:
    stepped(job)  # what is imported and kept once
    tracemalloc.start()
    try:
        ranks = stepped(job)
        gc.collect()
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    parts = [plan.memory(job, rank) for rank in range(len(ranks))]
    objects = 80_000 * len(ranks)  # beside arrays: less than the smallest of them
    assert objects < min(size for one in parts for size in one.values() if size)
    planned = sum(sum(one.values()) for one in parts)
    assert planned <= used <= planned + objects


def test_ranks_send_the_pieces_of_the_tree() -> None:
    for ranks in range(1, 20):
        for leaves in (ranks, 24, 64, 100):
            job = plan.Job(10**6, ranks=ranks, leaves=leaves)
            cuts = [leaves * rank // ranks for rank in range(ranks + 1)]
            assert job.pieces == [len(pieces(a, b, leaves)) for a, b in pairwise(cuts)]
        assert all(
            max(plan.Job(10**6, ranks=ranks, leaves=leaves).pieces) == 1
            for leaves in plan.possible_leaves(ranks)
        )


def test_seconds_are_bytes_over_rates() -> None:
    job = plan.Job(4 * 1024 * 1000, ranks=4, leaves=4)
    found = plan.seconds(job, 0, link=1e6, bandwidth=1e7, latency=1e-3)
    megabytes = 4 * 4 * 1024 * 1000 / 1e6  # of all parameters
    assert found == pytest.approx(
        {
            "sums of leaves": 2 * megabytes / 10,
            "gradients": 0.75 * megabytes + 3e-3,
            "tree": 5 / 4 * megabytes / 10,
            "norm": megabytes / 4 / 10 + 3e-3,
            "update": 7 / 4 * megabytes / 10,
            "parameters": 0.75 * megabytes + 3e-3,
            "staging": 0,
        },
        rel=1e-12,
    )
    one = plan.seconds(plan.Job(10**6, ranks=1, leaves=8), 0, link=1.0, bandwidth=1e9)
    assert one["gradients"] == one["parameters"] == 0
    # of 8 leaves 4 are written into buffers, and 7 additions make the sum
    assert one["sums of leaves"] == pytest.approx((2 * 4 + 3 * 7) * 4e6 / 1e9, rel=1e-12)
    whole = plan.allreduce_seconds(job, link=1e6, bandwidth=1e7, latency=0)
    assert whole == pytest.approx(1.5 * megabytes + (2.25 + 7) * megabytes / 10, rel=1e-12)


def test_what_overlaps_takes_the_longer_of_both_and_a_bucket_of_the_other() -> None:
    parts = {"sums of leaves": 1.0, "gradients": 8.0, "tree": 4.0, "norm": 0.5}
    parts |= {"update": 6.0, "parameters": 8.0, "staging": 2.0}
    job = plan.Job(4 * 1024 * 1000, ranks=4, leaves=4, buckets=2)
    assert plan.overlapped(job, parts) == 1 + (8 + 4 / 2) + 0.5 + (8 + 6 / 2) + 2
    assert plan.overlapped(job, parts, clips=False) == 1 + (16 + 10 / 2) + 2
    one = plan.Job(4 * 1024 * 1000, ranks=4, leaves=4, buckets=1)
    assert plan.overlapped(one, parts) == sum(parts.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"params": 0}, "params must be at least 1, not 0"),
        ({"ranks": 0}, "ranks must be at least 1, not 0"),
        ({"leaves": 3}, "leaves must be at least 4"),
        ({"shares": [4]}, "shares must be 4 numbers"),
        ({"buckets": 0}, "buckets must be at least 1"),
        ({"memory": [0, 0, 0, 0]}, "memory must be 4 numbers of at least 0, not all 0"),
    ],
    ids=str,
)
def test_a_job_that_can_not_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan.Job(**{"params": 10**6, "ranks": 4, "leaves": 4, **options})


def test_the_command_line_prints_a_plan() -> None:
    command = [sys.executable, "-W", "error", "-m", "fusestep.distributed.plan"]
    options = ["--params", "7e9", "--ranks", "1024", "--link", "100", "--memory", "100"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("7,000,000,000 parameters, float32, AdamW; 1024 ranks, 1024 lea")
    assert "  gradients                     28 GB       28 GB\n" in done.stdout
    assert "  state                       54.7 MB\n" in done.stdout


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"params": "0"}, "--params must be in [1,"),
        ({"ranks": "0"}, "--ranks must be at least 1"),
        ({"link": "0"}, "--link must be greater than 0"),
        ({"memory": "-1"}, "--memory must be finite and at least 0"),
        ({"latency": "nan"}, "--latency must be"),
        ({"leaves": "2"}, "leaves must be at least 4"),
        ({"rule": "Adan"}, "--rule must be one of"),
    ],
    ids=str,
)
def test_an_error_of_the_command_line_names_the_option(
    changed: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"params": "1e6", "ranks": "4", "link": "10", "memory": "50", **changed}
    with pytest.raises(SystemExit):
        plan.main([text for name, value in options.items() for text in (f"--{name}", value)])
    assert message in capsys.readouterr().err


def test_every_rule_that_shards_can_have_is_planned() -> None:
    held = {rule: plan.states_of(rule, 4) for rule in ("SGD", "Lion", "AdamW", "AdEMAMix")}
    assert held == {"SGD": 0, "Lion": 1, "AdamW": 2, "AdEMAMix": 3}
