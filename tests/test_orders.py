"""Orders of samples: permutations that look random, differ between epochs, and never change."""

from __future__ import annotations

import hashlib
import itertools
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import _core
from fusestep.data.order import ORDERS, as_order


def philox(counter: list[int], key: list[int]) -> list[int]:
    from tables.curve_formulas import philox as plain

    return plain(counter, key)


Indices = np.ndarray[Any, np.dtype[Any]]
Make = Callable[[int, int, int], Indices]


def hashed(n: int, seed: int, epoch: int) -> Indices:
    return _core.hashed_order(n, seed, epoch, 0, n)


def in_windows(n: int, seed: int, epoch: int) -> Indices:
    return _core.window_order(n, seed, epoch, 10)


MAKES = {"shuffled": _core.shuffled_order, "hashed": hashed, "window": in_windows}
SIZES = sorted({1, 2, 3} | {2**k + d for k in range(1, 21) for d in (-1, 0, 1)})
every_order = pytest.mark.parametrize("make", MAKES.values(), ids=list(MAKES))


@every_order
def test_every_sample_stands_once_in_every_epoch(make: Make) -> None:
    for n in SIZES:
        for epoch in range(2 if n > 100_000 else 5):
            order = make(n, 7, epoch)
            assert np.array_equal(np.sort(order), np.arange(n)), n


