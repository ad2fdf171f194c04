"""An interrupt or an error between any two lines: no batch is lost, none comes twice."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from emulation.interrupts import Interrupt
from fusestep import batch_sizes
from fusestep.data.columns import Columns
from fusestep.data.stream import Prefetcher, Stream

N = 13


class Own:
    def __len__(self) -> int:
        return N

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(indices)


def negated(rows: np.ndarray) -> np.ndarray:
    """Wrong if it is applied twice to the same memory."""
    rows += 1
    np.negative(rows, out=rows)
    return rows


def growing() -> Any:
    return batch_sizes.ramp(start=3, end=7, increment=2, over_samples=12)


LOADERS: dict[str, Callable[[], fs.Loader]] = {
    "a policy": lambda: fs.Loader(np.arange(N), growing(), epochs=2),
    "carry": lambda: fs.Loader(np.arange(N), growing(), epochs=2, tail="carry"),
    "drop": lambda: fs.Loader(np.arange(N), 7, epochs=2, tail="drop"),
    "a shard": lambda: fs.Loader(np.arange(N), 7, epochs=2, shard=(1, 3)),
    "a source": lambda: fs.Loader(Own(), 7, epochs=2),
    "a source, nothing ahead": lambda: fs.Loader(Own(), 7, epochs=2, prefetch=0),
    "a transform": lambda: fs.Loader(np.arange(N), 5, epochs=2, transform=negated),
}


def one_by_one(loader: fs.Loader, found: list[fs.Batch]) -> None:
    for rows in loader:
        found.append(rows)


def described(batches: list[fs.Batch]) -> list[Any]:
    return [(rows.data.tolist(), rows.indices.tolist(), rows.size, rows.clock) for rows in batches]


@pytest.mark.unsanitized
@pytest.mark.parametrize("name", LOADERS)
def test_an_interrupt_before_any_line_loses_no_batch(name: str) -> None:
    loader = LOADERS[name]()
    whole = described(list(loader))
    end = loader.state_dict()
    for at in itertools.count():
        loader, found = LOADERS[name](), list[fs.Batch]()
        if not Interrupt(at).during(lambda: one_by_one(loader, found)):  # noqa: B023
            break
        if not found or loader.state_dict()["begin"] is not None:
            one_by_one(loader, found)
        assert described(found) == whole, at
        assert {**loader.state_dict(), "begin": None} == end, at
    assert at > 100


@pytest.mark.unsanitized
@pytest.mark.parametrize("name", ["a policy", "carry"])
def test_an_interrupt_in_a_load_leaves_the_old_state_or_the_new_one(name: str) -> None:
    def at_batch(k: int) -> fs.Loader:
        loader = LOADERS[name]()
        for _ in itertools.islice(loader, k):
            pass
        return loader

    new, old = at_batch(3).state_dict(), at_batch(1).state_dict()
    seen = []
    for at in itertools.count():
        loader = at_batch(1)
        if not Interrupt(at).during(lambda: loader.load_state_dict(new)):  # noqa: B023
            break
        seen.append(loader.state_dict())
        assert seen[-1] in (old, new)
    assert len(seen) > 20
    assert loader.state_dict() == new


@pytest.mark.parametrize("error", [MemoryError, RuntimeError("can't start new thread")])
@pytest.mark.parametrize(
    ("owner", "method"),
    [(Stream, "prefetch"), (Columns, "begin_gather"), (Stream, "_buffers"), (Prefetcher, "add")],
)
def test_what_fails_in_reading_ahead_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, owner: Any, method: str, error: Any
) -> None:
    whole = described(list(LOADERS["a source"]()))
    original, calls = getattr(owner, method), 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 2 == 0:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, method, failing)
    loader, found = LOADERS["a source"](), list[fs.Batch]()
    for _ in range(20):
        try:
            one_by_one(loader, found)
        except (MemoryError, RuntimeError):
            continue
        break
    monkeypatch.undo()
    assert calls >= 2
    assert described(found) == whole


def test_an_error_comes_with_the_batch_that_it_belongs_to() -> None:
    class Failing(Own):
        def __getitem__(self, indices: np.ndarray) -> np.ndarray:
            if 9 in indices:
                raise OSError("bad sector")
            return super().__getitem__(indices)

    loader, found = fs.Loader(Failing(), 2, order="sequential"), list[fs.Batch]()
    for _ in range(2):
        with pytest.raises(OSError, match="bad sector"):
            one_by_one(loader, found)
        assert np.concatenate([rows.data for rows in found]).tolist() == list(range(8))


def test_an_error_leaves_the_memory_of_the_policy_where_it_was() -> None:
    fails = [True]

    def transform(rows: np.ndarray) -> np.ndarray:
        if fails[0]:
            raise ValueError("no")
        return rows

    policy = growing()
    loader = fs.Loader(np.arange(N), policy, transform=transform)
    before = policy.state_dict(), loader.state_dict(), loader.clock
    batches = iter(loader)
    with pytest.raises(ValueError, match="no"):
        next(batches)
    assert (policy.state_dict(), loader.state_dict(), loader.clock) == before
    fails[0] = False
    assert len(next(batches)) == 3  # the same loop goes on


def test_a_transform_is_applied_once_to_what_is_delivered() -> None:
    fails = [3, 5]
    calls = 0

    def fragile(rows: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls in fails:
            raise OSError("no")
        return rows

    x = np.arange(40)
    transforms = {"x": negated, "y": fragile}
    loader = fs.Loader({"x": x, "y": x, "z": x}, 4, transform=transforms, epochs=2)
    batches, found = iter(loader), list[Any]()
    while len(found) < 20:
        with contextlib.suppress(OSError):
            found.append(next(batches))
    assert calls == 20 + len(fails)
    for rows in found:
        assert rows["x"].tolist() == (-1 - rows["z"]).tolist()
        assert rows["y"].tolist() == rows["z"].tolist()
    assert x.tolist() == list(range(40))
