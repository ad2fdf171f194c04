"""Calls of a group whose answers are known: ``python -m runs.group_calls mpi``."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import numpy as np

from fusestep import distributed
from runs.connected import connected


def check(group: distributed.Group) -> str:
    rank, world = group.rank, group.world
    for length in (0, 1, 4087, 4088, 4089, 100_000):  # a box holds 4088
        told = group.gather_bytes(bytes([rank]) * (length * (rank + 1) // world))
        assert told == [bytes([r]) * (length * (r + 1) // world) for r in range(world)]
    for dtype in (np.float32, np.float64):
        for bounds in shards(world):
            expected = np.random.default_rng(3).standard_normal(bounds[-1]).astype(dtype)
            memory = np.full_like(expected, np.nan)
            ranges = [*pairwise(bounds)]
            own = slice(*ranges[rank])
            memory[own] = expected[own]
            group.gather_shards(memory, ranges)
            assert memory.tobytes() == expected.tobytes()
        for _ in range(3):
            arrays_of_many_numbers(group, dtype)
        several_under_way(group, dtype)
        arrays_beside_bytes(group, dtype)
    return "as expected"


def shards(world: int) -> list[list[int]]:
    """Even, uneven and empty ones; all in the last, and none at all."""
    return [
        [10 * rank for rank in range(world + 1)],
        [rank * rank * 1000 for rank in range(world + 1)],
        [5 * (rank // 2) for rank in range(world + 1)],
        [0] * world + [300_000],
        [0] * (world + 1),
    ]


def arrays_of_many_numbers(group: distributed.Group, dtype: Any) -> None:
    """Each rank sends others different arrays under several numbers, some of them empty."""
    sizes, others = (3, 0, 70_000), [r for r in range(group.world) if r != group.rank]

    def sent(source: int, target: int, number: int) -> Any:
        return np.arange(sizes[number], dtype=dtype) + 1000 * source + 10 * target + number

    numbers = [(other, number) for other in others for number in range(len(sizes))]
    found = {key: np.full(sizes[key[1]], np.nan, dtype) for key in numbers}
    group.exchange(
        [(other, number, sent(group.rank, other, number)) for other, number in numbers],
        [(other, number, found[other, number]) for other, number in reversed(numbers)],
    )
    for (other, number), array in found.items():
        assert array.tobytes() == sent(other, group.rank, number).tobytes()


def several_under_way(group: distributed.Group, dtype: Any) -> None:
    """Exchanges of one number that have begun end in their order, whatever their sizes."""
    sizes = (70_000, 3, 0, 20_000, 1)
    others = [rank for rank in range(group.world) if rank != group.rank]
    found = [{other: np.full(size, np.nan, dtype) for other in others} for size in sizes]
    under_way = []
    for k, size in enumerate(sizes):
        mine = np.full(size, 10 * k + group.rank, dtype)
        sends = [(other, 7, mine) for other in others]
        under_way.append(group.start(sends, [(o, 7, array) for o, array in found[k].items()]))
    for one in under_way:
        one.finish()
    for k, arrays in enumerate(found):
        assert all((array == 10 * k + other).all() for other, array in arrays.items())


def arrays_beside_bytes(group: distributed.Group, dtype: Any) -> None:
    """Arrays that move in the call that gathers bytes, short and long."""
    others = [rank for rank in range(group.world) if rank != group.rank]
    for length in (3, 10_000):
        found = {other: np.full(50_000, np.nan, dtype) for other in others}
        told = group.gather_bytes(
            bytes([group.rank]) * length,
            [(other, 2, np.full(50_000, group.rank, dtype)) for other in others],
            [(other, 2, array) for other, array in found.items()],
        )
        assert told == [bytes([rank]) * length for rank in range(group.world)]
        assert all((array == other).all() for other, array in found.items())


if __name__ == "__main__":
    sys.stdout.write(check(connected(sys.argv[1])) + "\n")  # in one piece
