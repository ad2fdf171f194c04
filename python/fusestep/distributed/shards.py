"""What of the index space each rank updates, and in which order it moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

from .. import _core
from ..arguments import check_whole
from ..optim import Optimizer
from .groups import Range
from .layout import Layout
from .levels import order_of

# bytes of the parameters of all ranks together up to which every rank updates all: one exchange in
# place of three or four, each of which takes a network's latency. On one machine both take as long.
REPLICATED = 1 << 20
# bytes of a shard that move together while others are added and updated
BUCKET = 1 << 24
_SUMMING = ("cautious", "update_clip", "agc")  # settings with which a rule sums over arrays


class Shards:
    """The ranges of all ranks, and the buckets in which they move.

    Attributes:
        is_replicated: whether every rank updates everything.
        ranges: what each rank updates; each begins at a block of the norm, so that its sums are
            those of one process, or at an array.
        added: of which elements each rank has the gradient: to the end of the last block.
        measured: whose squares each rank adds up: whole blocks.
        saved: what each rank saves.
        factors: of the ranks, on each level of an exchange.
        ends: of each rank where its buckets end, counted from the beginning of its range.
    """

    def __init__(
        self,
        layout: Layout,
        world: int,
        memory: Sequence[float] | None,
        *,
        whole: bool,
        buckets: int | None,
        factors: Sequence[int],
    ) -> None:
        """``whole``: no array is cut. ``buckets``: how many; by their bytes where not given."""
        total, itemsize = layout.total, layout.dtype.itemsize
        self.is_replicated = is_replicated(total * itemsize, world, memory)
        if self.is_replicated:
            self.ranges = self.added = [(0, total)] * world
            self.saved = [(0, total), *[(total, total)] * (world - 1)]
        else:
            order = order_of(world, factors)
            bounds = shard_bounds(total, world, memory, order)
            if whole:
                bounds = [min(layout.begins, key=lambda at: abs(at - bound)) for bound in bounds]
            cuts = list(pairwise(bounds))
            self.saved = self.ranges = [cuts[place] for place in order]
            self.added = [(begin, _up(end, total)) for begin, end in self.ranges]
        self.measured = [(min(end, _up(begin, total)), end) for begin, end in self.added]
        self.factors = [world] if self.is_replicated else factors
        sizes = [end - begin for begin, end in self.ranges]
        if buckets is None:
            buckets = bucket_count(max(sizes) * itemsize)
        else:
            check_whole("buckets", buckets, 1)
        is_one = self.is_replicated or world == 1 or len(self.factors) > 1
        self.buckets = 1 if is_one else buckets
        self.ends = [bucket_ends(size, self.buckets) for size in sizes]

    def bucket(self, rank: int, k: int) -> Range:
        """A bucket of a rank's range."""
        begin, ends = self.ranges[rank][0], self.ends[rank]
        return begin + (ends[k - 1] if k else 0), begin + ends[k]

    def bucket_added(self, rank: int, k: int) -> Range:
        """Of which elements the rank has the gradient with a bucket."""
        begin, end = self.bucket(rank, k)
        return begin, self.added[rank][1] if k == self.buckets - 1 else end


def shard_bounds(
    total: int, world: int, memory: Sequence[float] | None, order: Sequence[int] | None = None
) -> list[int]:
    """Where shards of some elements begin, and the last ends: even, or as ``memory`` says.

    They begin at blocks of the norm, and come in the order of ranks where none is given.
    """
    given = [1.0] * world if memory is None else list(map(float, memory))
    if len(given) != world or not min(given) >= 0 or not 0 < sum(given) < math.inf:
        raise ValueError(f"memory must be {world} numbers of at least 0, not all 0, not {given}")
    if order is not None:
        given = [given[order.index(place)] for place in range(world)]
    blocks = -(-total // _core.BLOCK)
    shares = [0.0, *accumulate(given)]
    bounds = [min(total, _core.BLOCK * int(blocks * s / shares[-1] + 1e-9)) for s in shares]
    bounds[-1] = total
    return bounds


def is_replicated(size: int, world: int, memory: Sequence[float] | None) -> bool:
    """Whether every rank updates all of parameters of so many bytes."""
    return memory is None and world > 1 and size * world <= REPLICATED


def bucket_count(size: int) -> int:
    """Into how many buckets the largest shard, of so many bytes, is cut."""
    return max(1, -(-size // BUCKET))


def bucket_ends(size: int, buckets: int) -> list[int]:
    """Where buckets of some elements end: at blocks, the last at their end."""
    blocks = -(-size // _core.BLOCK)
    return [min(size, _core.BLOCK * (blocks * (k + 1) // buckets)) for k in range(buckets)]


def sums_over_arrays(optimizer: Optimizer) -> bool:
    """Whether an update needs sums over single arrays, which must not be cut then."""
    settings = optimizer._settings
    if any(value for place, value in settings.values.items() if place.name in _SUMMING):
        return True
    # others of these rules sum with such a setting alone
    has_setting = any(name in settings.rule.fields for name in _SUMMING[:2])
    return _core.rules()[settings.rule.name].sums > 0 and not has_setting


def _up(element: int, total: int) -> int:
    """The end of the block that begins before an element."""
    return min(total, -(-element // _core.BLOCK) * _core.BLOCK)
