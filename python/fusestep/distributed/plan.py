"""What a step over several processes costs, on paper: bytes, seconds and memory of each rank.

python -m fusestep.distributed.plan --params 7e9 --ranks 1024 --link 100 --memory 100
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from .. import optim
from ..arguments import check_choice, check_number, check_positive, check_whole
from .groups import leaf_bounds
from .shards import bucket_count, bucket_ends, is_replicated, shard_bounds
from .tree import Sums, pieces

MOST_LEAVES = 4096


@dataclass(frozen=True)
class Job:
    """A step of some ranks, as `Sharded` does it.

    Args:
        params: elements of all parameters together.
        ranks: how many, at least 1.
        leaves: into how many parts a batch is cut, from ``ranks`` to 4096.
        itemsize: bytes of an element: 4 for float32, 8 for float64.
        states: arrays of state that the rule has, each of the size of the parameters: 2 for Adam.
        flat: whether the parameters come from `flatten`.
        shares: leaves of each rank; default even.
        memory: share of the state of each rank; default even.
        buckets: as of `Sharded`; default by their bytes.

    Raises:
        TypeError, ValueError: what `Sharded` refuses, too.

    Example:
        >>> from fusestep.distributed import plan
        >>> job = plan.Job(1_024_000_000, ranks=4, leaves=4)
        >>> plan.sent(job, 0)
        {'gradients': 3072000000, 'parameters': 3072000000}
        >>> plan.memory(job, 0)["state"]
        2048000000
    """

    params: int
    ranks: int
    leaves: int
    itemsize: int = 4
    states: int = 2
    flat: bool = True
    shares: Sequence[int] | None = None
    memory: Sequence[float] | None = None
    buckets: int | None = None

    def __post_init__(self) -> None:
        check_whole("params", self.params, 1)
        check_whole("ranks", self.ranks, 1)
        leaf_bounds(self.ranks, self.leaves, self.shares)
        shard_bounds(self.params, self.ranks, self.memory)
        if self.buckets is not None:
            check_whole("buckets", self.buckets, 1)

    @cached_property
    def is_replicated(self) -> bool:
        """Whether every rank updates everything."""
        return is_replicated(self.params * self.itemsize, self.ranks, self.memory)

    @cached_property
    def own_leaves(self) -> list[tuple[int, int]]:
        """Of each rank, its first leaf and the one after its last."""
        return list(pairwise(leaf_bounds(self.ranks, self.leaves, self.shares)))

    @cached_property
    def shards(self) -> list[int]:
        """Elements that each rank updates."""
        if self.is_replicated:
            return [self.params] * self.ranks
        bounds = shard_bounds(self.params, self.ranks, self.memory)
        return [end - begin for begin, end in pairwise(bounds)]

    @cached_property
    def parts(self) -> int:
        """Buckets of each shard."""
        if self.is_replicated or self.ranks == 1:
            return 1
        return self.buckets or bucket_count(max(self.shards) * self.itemsize)

    @cached_property
    def pieces(self) -> list[int]:
        """Partial sums that each rank sends, where every leaf has samples."""
        return [len(pieces(begin, end, self.leaves)) for begin, end in self.own_leaves]


@dataclass(frozen=True)
class _LeafSums:
    buffers: int  # at once
    written: int  # leaves whose gradients are the first of their buffer
    additions: int


def _leaf_sums(job: Job, rank: int) -> _LeafSums:
    """What adding a rank's leaves takes, counted by doing it without arrays."""
    buffers: list[int] = []
    additions = written = 0

    def new() -> int:
        buffers.append(len(buffers))
        return buffers[-1]

    def add(source: int, target: int) -> None:
        nonlocal additions
        additions += 1

    begin, end = job.own_leaves[rank]
    sums = Sums(begin, end, job.leaves, new, add)
    for _ in range(begin, end):
        buffer = sums.sibling()
        if buffer is None:
            buffer, written = sums.take(), written + 1
        else:
            additions += 1
        sums.put(buffer)
    return _LeafSums(len(buffers), written, additions)


def sent(job: Job, rank: int) -> dict[str, int]:
    """Bytes that leave a rank in a step.

    Gradients go straight to the owners of shards, and parameters from there to everyone; of a small
    model all gradients to everyone. Not
    counted: a message of 4 KB or some more to every other rank, and the sums of the norm, 16 KB at
    most and 8 bytes for each 2^20 elements of the shard.
    """
    shard = job.shards[rank]
    return {
        "gradients": job.itemsize * job.pieces[rank] * (sum(job.shards) - shard),
        "parameters": 0 if job.is_replicated else job.itemsize * (job.ranks - 1) * shard,
    }


def received(job: Job, rank: int) -> dict[str, int]:
    """Bytes that reach a rank in a step, with what `sent` leaves out left out."""
    others = sum(job.pieces) - job.pieces[rank]
    shard = job.shards[rank]
    return {
        "gradients": job.itemsize * others * shard,
        "parameters": job.itemsize * (job.params - shard),
    }


