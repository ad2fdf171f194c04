"""Loaders that draw samples by weight, evenly from classes, or from a subset."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import pickle
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep.data import Balanced, Subset, Weighted
from fusestep.data.order import as_order
from tables.device_data import PLACES, assert_same, placed, some_data

N = 60
SAMPLINGS: dict[str, Any] = {
    "weighted": Weighted(np.arange(N) % 7),
    "weighted, many": Weighted(np.arange(N) % 7, samples=3 * N + 1),
    "weighted, once": Weighted(np.arange(N) % 7, replacement=False),
    "weighted, few": Weighted(np.arange(N) % 7, replacement=False, samples=11),
    "balanced": Balanced(np.arange(N) % 13 // 4),
    "balanced, once": Balanced(np.arange(N) % 13 // 4, replacement=False, samples=13),
    "one class": Balanced(["a"] * N, replacement=False),
    "subset": Subset(np.arange(0, N, 3)),
    "subset, hashed": Subset([5, 3, 50, 8, 9, 3], order="hashed"),
    "subset, in order": Subset([5, 3, 50, 8, 9, 3], order="sequential"),
    "subset, in windows": Subset(np.arange(40), order="window", window=7),
    "weighted subset": Subset(np.arange(10, 30), order=Weighted(np.arange(20))),
    "one row": Subset([N - 1]),
}
every_sampling = pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=list(SAMPLINGS))


@every_sampling
def test_any_part_of_an_epoch_is_a_part_of_the_whole(sampling: Any) -> None:
    order = as_order(sampling, N, None)
    wholes = [order.rows(3, epoch, 0, order.n) for epoch in range(3)]
    for begin, end in ((0, 0), (0, 1), (order.n // 3, order.n // 2 + 1), (order.n - 1, order.n)):
        for epoch in (2, 0, 1):
            assert np.array_equal(order.rows(3, epoch, begin, end), wholes[epoch][begin:end])
    other = as_order(sampling, N, None)
    assert np.array_equal(other.rows(4, 1, 0, order.n), order.rows(4, 1, 0, order.n))
    assert np.array_equal(other.rows(3, 1, 0, order.n), wholes[1])


def delivered(sampling: Any, size: Any, **options: Any) -> list[Any]:
    loader = fs.Loader({"x": np.arange(N) * 10}, size, order=sampling, seed=5, **options)
    return [(batch["x"] // 10).tolist() for batch in loader]


@every_sampling
def test_no_batch_size_and_no_number_of_ranks_changes_what_is_delivered(sampling: Any) -> None:
    order = as_order(sampling, N, None)
    whole = np.concatenate([order.rows(5, epoch, 0, order.n) for epoch in range(3)]).tolist()
    for size, tail in ((1, "short"), (7, "carry"), ("full", "short"), (7, "short")):
        if size == 7 and order.n < 7:
            continue
        batches = delivered(sampling, size, tail=tail, epochs=3)
        assert [row for batch in batches for row in batch] == whole
        parts = [delivered(sampling, size, tail=tail, epochs=3, shard=(r, 3)) for r in range(3)]
        together = [list(itertools.chain(*ranks)) for ranks in zip(*parts, strict=True)]
        assert together == batches


@every_sampling
def test_a_saved_loader_goes_on_anywhere_in_an_epoch(sampling: Any) -> None:
    data, n = np.arange(N), as_order(sampling, N, None).n
    size = max(1, n // 4)
    whole = [b.data.tolist() for b in fs.Loader(data, size, order=sampling, seed=5, epochs=2)]
    first = fs.Loader(data, size, order=sampling, seed=5, epochs=2)
    for k, batch in enumerate(first):
        assert batch.clock.epoch == batch.clock.samples // n + batch.clock.samples % n / n
        assert batch.indices.tolist() == batch.data.tolist()
        state = json.loads(json.dumps(first.state_dict(), allow_nan=False))
        assert state["n_samples"] == first.samples == n
        other = fs.Loader(data, size, order=sampling, epochs=2)
        other.load_state_dict(state)
        if k + 1 < len(whole):
            assert [b.data.tolist() for b in other] == whole[k + 1 :]


@pytest.mark.parametrize(
    ("saved", "present"),
    [
        (Weighted([1, 2, 3]), Weighted([1, 2, 4])),
        (Weighted([1, 2, 3]), Weighted([1, 2, 3], samples=2)),
        (Weighted([1, 2, 3]), Weighted([1, 2, 3], replacement=False)),
        (Weighted([1, 1, 2]), Balanced([0, 0, 1])),
        (Weighted([1, 1, 1]), "shuffled"),
        ("shuffled", Subset([0, 1, 2])),
        (Balanced([0, 0, 1]), Balanced([0, 1, 1])),
        (Balanced([0, 0, 1]), Balanced([0, 0, 1], replacement=False)),
        (Subset([0, 1]), Subset([1, 0])),
        (Subset([0, 1]), Subset([0, 1], "hashed")),
        (Subset([0, 1], "window", window=1), Subset([0, 1], "window", window=2)),
        (Subset([0, 1], Weighted([1, 2])), Subset([0, 1], Weighted([2, 1]))),
    ],
)
def test_a_state_of_another_order_is_refused(saved: Any, present: Any) -> None:
    data = np.arange(3)
    state = fs.Loader(data, 1, order=saved).state_dict()
    loader = fs.Loader(data, 1, order=present)
    before = loader.state_dict()
    with pytest.raises(fs.StateError, match="order: saved"):
        loader.load_state_dict(state)
    assert loader.state_dict() == before
    fs.Loader(data, 1, order=saved).load_state_dict(state)


def test_names_of_classes_and_types_of_numbers_do_not_matter() -> None:
    def state(sampling: Any) -> Any:
        return fs.Loader(np.arange(3), 1, order=sampling).state_dict()

    assert state(Balanced(["x", "y", "x"])) == state(Balanced(np.array([3, 8, 3], np.int8)))
    assert state(Balanced([True, False, True])) == state(Balanced(np.array(list("bab"), object)))
    assert state(Weighted([1, 2, 3])) == state(Weighted(np.array([1, 2, 3], ">f4")))
    assert state(Subset([1, 2])) == state(Subset(np.array([1, 2], ">u2")))


def test_what_was_given_may_be_changed_afterwards() -> None:
    weights, indices = np.array([1.0, 0.0, 0.0]), np.array([2, 2])
    weighted, subset = Weighted(weights), Subset(indices)
    weights[:], indices[:] = [0, 0, 1], 0
    assert set(as_order(weighted, 3, None).rows(0, 0, 0, 3).tolist()) == {0}
    assert as_order(subset, 3, None).rows(0, 0, 0, 2).tolist() == [2, 2]


@every_sampling
def test_samplings_can_be_copied_and_pickled(sampling: Any) -> None:
    expected = as_order(sampling, N, None)
    for other in (copy.deepcopy(sampling), pickle.loads(pickle.dumps(sampling))):
        order = as_order(other, N, None)
        assert (repr(other), order.identity) == (repr(sampling), expected.identity)
        found = order.rows(1, 1, 0, order.n)
        assert np.array_equal(found, expected.rows(1, 1, 0, order.n))


@every_sampling
@pytest.mark.parametrize("place", PLACES)
def test_a_gpu_is_given_the_same_rows(cupy: Any, sampling: Any, place: str) -> None:
    data = some_data(N)
    options = {"order": sampling, "epochs": 2, "seed": 5}
    loader = fs.Loader(placed(cupy, data, place), 1, device="cuda", **options)
    assert_same(loader, fs.Loader(data, 1, **options))


# these may never change: saved runs depend on them
GOLDEN = {
    "weighted": ([27, 18, 32, 41, 46, 26, 24, 47, 15, 26], "81bcb81ca3396213"),
    "weighted, once": ([18, 20, 9, 34, 10, 37, 25, 4, 44, 50], "0ab16e13adc8080d"),
    "balanced": ([7, 25, 48, 52, 42, 38, 17, 8, 38, 49], "23c318362a1903f6"),
    "balanced, once": ([31, 51, 49, 2, 28, 12, 6, 8, 25, 11], "6bc0fca66d6c30f8"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_draws_are_what_they_always_were(name: str) -> None:
    first, digest = GOLDEN[name]
    assert as_order(SAMPLINGS[name], N, None).rows(0, 0, 0, 10).tolist() == first
    n = 20_000
    large: dict[str, Any] = {
        "weighted": Weighted(np.arange(n)),
        "weighted, once": Weighted(np.arange(n), replacement=False),
        "balanced": Balanced(np.arange(n) % 100 // 7),
        "balanced, once": Balanced(np.arange(n) % 100 // 7, replacement=False),
    }
    order = as_order(large[name], n, None)
    rows = order.rows(12345, 67, 0, order.n).astype("<u8")
    assert hashlib.sha256(rows.tobytes()).hexdigest()[:16] == digest


BAD: list[tuple[Any, type[Exception], str]] = [
    (
        lambda: Weighted([1, -2, 3]),
        ValueError,
        r"weights\[1\] must be finite and at least 0, not -2",
    ),
    (lambda: Weighted([1, np.nan]), ValueError, r"weights\[1\] must be finite and .*, not nan"),
    (lambda: Weighted([np.inf, 1]), ValueError, r"weights\[0\] must be finite and .*, not inf"),
    (lambda: Weighted([0, 0]), ValueError, "weights must not all be 0: no row could be drawn"),
    (lambda: Weighted([]), ValueError, r"weights must hold 1 to 2\^32 - 1 entries, not 0"),
    (lambda: Weighted([[1, 2]]), ValueError, r"weights must have one axis .*, not shape \(1, 2\)"),
    (lambda: Weighted(3), ValueError, r"weights must have one axis .*, not shape \(\)"),
    (lambda: Weighted(["a"]), TypeError, "weights must be numbers, not of dtype <U1"),
    (lambda: Weighted([1j]), TypeError, "weights must be numbers, not of dtype complex128"),
    (lambda: Weighted(np.ma.array([1, 2])), TypeError, "weights must not be a masked array"),
    (
        lambda: Weighted([1, 0, 2], replacement=False, samples=3),
        ValueError,
        "samples is 3, without replacement at most 2, the rows of a weight above 0",
    ),
    (lambda: Weighted([1], samples=0), ValueError, "samples must be at least 1, not 0"),
    (lambda: Weighted([1], samples=2**53), ValueError, "samples is 9007199254740992, the most is"),
    (lambda: Weighted([1], replacement=1), TypeError, "replacement must be True or False, not 1"),
    (lambda: Balanced([[0, 1]]), ValueError, r"one-hot: labels.argmax\(axis=1\)"),
    (lambda: Balanced([0.5, 1.0]), TypeError, "labels must be whole numbers, strings or booleans"),
    (
        lambda: Balanced(np.array(["a", 1], object)),
        TypeError,
        "labels must be of one kind, which can be sorted",
    ),
    (lambda: Balanced(np.array([1, np.nan], object)), ValueError, "labels must not be NaN"),
    (
        lambda: Balanced([0, 0, 1], replacement=False, samples=3),
        ValueError,
        "samples is 3, without replacement at most 2: there are 2 classes, and the smallest has 1",
    ),
    (lambda: Subset([0, -1]), ValueError, r"indices\[1\] must be at least 0, not -1"),
    (lambda: Subset([True, False]), TypeError, r"of a mask: numpy.flatnonzero\(mask\)"),
    (lambda: Subset([0.0]), TypeError, "indices must be whole numbers, not of dtype float64"),
    (lambda: Subset([]), ValueError, "indices must hold 1 to"),
    (lambda: Subset([2**70]), TypeError, "indices must be whole numbers, not of dtype object"),
    (lambda: Subset([0], order="random"), ValueError, "order must be one of shuffled, hashed"),
    (lambda: Subset([0], order="window"), ValueError, "window goes with order='window'"),
    (
        lambda: Subset([0], order=Weighted([1, 2])),
        ValueError,
        "weights has 2 entries, the data has",
    ),
    (
        lambda: fs.Loader(np.arange(3), 1, order=Subset([0, 3])),
        ValueError,
        r"indices\[1\] is 3, the data has 3 rows: it must be below",
    ),
    (
        lambda: fs.Loader(np.arange(3), 1, order=Weighted([1, 2])),
        ValueError,
        "weights has 2 entries, the data has 3 rows",
    ),
    (
        lambda: fs.Loader(np.arange(3), 1, order=Balanced([0, 1])),
        ValueError,
        "labels has 2 entries, the data has 3 rows",
    ),
    (
        lambda: fs.Loader(np.arange(3), 1, order=Balanced([0, 1, 0]), window=3),
        ValueError,
        "window goes with order='window'",
    ),
    (lambda: fs.Loader(np.arange(3), 1, order=[2, 1]), TypeError, "order must be one of .*Subset"),
    (lambda: fs.Loader(np.arange(3), 1, order=len), TypeError, "order must be one of .*Subset"),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_arguments_are_named(bad: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bad()