def z_score(counts: Indices) -> float:
    """How far a chi-square of uniform counts is from its mean, in its standard deviations."""
    expected = counts.mean()
    freedom = counts.size - 1
    return float((((counts - expected) ** 2).sum() / expected - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize("kind", ["shuffled", "hashed"])
@pytest.mark.parametrize(("n", "epochs"), [(1000, 150), (60_000, 6)])
def test_differences_of_neighbours_and_places_are_as_of_random_orders(
    kind: str, n: int, epochs: int
) -> None:
    make = MAKES[kind]
    differences = np.zeros(n, np.int64)
    places = np.zeros((50, 50), np.int64)  # of samples by where they stand, in fiftieths
    for epoch in range(epochs):
        order = make(n, 3, epoch).astype(np.int64)
        differences += np.bincount(np.diff(order) % n, minlength=n)
        np.add.at(places, (order * 50 // n, np.arange(n) * 50 // n), 1)
    assert abs(z_score(differences[1:])) < 4
    assert abs(z_score(places.ravel())) < 8  # rows and columns are fixed: fewer degrees


@pytest.mark.parametrize("kind", ["shuffled", "hashed"])
def test_neighbouring_seeds_and_epochs_share_no_order(kind: str) -> None:
    make = MAKES[kind]
    orders = {(s, e): make(5000, s, e) for s in range(5) for e in range(5)}
    for a, one in orders.items():
        for b, other in orders.items():
            if a < b:
                assert (one == other).sum() < 12, (a, b)


def test_all_orders_of_few_samples_come_out_equally_often() -> None:
    counts: dict[bytes, int] = {}
    for epoch in range(24_000):
        order = _core.shuffled_order(4, 11, epoch).tobytes()
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    assert abs(z_score(np.array(list(counts.values())))) < 4


def test_windows_stay_together() -> None:
    order = _core.window_order(1003, 5, 2, 100)
    windows = order // 100
    changes = np.flatnonzero(np.diff(windows)) + 1
    assert len(changes) == 10
    assert sorted(set(windows.tolist())) == list(range(11))
    assert not np.array_equal(windows, np.sort(windows))
    for stretch in np.split(order, changes):
        assert len(stretch) == 1 or not np.array_equal(stretch, np.sort(stretch))


def order_of(kind: str, n: int) -> Any:
    return as_order(kind, n, 7 if kind == "window" else None)


@pytest.mark.parametrize("kind", ORDERS)
def test_any_part_of_an_order_is_a_part_of_the_whole(kind: str) -> None:
    order = order_of(kind, 100)
    wholes = {(seed, epoch): order.rows(seed, epoch, 0, 100) for epoch in (4, 5) for seed in (3, 4)}
    assert len({whole.tobytes() for whole in wholes.values()}) == (1 if kind == "sequential" else 4)
    for begin, end in ((0, 0), (0, 1), (13, 64), (99, 100)):
        for (seed, epoch), whole in wholes.items():
            assert np.array_equal(order.rows(seed, epoch, begin, end), whole[begin:end])


@pytest.mark.parametrize("kind", ["shuffled", "window"])
def test_a_stored_order_takes_four_bytes_for_each_sample(kind: str) -> None:
    n = 300_000
    order = order_of(kind, n)
    tracemalloc.start()
    try:
        parts = [order.rows(1, epoch, begin, begin + 100) for epoch in range(3) for begin in (0, 9)]
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(parts) == 6
    assert 4 * n <= held < 4.1 * n  # not a part holds all of an epoch
    assert peak < 4.1 * n


@pytest.mark.parametrize("world", [1, 5])
@pytest.mark.parametrize("tail", ["short", "carry"])
def test_the_order_of_an_epoch_is_made_once(
    monkeypatch: pytest.MonkeyPatch, tail: str, world: int
) -> None:
    made: list[int] = []
    original = _core.shuffled_order

    def shuffled(n: int, seed: int, epoch: int) -> Indices:
        made.append(epoch)
        return original(n, seed, epoch)

    monkeypatch.setattr(_core, "shuffled_order", shuffled)
    loader = fs.Loader(np.arange(100), 32, epochs=3, tail=tail, shard=(0, world))
    kept = []
    for batch in loader:
        assert np.array_equal(batch.indices, batch.data)
        kept.append(batch)
    for batch in kept:
        assert np.array_equal(batch.indices, batch.data)
    assert made == [0, 1, 2]


def key(seed: int, epoch: int, purpose: int, part: int) -> list[int]:
    counter = [epoch % 2**32, epoch >> 32, purpose, part]
    return philox(counter, [seed % 2**32, seed >> 32])[2:]


def shuffled_in_python(n: int, key: list[int]) -> list[int]:
    """Fisher and Yates, with Lemire's unbiased numbers below a bound."""

    def words() -> Iterator[int]:
        for block in itertools.count():
            yield from philox([block % 2**32, block >> 32, 0, 0], key)

    stream, items = words(), list(range(n))
    for i in range(n, 1, -1):
        product = next(stream) * i
        while product % 2**32 < 2**32 % i:
            product = next(stream) * i
        j = product >> 32
        items[i - 1], items[j] = items[j], items[i - 1]
    return items


def test_the_shuffle_is_fisher_and_yates_driven_by_philox() -> None:
    pytest.importorskip("mpmath")  # which the table of curves needs
    for n, seed, epoch in ((1, 0, 0), (2, 5, 1), (1000, 2**40 + 3, 2**35 + 1)):
        expected = shuffled_in_python(n, key(seed, epoch, 1, 0))
        assert _core.shuffled_order(n, seed, epoch).tolist() == expected
    windows = shuffled_in_python(3, key(7, 2, 2, 0))
    expected = []
    for w in windows:
        size = min(10, 25 - 10 * w)
        expected += [10 * w + i for i in shuffled_in_python(size, key(7, 2, 3, w))]
    assert _core.window_order(25, 7, 2, 10).tolist() == expected


def test_a_shuffle_draws_again_what_would_favour_some_places() -> None:
    pytest.importorskip("mpmath")
    n, seed = 6000, 621  # once in about ten million draws; here at place 222
    words = [philox([block, 0, 0, 0], key(seed, 0, 1, 0)) for block in range(100)]
    word = words[222 // 4][222 % 4]
    assert word * (n - 222) % 2**32 < 2**32 % (n - 222)
    expected = shuffled_in_python(n, key(seed, 0, 1, 0))
    assert _core.shuffled_order(n, seed, 0).tolist() == expected


# these may never change: saved runs depend on them
GOLDEN = {
    "shuffled": ([7, 9, 0, 6, 1, 4, 8, 5, 3, 2], "567b846447a5d470"),
    "hashed": ([6, 9, 5, 7, 1, 2, 4, 3, 8, 0], "14444c7bdab9d0d5"),
    "window": ([6, 9, 8, 4, 0, 2, 7, 3, 5, 1], "b92781713b96ec8e"),
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_orders_are_what_they_always_were(kind: str) -> None:
    first, digest = GOLDEN[kind]
    assert MAKES[kind](10, 0, 0).tolist() == first
    large = MAKES[kind](60_000, 12345, 67).astype("<u8")
    assert hashlib.sha256(large.tobytes()).hexdigest()[:16] == digest
