"""The gradient of a shard, added from the pieces of all ranks, and the norm of all shards."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .. import _core
from . import norm
from .groups import Group
from .header import Header
from .layout import Layout
from .tree import additions, pieces


class Reduction:
    """Moves pieces to the owners of shards, who add them along the tree.

    ``gradient`` is that of this rank's shard, times all samples. Memory is kept from step to step.
    """

    def __init__(
        self, group: Group, layout: Layout, leaf_bounds: Sequence[int], bounds: Sequence[int]
    ) -> None:
        self._group, self._layout = group, layout
        self._leaf_bounds, self._bounds = leaf_bounds, bounds
        self._leaves = leaf_bounds[-1]
        self._nodes = [pieces(a, b, self._leaves) for a, b in pairwise(leaf_bounds)]
        self._begin, self._end = bounds[group.rank : group.rank + 2]
        self._received: dict[tuple[int, int], Any] = {}  # by rank and piece
        self._filled: list[bool] = []  # of each leaf, whether it had samples at the last step
        self.gradient = np.empty(self._end - self._begin, layout.dtype)

    def add(self, own: Sequence[Any], heard: Sequence[Header]) -> None:
        """Adds the pieces of all ranks; ``own`` are this one's, over all elements."""
        group, bounds = self._group, self._bounds
        filled = [samples > 0 for one in heard for samples, _, _ in one.leaves]
        if filled != self._filled:
            self._filled = filled
            self._places, self._program = self._planned(filled)
        sends = [
            (rank, k, piece[bounds[rank] : bounds[rank + 1]])
            for rank in range(group.world)
            if rank != group.rank and bounds[rank] < bounds[rank + 1]
            for k, piece in enumerate(own)
            if piece is not None
        ]
        sources: list[Any] = []
        receives = []
        for rank, k in self._places:
            if rank == group.rank:
                sources.append(own[k][self._begin : self._end])
            else:
                sources.append(self._room(rank, k))
                if self.gradient.size:
                    receives.append((rank, k, sources[-1]))
        group.exchange(sends, receives)
        _core.add_arrays(sources, self._program, self.gradient)

    def squared_norm(self) -> tuple[float, float]:
        """The sum of squares over all ranks' gradients, and the power of two they are times."""
        total = self._norm_scaled_by(1.0)
        # squares of float32 stay far inside the range of double
        scale = _core.scale_for(total) if self._layout.dtype == np.float64 else 1.0
        return (total if scale == 1.0 else self._norm_scaled_by(scale)), scale

    def _planned(self, filled: Sequence[bool]) -> tuple[list[tuple[int, int]], list[int]]:
        """Rank and place of the pieces that have samples, from left to right, and their sum."""
        present = [
            (rank, k, node)
            for rank, nodes in enumerate(self._nodes)
            for k, node in enumerate(nodes)
            if any(filled[slice(*node.span(self._leaves))])
        ]
        nodes = [node for _, _, node in present]
        return [(rank, k) for rank, k, _ in present], additions(nodes, self._leaves)

    def _room(self, rank: int, piece: int) -> Any:
        if (rank, piece) not in self._received:
            self._received[rank, piece] = np.empty_like(self.gradient)
        return self._received[rank, piece]

    def _norm_scaled_by(self, scale: float) -> float:
        sums = _core.block_sums(self.gradient, scale)
        told = self._group.gather_bytes(norm.message(sums, self._begin // _core.BLOCK))
        return norm.total(told, self._bounds, self._layout.total)
