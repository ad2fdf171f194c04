"""The parts of a batch that several ranks have: their weights, and parts of equal size."""

from __future__ import annotations

import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fusestep as fs
from fusestep.data import Subset

Loaders = list[fs.Loader]


def loaders(n: int, sizes: list[int], world: int, **options: Any) -> Loaders:
    return with_shards(n, sizes, [(rank, world) for rank in range(world)], **options)


def with_shards(n: int, sizes: list[int], shards: list[Any], **options: Any) -> Loaders:
    def size(clock: fs.Clock) -> int:
        return sizes[int(clock.step or 0) % len(sizes)]

    data = {"x": np.arange(n)}
    return [fs.Loader(data, size, shard=shard, seed=3, **options) for shard in shards]


def batches(ranks: Loaders) -> list[tuple[Any, ...]]:
    """The parts of every batch."""
    return list(zip(*ranks, strict=True))


cases = {
    "n": st.integers(1, 60),
    "sizes": st.lists(st.integers(1, 70), min_size=1, max_size=3),
    "world": st.integers(1, 6),
}


@given(**cases)
def test_weighted_means_of_all_ranks_sum_to_the_mean_of_the_batch(
    n: int, sizes: list[int], world: int
) -> None:
    whole = loaders(n, sizes, 1)[0]
    for batch, parts in zip(whole, batches(loaders(n, sizes, world)), strict=True):
        assert batch.weight == 1.0
        assert sum(part.weight for part in parts) == pytest.approx(1.0, abs=1e-15)
        means = [part.weight * part["x"].mean() for part in parts if part.weight > 0]
        assert sum(means) == pytest.approx(batch["x"].mean(), rel=1e-14)
        for part in parts:
            assert part.weight == len(part["x"]) / batch.size
            assert (part.weight == 0.0) == (len(part["x"]) == 0)


def test_a_short_batch_leaves_some_ranks_without_rows() -> None:
    rows = [[len(part["x"]) for part in parts] for parts in batches(loaders(9, [8], 4))]
    assert rows == [[2, 2, 2, 2], [0, 0, 0, 1]]
    weights = [part.weight for part in batches(loaders(9, [8], 4))[1]]
    assert weights == [0.0, 0.0, 0.0, 1.0]


@given(**cases, cuts=st.tuples(st.integers(0, 6), st.integers(0, 6)))
def test_leaves_of_all_ranks_are_the_parts_of_single_leaves(
    n: int, sizes: list[int], world: int, cuts: tuple[int, int]
) -> None:
    bounds = [0, *sorted(min(cut, world) for cut in cuts), world]
    ranks = with_shards(n, sizes, [(a, b, world) for a, b in pairwise(bounds)])
    for batch, parts in zip(batches(loaders(n, sizes, world)), batches(ranks), strict=True):
        leaves = [leaf for part in parts for leaf in part.leaves]
        assert len(leaves) == world
        for leaf, single in zip(leaves, batch, strict=True):
            assert (leaf.size, leaf.weight, leaf.clock) == (
                single.size,
                single.weight,
                single.clock,
            )
            assert (leaf["x"] == single["x"]).all()
            assert (leaf.indices == single.indices).all()
            (again,) = leaf.leaves
            assert (again["x"] == leaf["x"]).all()
        for part in parts:
            copy = pickle.loads(pickle.dumps(part))
            assert [len(leaf) for leaf in copy.leaves] == [len(leaf) for leaf in part.leaves]


