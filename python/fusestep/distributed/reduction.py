"""The gradient of a shard, added from the pieces of all ranks, and the norm of all shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from .. import _core
from . import norm
from .groups import Group, Message, Pending, Range
from .header import Header
from .layout import Layout
from .levels import Level, levels_of
from .shards import Shards
from .tree import additions


class Reduction:
    """Moves pieces to the owners of shards, who add them along the tree, on one level or several.

    Memory is kept from step to step.
    """

    def __init__(
        self,
        group: Group,
        layout: Layout,
        leaf_bounds: Sequence[int],
        shards: Shards,
    ) -> None:
        self._group, self._layout, self._shards = group, layout, shards
        self._leaves = leaf_bounds[-1]
        self._levels = levels_of(group.rank, shards.factors, leaf_bounds, shards.added)
        self._begin, _ = shards.added[group.rank]
        self._received: dict[tuple[int, int, int, int], Any] = {}  # by level, place and turn
        self._filled: list[bool] = []  # of each leaf, whether it had samples at the last step
        self._own: Sequence[Any] = ()
        self._has_arrived = False
        kept = [level.ranges[level.ranks.index(group.rank)] for level in self._levels]
        self._begins = [0, *(begin for begin, _ in kept)]
        self._sums = [
            layout.place.empty_host(end - begin if group.world > 1 else 0, layout.dtype)
            for begin, end in kept
        ]
        # beside the parameters
        self._gradient: Any = self._sums[-1]
        if not layout.place.is_host:
            self._gradient = layout.place.empty(self._sums[-1].size, layout.dtype)
        self._views: dict[int, list[Any]] = {}

    @property
    def gradient(self) -> list[Any]:
        """The gradient of this rank's shard, times all samples: an array for each parameter."""
        # of one rank its own sum, to which nothing is added
        memory = self._own[0] if self._group.world == 1 else self._gradient
        if id(memory) not in self._views:
            views = self._layout.views(*self._shards.ranges[self._group.rank]).values()
            ends = [*accumulate(view.size for view in views)]
            self._views[id(memory)] = [
                memory[end - view.size : end].reshape(view.shape)
                for view, end in zip(views, ends, strict=True)
            ]
        return self._views[id(memory)]

    def beside(self, own: Sequence[Any]) -> tuple[list[Message], list[Message]]:
        """What moves beside headers, before they tell which leaves have samples: every piece."""
        (level,) = self._levels
        anything = self._sums[0]
        sends: list[Message] = []
        receives: list[Message] = []
        for rank, nodes in zip(level.ranks, level.nodes, strict=True):
            if rank != self._group.rank:
                mine = (anything if piece is None else piece for piece in own)
                sends += [(rank, k, piece) for k, piece in enumerate(mine)]
                receives += [(rank, k, self._room(0, (rank, k), 0)) for k in range(len(nodes))]
        return sends, receives

    def plan(self, own: Sequence[Any], heard: Sequence[Header], has_arrived: bool) -> None:
        """Decides what is added in this step; ``has_arrived``: it moved beside the headers."""
        filled = [samples > 0 for one in heard for samples, _, _ in one.leaves]
        if filled != self._filled:
            self._filled = filled
            self._planned = [self._additions(level, filled) for level in self._levels]
        self._own, self._has_arrived = own, has_arrived
        self._measure_anew()

    def arriving(self, measures: bool) -> Iterator[int]:
        """Adds bucket after bucket, while the next is under way; gives where each one ends."""
        if self._group.world == 1:
            yield self._shards.ends[0][0]
            return
        mine, last = self._own, len(self._levels) - 1
        for level in range(last):
            self._start(level, mine, 0).finish()
            self._add(level, mine, 0)
            mine = [self._sums[level] if self._planned[level][0] else None]
        buckets = 0 if self._has_arrived else self._shards.buckets
        under_way = [self._start(last, mine, 0)] if buckets else []
        for k, end in enumerate(self._shards.ends[self._group.rank]):
            if k + 1 < buckets:
                under_way.append(self._start(last, mine, k + 1))
            if buckets:
                under_way.pop(0).finish()
            self._add(last, mine, k)
            if measures:
                self._measure(self._shards.bucket_added(self._group.rank, k)[1])
            if not self._layout.place.is_host:
                begin = self._shards.ends[self._group.rank][k - 1] if k else 0
                self._gradient[begin:end].set(self._sums[-1][begin:end])
            yield end

    def _start(self, level: int, mine: Sequence[Any], k: int) -> Pending:
        """Begins to move a bucket of what a level adds."""
        sends: list[Message] = []
        receives: list[Message] = []
        for i, rank in enumerate(self._levels[level].ranks):
            begin, end = self._span(level, i, k)
            if begin == end:
                continue
            if rank != self._group.rank:
                first = self._begins[level]
                sends += [
                    (rank, number, piece[begin - first : end - first])
                    for number, piece in enumerate(mine)
                    if piece is not None
                ]
                continue
            receives = [
                (*place, self._room(level, place, k)[: end - begin])
                for place in self._planned[level][0]
                if place[0] != rank
            ]
        return self._group.start(sends, receives)

    def _add(self, level: int, mine: Sequence[Any], k: int) -> None:
        """Adds a bucket that has arrived."""
        own = self._group.rank
        begin, end = self._span(level, self._levels[level].ranks.index(own), k)
        places, program = self._planned[level]
        if not places:
            return
        first, start = self._begins[level], self._begins[level + 1]
        sources = [
            mine[number][begin - first : end - first]
            if rank == own
            else self._room(level, (rank, number), k)[: end - begin]
            for rank, number in places
        ]
        _core.add_arrays(sources, program, self._sums[level][begin - start : end - start])

    def _span(self, level: int, i: int, k: int) -> Range:
        """What a rank of a level keeps of a bucket; with several levels there is one bucket."""
        found = self._levels[level]
        if len(self._levels) > 1:
            return found.ranges[i]
        return self._shards.bucket_added(found.ranks[i], k)

    def squared_norm(self) -> tuple[float, float]:
        """The sum of squares over all ranks' gradients, and the power of two they are times."""
        total = self._sum_of_squares()
        # squares of float32 stay far inside the range of double
        scale = _core.scale_for(total) if self._layout.dtype == np.float64 else 1.0
        if scale == 1.0:
            return total, scale
        self._measure_anew()
        self._measure(self._shards.added[self._group.rank][1], scale)
        return self._sum_of_squares(), scale

    def _measure_anew(self) -> None:
        self._squares: list[Any] = [np.empty(0)]
        self._measured, _ = self._shards.measured[self._group.rank]

    def _measure(self, end: int, scale: float = 1.0) -> None:
        """Squares of whole blocks to ``end``; those before are there."""
        if end < self._layout.total:
            end -= end % _core.BLOCK
        if end > self._measured:
            part = self._sums[-1][self._measured - self._begin : end - self._begin]
            self._squares.append(_core.block_sums(part, scale))
            self._measured = end

    def _sum_of_squares(self) -> float:
        sums = np.concatenate(self._squares)
        if self._shards.is_replicated:
            return float(_core.add_block_sums(sums))
        measured = self._shards.measured
        begin, _ = measured[self._group.rank]
        told = self._group.gather_bytes(norm.message(sums, begin // _core.BLOCK))
        return norm.total(told, measured, self._layout.total)

    def _additions(
        self, level: Level, filled: Sequence[bool]
    ) -> tuple[list[tuple[int, int]], list[int]]:
        """Rank and place of what has samples, from left to right, and their sum."""
        present = [
            (rank, k, node)
            for rank, nodes in zip(level.ranks, level.nodes, strict=True)
            for k, node in enumerate(nodes)
            if any(filled[slice(*node.span(self._leaves))])
        ]
        nodes = [node for _, _, node in present]
        program = additions(nodes, self._leaves) if nodes else []
        return [(rank, k) for rank, k, _ in present], program

    def _room(self, level: int, place: tuple[int, int], k: int) -> Any:
        """Where a piece of a bucket is received: of two buckets in turn."""
        key = (level, *place, k % 2)
        if key not in self._received:
            own = self._levels[level].ranks.index(self._group.rank)
            spans = [self._span(level, own, i) for i in range(self._shards.buckets)]
            most = max(end - begin for begin, end in spans)
            self._received[key] = self._layout.place.empty_host(most, self._layout.dtype)
        return self._received[key]
