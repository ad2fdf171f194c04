"""The levels of an exchange: with which ranks each rank exchanges what, one level after the other.

Ranks are numbers of several digits, the first of which counts fastest. On each level a rank
exchanges with those that differ from it in that digit alone, and keeps a part of its range. Ranks
beside each other have neighbouring leaves, so what has been added after a level is a node of the
tree: sums have the same bits with any levels. Each of ``f1 * f2 * ...`` ranks sends
``f1 - 1 + f2 - 1 + ...`` messages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ..arguments import check_whole
from .groups import Range
from .tree import Node, pieces


class Level(NamedTuple):
    """Of a rank, on one level: those it exchanges with, itself among them, in order.

    Each has the nodes of what it brings, and keeps a range of the elements.
    """

    ranks: list[int]
    nodes: list[list[Node]]
    ranges: list[Range]


def order_of(world: int, factors: Sequence[int]) -> list[int]:
    """The place of each rank's shard among all: so that what a level keeps is in one piece."""
    places = []
    for rank in range(world):
        place, room = 0, world
        for factor in factors:
            rank, digit = divmod(rank, factor)
            room //= factor
            place += digit * room
        places.append(place)
    return places


def levels_of(
    rank: int, factors: Sequence[int], leaf_bounds: Sequence[int], ranges: Sequence[Range]
) -> list[Level]:
    """All levels of a rank; ``ranges`` are the shards of all ranks."""
    found, stride = [], 1
    for factor in factors:
        first = rank - rank // stride % factor * stride
        ranks = [first + digit * stride for digit in range(factor)]
        blocks = [one - one % stride for one in ranks]  # each adds those from here on
        nodes = [
            pieces(leaf_bounds[block], leaf_bounds[block + stride], leaf_bounds[-1])
            for block in blocks
        ]
        stride *= factor
        kept = [[ranges[r] for r in range(one % stride, len(ranges), stride)] for one in ranks]
        ends = [
            (min(begin for begin, _ in shards), max(end for _, end in shards)) for shards in kept
        ]
        found.append(Level(ranks, nodes, ends))
    return found


def check_levels(levels: Sequence[int] | None, leaf_bounds: Sequence[int]) -> list[int]:
    """The factors of the ranks; raises ValueError where sums between levels are no nodes."""
    world = len(leaf_bounds) - 1
    if levels is None:
        return [world]
    factors = [check_whole(f"levels[{k}]", factor, 1) for k, factor in enumerate(levels)]
    if not factors or math.prod(factors) != world:
        raise ValueError(f"levels must be whole numbers whose product is {world}, not {levels!r}")
    stride = 1
    for factor in factors[:-1]:
        stride *= factor
        for first in range(0, world, stride):
            begin, end = leaf_bounds[first], leaf_bounds[first + stride]
            if len(pieces(begin, end, leaf_bounds[-1])) > 1:
                raise ValueError(
                    f"levels={list(levels)}: leaves {begin} to {end}, which ranks {first} to "
                    f"{first + stride - 1} add, are no single part of the tree: all factors but "
                    "the last must be powers of two, and so must be the leaves of a rank"
                )
    return factors