def memory(job: Job, rank: int) -> dict[str, int]:
    """Bytes that a rank's arrays hold, the user's parameters and gradients among them."""
    model, shard = job.itemsize * job.params, job.itemsize * job.shards[rank]
    ends = bucket_ends(job.shards[rank], job.parts)
    bucket = job.itemsize * max(end - begin for begin, end in pairwise([0, *ends]))
    others = sum(job.pieces) - job.pieces[rank]
    return {
        "parameters": model,
        "gradients": model,
        "sums of leaves": _leaf_sums(job, rank).buffers * model,
        "received pieces": others * bucket * min(2, job.parts),
        "gradient of the shard": 0 if job.ranks == 1 else shard,
        "state": job.states * shard,
        "staging": 0 if job.flat or job.ranks == 1 or job.is_replicated else model,
    }


def seconds(
    job: Job, rank: int, *, link: float, bandwidth: float, latency: float = 5e-6
) -> dict[str, float]:
    """Seconds of the parts of a rank's step, each for itself.

    Args:
        job: the step.
        rank: whose.
        link: bytes a second in each direction.
        bandwidth: bytes a second of the rank's memory.
        latency: seconds of a message.
    """
    out, into, leaves = sent(job, rank), received(job, rank), _leaf_sums(job, rank)
    model, shard = job.itemsize * job.params, job.itemsize * job.shards[rank]
    others = job.ranks - 1
    gathers = others * job.parts * (not job.is_replicated)
    copies = 0 if job.flat or not gathers else 2 * shard + 2 * model
    return {
        "sums of leaves": (2 * leaves.written + 3 * leaves.additions) * model / bandwidth,
        "gradients": max(out["gradients"], into["gradients"]) / link
        + latency * others * job.pieces[rank] * job.parts,
        "tree": (sum(job.pieces) + 1) * shard / bandwidth if others else 0,
        "norm": shard / bandwidth + latency * others * (not job.is_replicated),
        "update": (3 + 2 * job.states) * shard / bandwidth,
        "parameters": max(out["parameters"], into["parameters"]) / link + latency * gathers,
        "staging": copies / bandwidth,
    }


def overlapped(job: Job, parts: Mapping[str, float], *, clips: bool = True) -> float:
    """Seconds of a step whose parts are those of `seconds`, where buckets are added and updated
    while others move.

    With ``clips`` no bucket is updated before the norm of all is there; else none is taken.
    """

    def together(wire: float, work: float) -> float:
        return max(wire, work) + min(wire, work) / job.parts

    before, tree, update = parts["sums of leaves"], parts["tree"], parts["update"]
    out, back = parts["gradients"], parts["parameters"]
    if not clips:
        return before + together(out + back, tree + update) + parts["staging"]
    norm = parts["norm"]
    return before + together(out, tree) + norm + together(back, update) + parts["staging"]


def allreduce_seconds(job: Job, *, link: float, bandwidth: float, latency: float = 5e-6) -> float:
    """Seconds of the way without shards: a ring adds all gradients, and every rank updates all."""
    model, ring = job.itemsize * job.params, (job.ranks - 1) / job.ranks
    wire = 2 * (model * ring / link + latency * (job.ranks - 1))
    return wire + (3 * ring + 3 + 2 * job.states) * model / bandwidth


def possible_leaves(ranks: int) -> list[int]:
    """Numbers of leaves with which every rank has as many, and sends one piece: the first is best.

    More of them let more ranks take part later, and make each leaf a smaller part of the batch.

    Example:
        >>> from fusestep.distributed import plan
        >>> plan.possible_leaves(3)
        [3, 6, 12, 24, 48, 96]
    """
    check_whole("ranks", ranks, 1, MOST_LEAVES)
    return [ranks << k for k in range(6) if ranks << k <= MOST_LEAVES]


