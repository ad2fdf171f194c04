"""The parameters that every rank has updated, for all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .groups import Group, Pending, Range
from .layout import Layout
from .levels import Level
from .places import Copies
from .shards import Shards

NUMBER = 8192  # of messages: above those of pieces


class Gathering:
    """Gives every rank all parameters, bucket by bucket.

    Those that lie end to end in one piece of memory move from there; others through a copy.
    """

    def __init__(
        self, group: Group, layout: Layout, shards: Shards, levels: Sequence[Level]
    ) -> None:
        self._group, self._shards, self._levels = group, shards, levels
        self._is_needed = group.world > 1 and not shards.is_replicated
        memory = layout.memory() if self._is_needed else None
        is_staged = self._is_needed and memory is None
        place = layout.place
        self._memory: Any = place.empty_host(layout.total, layout.dtype) if is_staged else memory
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
        if len(self._levels) == 1:
            ranges = [self._shards.bucket(rank, k) for rank in range(self._group.world)]
            self._under_way.append(self._moving(range(self._group.world), ranges))
            return
        for level in reversed(self._levels):  # each sends what the one before has brought
            self._moving(level.ranks, level.ranges).finish()

    def finish(self) -> None:
        """Waits for all buckets."""
        under_way, self._under_way = self._under_way, []
        for bucket in under_way:
            bucket.finish()
        for _, into in self._ways:
            into.apply()

    def _moving(self, ranks: Sequence[int], ranges: Sequence[Range]) -> Pending:
        """Sends this rank's range to some ranks, and receives theirs."""
        parts = {r: self._memory[slice(*span)] for r, span in zip(ranks, ranges, strict=True)}
        own = parts.pop(self._group.rank)
        sends = [(rank, NUMBER, own) for rank in parts]
        return self._group.start(sends, [(rank, NUMBER, part) for rank, part in parts.items()])

    def run(self) -> None:
        """Gathers everything."""
        for k in range(self._shards.buckets):
            self.start(k)
        self.finish()
