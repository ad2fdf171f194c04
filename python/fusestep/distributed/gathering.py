"""The parameters that every rank has updated, for all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .groups import Group, Message, Pending, Range
from .layout import Layout
from .levels import levels_of
from .places import Copies
from .shards import Shards

NUMBER = 8192  # of messages: above those of pieces
Messages = tuple[list[Message], list[Message]]  # to send and to receive


class Gathering:
    """Gives every rank all parameters, bucket by bucket.

    Those that lie end to end in one piece of memory move from there; others through a copy.
    """

    def __init__(
        self, group: Group, layout: Layout, leaf_bounds: Sequence[int], shards: Shards
    ) -> None:
        self._group, self._buckets = group, shards.buckets
        self._is_needed = group.world > 1 and not shards.is_replicated
        memory = layout.memory() if self._is_needed else None
        is_staged = self._is_needed and memory is None
        place = layout.place
        self._memory: Any = place.empty_host(layout.total, layout.dtype) if is_staged else memory
        # of a bucket: exchanges, each of which sends what the one before has brought
        self._moves: list[list[Messages]] = []
        if self._is_needed:
            levels = levels_of(group.rank, shards.factors, leaf_bounds, shards.ranges)
            everyone = range(group.world)
            self._moves = [
                [self._messages(one.ranks, one.ranges) for one in reversed(levels)]
                if len(levels) > 1
                else [self._messages(everyone, [shards.bucket(rank, k) for rank in everyone])]
                for k in range(shards.buckets)
            ]
        # of a bucket: its part of the copy from parameters here, and parameters of others from it
        self._ways: list[tuple[Copies, Copies]] = []
        if is_staged:
            for k in range(shards.buckets):
                pairs = [
                    layout.pairs(self._memory, *shards.bucket(rank, k))
                    for rank in range(group.world)
                ]
                own = pairs.pop(group.rank)
                others = [pair for some in pairs for pair in some]
                self._ways.append((place.outwards(own), place.inwards(others)))
        self._under_way: list[Pending] = []

    def start(self, k: int) -> None:
        """Sends a bucket of this rank's parameters, and receives those of the others."""
        if not self._is_needed:
            return
        if self._ways:
            self._ways[k][0].apply()
        for sends, receives in self._moves[k]:
            if len(self._moves[k]) > 1:
                self._wait()
            self._under_way.append(self._group.start(sends, receives))

    def finish(self) -> None:
        """Waits for all buckets."""
        self._wait()
        for _, into in self._ways:
            into.apply()

    def _wait(self) -> None:
        while self._under_way:
            self._under_way.pop(0).finish()

    def _messages(self, ranks: Sequence[int], ranges: Sequence[Range]) -> Messages:
        """This rank's range for some ranks, and theirs."""
        parts = {r: self._memory[slice(*span)] for r, span in zip(ranks, ranges, strict=True)}
        own = parts.pop(self._group.rank)
        sends = [(rank, NUMBER, own) for rank in parts]
        return sends, [(rank, NUMBER, part) for rank, part in parts.items()]

    def run(self) -> None:
        """Gathers everything."""
        for k in range(self._buckets):
            self.start(k)
        self.finish()