def states_of(rule: str, itemsize: int) -> int:
    """How many arrays of state a rule has, with its default settings."""
    known = [n for n in optim.__all__ if isinstance(getattr(optim, n), type) and n != "Optimizer"]
    param: Any = np.zeros(1024, f"f{itemsize}")
    made = getattr(optim, check_choice("--rule", rule, known))(param, lr=0.1)
    held: int = sum(array.nbytes for arrays in made.state.values() for array in arrays.values())
    return int(held // param.nbytes)


def table(job: Job, *, link: float, bandwidth: float, latency: float = 5e-6) -> str:
    """Everything of a job as text; of ranks that differ, the most of each part."""
    rates = {"link": link, "bandwidth": bandwidth, "latency": latency}
    ranks = _unlike(job)
    out, into, held, took = (
        {name: max(one[name] for one in found) for name in found[0]}
        for found in (
            [sent(job, r) for r in ranks],
            [received(job, r) for r in ranks],
            [memory(job, r) for r in ranks],
            [seconds(job, r, **rates) for r in ranks],
        )
    )
    lines = ["bytes of a step, each rank         out          in"]
    lines += [f"  {name:24}{size(out[name]):>11} {size(into[name]):>11}" for name in out]
    lines += ["", "memory of each rank"]
    lines += [f"  {name:24}{size(value):>11}" for name, value in held.items() if value]
    lines += [f"  {'together':24}{size(sum(held.values())):>11}"]
    if job.is_replicated:
        lines += ["", "so small that every rank updates everything, in one exchange"]
    lines += ["", "seconds of a step"]
    lines += [f"  {name:24}{value:>11.3g}" for name, value in took.items() if value]
    lines += [f"  {'one after the other':24}{sum(took.values()):>11.3g}"]
    if job.parts > 1:
        lines += [
            f"  {'overlapped':24}{overlapped(job, took):>11.3g}  {job.parts} buckets",
            f"  {'without a norm':24}{overlapped(job, took, clips=False):>11.3g}  no clipping, "
            "nonfinite or statistics",
        ]
    other = allreduce_seconds(job, **rates)
    lines += [f"  {'without shards':24}{other:>11.3g}  all-reduce, and all update everything"]
    return "\n".join([*lines, "", *_choices(job, rates)])


def _choices(job: Job, rates: dict[str, float]) -> list[str]:
    """What other numbers of leaves would cost, and `flatten`."""
    lines = ["leaves  each rank  pieces  sums of leaves  gradients out  seconds"]
    for leaves in sorted({*possible_leaves(job.ranks), job.leaves}):
        other = replace(job, leaves=leaves, shares=job.shares if leaves == job.leaves else None)
        counts = [end - begin for begin, end in other.own_leaves]
        each = f"{min(counts)}" if len({*counts}) == 1 else f"{min(counts)}-{max(counts)}"
        ranks = _unlike(other)
        took = max(overlapped(other, seconds(other, rank, **rates)) for rank in ranks)
        held = max(memory(other, rank)["sums of leaves"] for rank in ranks)
        out = max(sent(other, rank)["gradients"] for rank in ranks)
        mark = " <" if leaves == job.leaves else ""
        lines.append(
            f"{leaves:6}  {each:>9}  {max(other.pieces):6}  {size(held):>14}  {size(out):>13}"
            f"  {took:7.3g}{mark}"
        )
    lines += [
        "",
        f"leaves: {possible_leaves(job.ranks)[0]} if there are never more ranks than "
        f"{job.ranks}; a later row where there may be, and where it fits.",
        "More leaves than ranks cost passes over memory, and each gradient is that of fewer",
        "samples; leaves that are no power of two times the ranks make some send more.",
    ]
    if job.ranks > 1:
        apart = replace(job, flat=False)
        slower = max(seconds(apart, rank, **rates)["staging"] for rank in _unlike(apart))
        room = size(memory(apart, 0)["staging"])
        lines += [f"flatten: saves {room} of memory and {slower:.3g} s of a step."]
    return lines


def _unlike(job: Job) -> list[int]:
    """One rank of each kind."""
    found: dict[tuple[int, ...], int] = {}
    for rank, (begin, end) in enumerate(job.own_leaves):
        found.setdefault((job.shards[rank], job.pieces[rank], end - begin), rank)
    return list(found.values())


def size(count: float) -> str:
    """Bytes in decimal units, in three digits."""
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= 0.9995 * one:
            return f"{float(f'{count / one:.3g}'):g} {unit}"
    return f"{count:g} B"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fusestep.distributed.plan",
        description="What a step over several processes costs each of them, on paper.",
    )
    add = parser.add_argument
    add("--params", type=float, required=True, help="parameters of the model, as in 7e9")
    add("--ranks", type=int, required=True, help="processes")
    add("--link", type=float, required=True, help="Gb/s of a rank's network in each direction")
    add("--memory", type=float, required=True, help="GB/s of a rank's memory")
    add("--latency", type=float, default=5.0, help="microseconds of a message (default 5)")
    add("--leaves", type=int, help="parts of a batch (default: as many as ranks)")
    add("--rule", default="AdamW", help="class of optimizers (default AdamW)")
    add("--dtype", default="float32", choices=("float32", "float64"))
    add("--scattered", action="store_true", help="parameters are not from distributed.flatten")
    options = parser.parse_args(arguments)
    try:
        print(_answer(options))
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    return 0


def _answer(options: argparse.Namespace) -> str:
    params = round(check_number("--params", options.params, 1, 2**53))
    ranks = check_whole("--ranks", options.ranks, 1, MOST_LEAVES)
    itemsize = np.dtype(options.dtype).itemsize
    leaves = possible_leaves(ranks)[0] if options.leaves is None else options.leaves
    states = states_of(options.rule, itemsize)
    job = Job(params, ranks, leaves, itemsize, states, flat=not options.scattered)
    rates = {
        "link": check_positive("--link", options.link) * 1e9 / 8,
        "bandwidth": check_positive("--memory", options.memory) * 1e9,
        "latency": check_number("--latency", options.latency) * 1e-6,
    }
    return "\n".join(
        [
            f"{params:,} parameters, {options.dtype}, {options.rule}; {ranks} ranks, {leaves} "
            f"leaves; {options.link:g} Gb/s, {options.memory:g} GB/s of memory",
            "",
            table(job, **rates),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