@given(**cases, tail=st.sampled_from(["short", "drop", "carry"]), epochs=st.integers(1, 3))
def test_even_parts_have_as_many_rows_on_every_rank(
    n: int, sizes: list[int], world: int, tail: str, epochs: int
) -> None:
    n = max(n, world)
    if tail == "short":
        n -= n % world
    if tail == "drop":
        sizes = [min(size, n - n % world) for size in sizes]
    options: dict[str, Any] = {"tail": tail, "epochs": epochs}
    found = batches(loaders(n, sizes, world, even=True, **options))
    expected = np.concatenate([b["x"] for b in loaders(n, [1], 1, epochs=epochs)[0]])
    rows: list[int] = []
    for k, parts in enumerate(found):
        lengths = {len(part["x"]) for part in parts}
        assert len(lengths) == 1
        assert 0 < lengths.pop() * world == parts[0].size <= max(world, sizes[k % len(sizes)])
        assert {part.weight for part in parts} == {parts[0].size / world / parts[0].size}
        rows += np.concatenate([part["x"] for part in parts]).tolist()
    if tail == "drop":
        kept: list[int] = []
        for _ in range(epochs):
            position = 0
            while True:
                wanted = sizes[len(kept) % len(sizes)]
                size = max(world, wanted - wanted % world)
                if position + size > n:
                    break
                kept.append(size)
                position += size
        assert [parts[0].size for parts in found] == kept
    else:  # with "carry" less than a row for each rank, at the end of the loop
        assert n * epochs - len(rows) == (n * epochs % world if tail == "carry" else 0)
        assert rows == expected[: len(rows)].tolist()


def test_sizes_are_rounded_down_to_whole_rows_for_each_rank() -> None:
    assert [b.size for b in loaders(24, [10], 4, even=True)[0]] == [8, 8, 8]
    assert [b.size for b in loaders(24, [3], 4, even=True)[0]] == [4] * 6
    assert [b.size for b in loaders(26, [10], 4, even=True, tail="drop")[0]] == [8, 8, 8]
    assert [b.size for b in loaders(10, [3], 4, even=True, tail="drop")[0]] == [4, 4]
    carried = loaders(13, [10], 4, even=True, tail="carry", epochs=2)[0]
    assert [b.size for b in carried] == [8, 8, 8]  # of 26 samples 2 are left out
    assert carried.clock.epoch == 2.0
    assert [b.size for b in loaders(9, [4], 1, even=True)[0]] == [4, 4, 1]


def test_the_number_of_batches_is_known_where_the_size_is() -> None:
    for n, size, tail, epochs in ((24, 10, "short", 2), (26, 10, "drop", 2), (11, 10, "carry", 3)):
        options: dict[str, Any] = {"tail": tail, "epochs": epochs, "even": True}
        loader = fs.Loader(np.arange(n), size, shard=(1, 4), **options)
        assert len(loader) == len(list(loader))


def test_what_can_not_be_shared_evenly_is_refused() -> None:
    x = np.arange(9)
    options: dict[str, Any] = {"shard": (0, 4), "even": True}
    with pytest.raises(ValueError, match=r"even=True with tail='short': 9 samples can't .*'carry'"):
        fs.Loader(x, 8, **options)
    with pytest.raises(ValueError, match="even=True needs a sample for each of 4 ranks, not 3"):
        fs.Loader(x, 8, order=Subset([1, 2, 3]), tail="drop", **options)
    with pytest.raises(ValueError, match="with tail='drop' nothing"):
        fs.Loader(x, 12, tail="drop", **options)
    with pytest.raises(TypeError, match="even must be True or False, not 1"):
        fs.Loader(x, 8, shard=(0, 4), even=1)  # type: ignore[arg-type]
    fs.Loader(x, 8, order=Subset(np.arange(8)), **options)
    fs.Loader(x, 8, tail="carry", **options)


def test_a_state_from_which_nothing_can_be_shared_evenly_is_refused() -> None:
    x = np.arange(16)
    uneven = fs.Loader(x, 6)
    next(iter(uneven))
    loader = fs.Loader(x, 8, shard=(0, 4), even=True)
    before = loader.state_dict()
    with pytest.raises(fs.StateError, match="position: 6, 10 samples of the epoch are left"):
        loader.load_state_dict(uneven.state_dict())
    assert loader.state_dict() == before
    carrying = fs.Loader(x, 8, shard=(0, 4), even=True, tail="carry")
    carrying.load_state_dict(uneven.state_dict())
    assert [b.size for b in carrying] == [8]
