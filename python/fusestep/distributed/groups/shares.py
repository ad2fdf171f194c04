"""Which leaves of every batch are a rank's."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from ...arguments import check_positive, check_whole
from .protocol import Group


class Leaves(NamedTuple):
    """A rank's part of every batch: leaves ``begin`` to before ``end`` of ``leaves``."""

    begin: int
    end: int
    leaves: int


def share(group: Group, leaves: int, shares: Sequence[int] | None = None) -> Leaves:
    """A rank's part of every batch, for ``Loader(shard=...)``.

    Args:
        group: from `mpi`, `torch`, `threads` or `alone`.
        leaves: into how many parts a batch is cut.
        shares: how many of them each rank has; even where it is not given.

    Example:
        >>> from fusestep import distributed
        >>> distributed.share(distributed.alone(), 64)
        Leaves(begin=0, end=64, leaves=64)
    """
    bounds = leaf_bounds(group.world, leaves, shares)
    return Leaves(bounds[group.rank], bounds[group.rank + 1], leaves)


def balanced(group: Group, leaves: int, seconds_per_leaf: float, *, unit: int = 1) -> list[int]:
    """How many leaves each rank should have, so that the slowest ends first: for ``shares=``.

    All ranks call it, each with its own time.

    Args:
        group: as of `share`.
        leaves: into how many parts a batch is cut.
        seconds_per_leaf: what the gradients of one leaf take on this rank, above 0.
        unit: shares are multiples of this, which divides ``leaves``. A power of two keeps the
            number of partial sums small that a rank sends.

    Example:
        >>> from fusestep import distributed
        >>> distributed.balanced(distributed.alone(), 64, seconds_per_leaf=0.1)
        [64]
    """
    check_whole("leaves", leaves, 1, 4096)
    if leaves % check_whole("unit", unit, 1):
        raise ValueError(f"unit must divide leaves, which are {leaves}, not {unit}")
    own = struct.pack("<d", check_positive("seconds_per_leaf", seconds_per_leaf))
    seconds = [struct.unpack("<d", told)[0] for told in group.gather_bytes(own)]
    counts = [0] * group.world
    for _ in range(leaves // unit):
        counts[min(range(group.world), key=lambda rank: (counts[rank] + 1) * seconds[rank])] += 1
    return [count * unit for count in counts]


def leaf_bounds(world: int, leaves: int, shares: Sequence[int] | None) -> list[int]:
    """Where the leaves of each rank begin, and the last ones end."""
    check_whole("leaves", leaves, 1, 4096)
    if leaves < world:
        raise ValueError(f"leaves must be at least {world}, one for each rank, not {leaves}")
    if shares is None:
        return [leaves * rank // world for rank in range(world + 1)]
    counts = [check_whole(f"shares[{rank}]", count, 0) for rank, count in enumerate(shares)]
    if len(counts) != world or sum(counts) != leaves:
        raise ValueError(
            f"shares must be {world} numbers, one for each rank, whose sum is {leaves}, not "
            f"{list(shares)}"
        )
    return [sum(counts[:rank]) for rank in range(world + 1)]
