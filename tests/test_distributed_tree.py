"""The tree of leaves and the norm of shards do not depend on ranks."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import _core
from fusestep.distributed import norm
from fusestep.distributed.tree import ADD, Node, Sums, additions, pieces
from tables.ranks import level_by_level


@pytest.mark.parametrize("leaves", [*range(1, 34), 48, 63, 64, 65, 100])
def test_the_tree_is_the_same_however_leaves_are_shared(leaves: int) -> None:
    pick = random.Random(leaves)
    values = [np.float32(10.0 ** pick.randint(-3, 3) * pick.random()) for _ in range(leaves)]
    absent = {leaf for leaf in range(1, leaves) if pick.random() < 0.2}
    expected = level_by_level([None if i in absent else v for i, v in enumerate(values)])
    for world in {1, 2, 3, min(7, leaves), leaves}:
        bounds = sorted([0, leaves, *(pick.randint(0, leaves) for _ in range(world - 1))])
        nodes, sums = [], []
        for begin, end in pairwise(bounds):
            buffers: list[Any] = []
            adder = Sums(begin, end, leaves, *memory_of(buffers))
            for leaf in range(begin, end):
                if leaf in absent:
                    adder.put(None)
                    continue
                sibling = adder.sibling()
                buffer = adder.take() if sibling is None else sibling
                before = np.float32(0) if sibling is None else buffers[buffer]
                buffers[buffer] = values[leaf] if sibling is None else before + values[leaf]
                adder.put(buffer)
            found = adder.finish()
            wanted = pieces(begin, end, leaves)
            assert len(found) == len(wanted)
            for node, buffer in zip(wanted, found, strict=True):
                first, last = node.span(leaves)
                assert (buffer is None) == (set(range(first, last)) <= absent)
                if buffer is not None:
                    nodes.append(node)
                    sums.append(buffers[buffer])
            assert len(buffers) <= max(1, 2 * (end - begin).bit_length())
        stack: list[Any] = []
        for step in additions(nodes, leaves):
            stack.append(stack.pop(-2) + stack.pop() if step == ADD else sums[step])
        assert stack == [expected]


def memory_of(buffers: list[Any]) -> tuple[Callable[[], int], Callable[[int, int], None]]:
    def new() -> int:
        buffers.append(None)
        return len(buffers) - 1

    def add(source: int, target: int) -> None:
        buffers[target] = buffers[target] + buffers[source]

    return new, add


def test_a_rank_sends_one_piece_where_its_leaves_are_a_power_of_two() -> None:
    assert pieces(8, 16, 64) == [Node(3, 1)]
    assert pieces(0, 64, 64) == [Node(6, 0)]
    assert len(pieces(21, 42, 64)) == 5


@pytest.mark.parametrize("elements", [1, 1023, 1024, 1025, 5000, 2**20, 2**20 + 1, 2**21 + 5000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_norm_of_shards_has_the_bits_of_one_process(elements: int, dtype: type) -> None:
    rng = np.random.default_rng(elements)
    gradient = (rng.standard_normal(elements) * 10.0 ** rng.integers(-3, 4, elements)).astype(dtype)
    opt = fs.SGD(np.zeros(elements, dtype), lr=0.0, clip_norm=1.0)
    expected = opt.step(gradient).grad_norm
    blocks = -(-elements // _core.BLOCK)
    for world in (1, 2, 3, 5):
        cuts = np.sort(rng.integers(0, blocks + 1, world - 1)) * _core.BLOCK
        bounds = [0, *(min(int(cut), elements) for cut in cuts), elements]
        told = [
            norm.message(_core.block_sums(gradient[a:b]), a // _core.BLOCK)
            for a, b in pairwise(bounds)
        ]
        assert np.sqrt(norm.total(told, [*pairwise(bounds)], elements)) == expected
        assert sum(map(len, told)) <= 8 * (2 * 1024 * world + blocks // 1024)
