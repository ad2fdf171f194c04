"""Samples drawn by weight, or evenly from classes: pure functions of the seed and the epoch."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from fusestep import _core
from fusestep.data import Balanced, Weighted
from fusestep.data.order import as_order

mpmath = pytest.importorskip("mpmath")

Array = np.ndarray[Any, np.dtype[Any]]
WORD, HALF = np.uint64(2**32 - 1), np.uint64(32)


def philox(part: Array, key: int, block: int = 0) -> Array:
    """Philox4x32-10 of the counters (block, 0, part), a row of four words for each part."""
    part = np.asarray(part, np.uint64)
    c0, c1, c2, c3 = np.full_like(part, block), np.zeros_like(part), part & WORD, part >> HALF
    k0, k1 = key % 2**32, key >> 32
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (b >> HALF) ^ c1 ^ np.uint64(k0), b & WORD, (a >> HALF) ^ c3, a & WORD
        c2 = c2 ^ np.uint64(k1)
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return np.stack([c0, c1, c2, c3], axis=-1)


def key_of(seed: int, epoch: int, purpose: int) -> int:
    """As csrc/data/random.h hashes one."""
    from test_orders import key

    low, high = key(seed, epoch, purpose, 0)
    return low | high << 32


def below(bound: int, part: int, key: int) -> int:
    """The first number below a bound of the stream of a part."""
    for block in itertools.count():
        for word in philox(np.array(part), key, block).tolist():
            if word * bound % 2**32 >= 2**32 % bound:
                return int(word * bound >> 32)
    raise AssertionError


def rounds(classes: int, count: int, seed: int, epoch: int) -> list[int]:
    """The classes of some places, by Fisher and Yates in every round."""
    key, found = key_of(seed, epoch, 7), list[int]()
    while len(found) < count:
        order, part = list(range(classes)), len(found) // classes
        blocks = (philox(np.array(part), key, block).tolist() for block in itertools.count())
        words = itertools.chain.from_iterable(blocks)
        for i in range(classes, 1, -1):
            product = next(words) * i
            assert product % 2**32 >= 2**32 % i  # this oracle does not reject
            order[i - 1], order[product >> 32] = order[product >> 32], order[i - 1]
        found += order
    return found[:count]


def units_of(weights: list[float]) -> list[int]:
    """Weights as whole numbers."""
    _, largest = math.frexp(max(weights))
    total = 0.0
    for weight in weights:
        total += math.ldexp(weight, -largest)
    scale = Fraction(2) ** (62 - math.frexp(total)[1] - largest)
    return [max(1, math.floor(Fraction(w) * scale)) if w > 0 else 0 for w in weights]


WEIGHTS = {
    "few": [0.5, 0.0, 2.0, 0.25, 0.0, 1.0, 0.0],
    "equal": [0.1] * 37,
    "one": [3.5],
    "far apart": [1e308, 5e-324, 0.0, 1e308, 1.0, 1e-300],
    "counts": [float(i % 11) for i in range(300)],
    "falling": [2.0**-i for i in range(80)],
}
every_weighting = pytest.mark.parametrize("weights", WEIGHTS.values(), ids=list(WEIGHTS))


@every_weighting
@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (2**40 + 3, 2**35 + 1)])
def test_draws_are_exact_in_whole_numbers(weights: list[float], seed: int, epoch: int) -> None:
    units, key = units_of(weights), key_of(seed, epoch, 5)
    ends, total = np.cumsum(np.array(units, dtype=object)), sum(units)
    mask = 2 ** (total - 1).bit_length() - 1
    expected = []
    for place in range(200):
        for block in itertools.count():
            words = philox(np.array(place), key, block).tolist()
            numbers = [(words[i] << 32 | words[i + 1]) & mask for i in (0, 2)]
            if min(numbers) < total:
                number = next(n for n in numbers if n < total)
                break
        expected.append(next(i for i, end in enumerate(ends) if end > number))
    draws = _core.WeightedDraws(np.array(weights))
    assert draws.draw(seed, epoch, 0, 200).tolist() == expected


def exponential(row: int, key: int) -> float:
    """The random number of a row, exponentially distributed."""
    words = philox(np.array(0), key, row).tolist()
    uniform = ((words[1] << 32 | words[0]) >> 12) + 0.5
    with mpmath.workprec(200):
        return float(-mpmath.log(mpmath.mpf(uniform) / 2**52))


def by_arrival(weights: list[float], key: int) -> list[int]:
    arrivals = []
    for row, weight in enumerate(weights):
        if weight > 0:
            factor, exponent = math.frexp(weight)
            time = Fraction(exponential(row, key) / factor) / Fraction(2) ** exponent
            arrivals.append((time, row))
    return [row for _, row in sorted(arrivals)]


@every_weighting
def test_an_order_by_weight_is_a_race_of_exponential_arrivals(weights: list[float]) -> None:
    expected = by_arrival(weights, key_of(9, 4, 6))
    for samples in {1, len(expected) // 2 or 1, len(expected)}:
        found = _core.weighted_order(np.array(weights), samples, 9, 4)
        assert found.tolist() == expected[:samples]


def test_arrivals_that_are_a_rounding_apart_stand_in_their_order() -> None:
    winners = set()
    for epoch in range(20):
        key = key_of(1, epoch, 6)
        weight = exponential(1, key) / exponential(0, key)
        for _ in range(3):
            weight = math.nextafter(weight, 0)
        for _ in range(7):
            expected = by_arrival([1.0, weight], key)
            assert _core.weighted_order(np.array([1.0, weight]), 2, 1, epoch).tolist() == expected
            winners.add(expected[0])
            weight = math.nextafter(weight, math.inf)
    assert winners == {0, 1}


def chi_square(found: Array, expected: Array) -> float:
    """How far counts are from their expectation, in standard deviations of the statistic."""
    some = expected > 0
    assert np.all(found[~some] == 0)
    freedom = np.count_nonzero(some) - 1
    statistic = ((found[some] - expected[some]) ** 2 / expected[some]).sum()
    return float(abs(statistic - freedom) / math.sqrt(2 * freedom))


def test_draws_come_in_proportion_to_the_weights_and_independently() -> None:
    weights = np.array([1.0, 0.0, 2.0, 3.0, 0.5, 0.0, 4.0])
    chances = weights / weights.sum()
    rows = as_order(Weighted(weights, samples=40_000), 7, None).rows(1, 0, 0, 40_000).astype(int)
    assert chi_square(np.bincount(rows, minlength=7), 40_000 * chances) < 4
    pairs = np.bincount(rows[::2] * 7 + rows[1::2], minlength=49)
    assert chi_square(pairs, 20_000 * np.outer(chances, chances).ravel()) < 4
    other = as_order(Weighted(weights, samples=40_000), 7, None).rows(1, 1, 0, 40_000)
    pairs = np.bincount(rows * 7 + other, minlength=49)
    assert chi_square(pairs, 40_000 * np.outer(chances, chances).ravel()) < 4


def test_without_replacement_each_draw_is_in_proportion_among_the_rows_left() -> None:
    weights = np.array([1.0, 0.0, 2.0, 3.0, 4.0])
    order = as_order(Weighted(weights, replacement=False), 5, None)
    assert order.n == 4
    found = Counter(tuple(order.rows(3, epoch, 0, 4).tolist()) for epoch in range(20_000))
    orders = list(itertools.permutations([0, 2, 3, 4]))
    expected = []
    for rows in orders:
        chance, left = 1.0, weights.sum()
        for row in rows:
            chance, left = chance * weights[row] / left, left - weights[row]
        expected.append(20_000 * chance)
    assert sum(found[rows] for rows in orders) == 20_000
    assert chi_square(np.array([found[rows] for rows in orders]), np.array(expected)) < 4


def test_all_orders_of_equal_weights_come_equally_often() -> None:
    order = as_order(Weighted([0.1] * 4, replacement=False), 4, None)
    found = Counter(tuple(order.rows(3, epoch, 0, 4).tolist()) for epoch in range(12_000))
    assert len(found) == 24
    assert chi_square(np.array(list(found.values())), np.full(24, 500.0)) < 4


LABELS = np.array(list("abacabadabacabaeabacabadabacaba"))


@pytest.mark.parametrize("replacement", [True, False])
def test_every_class_stands_once_in_every_round(replacement: bool) -> None:
    labels = np.repeat(LABELS, 3)
    order = as_order(Balanced(labels, replacement=replacement), len(labels), None)
    assert order.n == (len(labels) if replacement else 5 * 3)
    firsts = Counter[str]()
    for epoch in range(300):
        rows = order.rows(7, epoch, 0, order.n)
        if not replacement:
            assert len(set(rows.tolist())) == len(rows)
        for begin in range(0, order.n // 5 * 5, 5):
            stretch = labels[rows[begin : begin + 5]]
            assert sorted(stretch) == list("abcde")
            firsts[stretch[0]] += 1
    counts = np.array(list(firsts.values()))
    assert chi_square(counts, np.full(5, counts.sum() / 5)) < 4


@pytest.mark.parametrize("replacement", [True, False])
def test_rows_of_a_class_come_equally_often(replacement: bool) -> None:
    labels = [0, 1, 1, 0, 1, 1, 0, 1, 1]
    order = as_order(Balanced(labels, replacement=replacement, samples=6), 9, None)
    rows = np.concatenate([order.rows(5, epoch, 0, 6) for epoch in range(6000)])
    for members in ([0, 3, 6], [1, 2, 4, 5, 7, 8]):
        counts = np.bincount(rows, minlength=9)[members]
        assert counts.sum() == 18_000
        if len(members) == 3 and not replacement:
            assert set(counts.tolist()) == {6000}  # all of them, in every epoch
        else:
            assert chi_square(counts, np.full(len(members), 18_000 / len(members))) < 4


def test_balanced_orders_are_streams_of_philox() -> None:
    labels = np.array([0, 1, 1, 0, 2, 1, 1, 2, 2, 1])
    members = [np.flatnonzero(labels == c).tolist() for c in range(3)]
    key, expected = key_of(3, 5, 8), []
    for place, c in enumerate(rounds(3, 25, 3, 5)):
        expected.append(members[c][below(len(members[c]), place, key)])
    order = as_order(Balanced(labels, samples=25), 10, None)
    assert order.rows(3, 5, 0, 25).tolist() == expected
    key = key_of(3, 5, 9)
    for c in range(3):
        blocks = (philox(np.array(c), key, block).tolist() for block in itertools.count())
        words, items = itertools.chain.from_iterable(blocks), members[c]
        for i in range(len(items), 1, -1):
            j = next(words) * i >> 32
            items[i - 1], items[j] = items[j], items[i - 1]
    expected = [members[c][place // 3] for place, c in enumerate(rounds(3, 6, 3, 5))]
    order = as_order(Balanced(labels, replacement=False), 10, None)
    assert order.rows(3, 5, 0, 6).tolist() == expected


def test_a_number_below_a_bound_is_drawn_again_where_it_would_favour_some() -> None:
    # where the low word of the product is below 2^32 % bound, and nowhere else
    for bound in (60_021, 2**16):
        draws, key = 600_000, key_of(0, 0, 8)
        words = philox(np.arange(draws), key)
        products = words * np.uint64(bound)
        low = products & WORD
        again, near = low < 2**32 % bound, (low < bound) & (low >= 2**32 % bound)
        assert not np.any(again.all(axis=1))
        assert np.any(near[:, 0])
        assert np.any(again[:, 0] & (low[:, 0] >= bound // 2)) == (bound != 2**16)
        taken = np.argmin(again, axis=1)
        expected = np.take_along_axis(products >> np.uint64(32), taken[:, None], axis=1)[:, 0]
        order = as_order(Balanced(np.zeros(bound, int), samples=draws), bound, None)
        assert np.array_equal(order.rows(0, 0, 0, draws), expected)
