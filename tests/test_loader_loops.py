"""Loops over a loader: where they end, what a saved one has left, who may take its batches."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import batch_sizes

Array = np.ndarray[Any, np.dtype[Any]]
N = 11


def growing() -> Any:
    return batch_sizes.ramp(start=2, end=8, increment=3, over_samples=20)


MAKES: dict[str, Callable[..., fs.Loader]] = {
    "one epoch": lambda **o: fs.Loader(np.arange(N), 4, **o),
    "one batch": lambda **o: fs.Loader(np.arange(N), "full", epochs=2, **o),
    "two epochs": lambda **o: fs.Loader(np.arange(N), 4, epochs=2, seed=3, **o),
    "carry": lambda **o: fs.Loader(np.arange(N), growing(), epochs=3, tail="carry", **o),
    "drop": lambda **o: fs.Loader(np.arange(N), 4, epochs=3, tail="drop", **o),
    "a policy": lambda **o: fs.Loader(np.arange(N), growing(), epochs=2, **o),
    "a shard": lambda **o: fs.Loader(np.arange(N), 4, epochs=2, shard=(1, 3), **o),
    "hashed": lambda **o: fs.Loader(np.arange(N), 4, epochs=2, order="hashed", **o),
}
every_loader = pytest.mark.parametrize("name", MAKES)


def taken(batches: Iterator[fs.Batch] | fs.Loader) -> list[Any]:
    return [(b.indices.tolist(), b.size, b.clock) for b in batches]


def saved(loader: fs.Loader) -> Any:
    return json.loads(json.dumps(loader.state_dict(), allow_nan=False))


def resumed(make: Callable[..., fs.Loader], state: Any, **options: Any) -> fs.Loader:
    loader = make(**options)
    loader.load_state_dict(state)
    return loader


@pytest.mark.parametrize("device", [None, "cuda"])
@every_loader
def test_a_loop_saved_anywhere_leaves_what_the_loop_that_goes_on_leaves(
    emulated: Any, name: str, device: str | None
) -> None:
    make, options = MAKES[name], {"device": device}
    loader = make(**options)
    states = [("before", saved(loader))]
    found = []
    for rows in loader:
        found += taken(iter([rows]))
        states.append(("within", saved(loader)))
    states.append(("after", saved(loader)))
    second = taken(loader)
    assert len(second) >= 1
    for k, (place, state) in enumerate(states):
        other = resumed(make, state, **options)
        assert saved(other) == state
        if place != "after":  # the rest of the loop, which may be nothing
            assert taken(other) == found[k:]
        assert taken(other) == second  # and then the next loop
    assert [place for place, _ in states].count("within") == len(found)


@every_loader
def test_a_loop_left_early_goes_on_and_one_left_at_its_last_batch_has_ended(name: str) -> None:
    make = MAKES[name]
    loader = make()
    whole, second = taken(loader), taken(loader)
    for stop in range(1, len(whole) + 1):
        loader = make()
        first = taken(itertools.islice(loader, stop))
        other = resumed(make, saved(loader))
        if stop == len(whole) and name != "drop":
            assert taken(loader) == taken(other) == second
        else:
            assert first + taken(loader) == first + taken(other) == whole


def test_a_saved_loop_goes_on_to_the_epochs_of_the_loader_that_loads_it() -> None:
    def make(epochs: int | None) -> fs.Loader:
        return fs.Loader(np.arange(N), 4, epochs=epochs)

    loader = make(2)
    for _ in loader:
        state = saved(loader)
    assert taken(resumed(make, state, epochs=2)) == []
    assert taken(resumed(make, state, epochs=3)) == taken(make(3))[6:]
    forever = itertools.islice(resumed(make, state, epochs=None), 9)
    assert taken(forever) == taken(make(5))[6:]
    assert taken(resumed(make, state, epochs=1)) == []


def test_a_state_loaded_in_the_body_of_a_loop_is_where_that_loop_goes_on() -> None:
    loader = fs.Loader(np.arange(N), 4, order="sequential")
    start, first = saved(loader), True
    found = []
    for rows in loader:
        found.append(rows.data.tolist())
        if len(found) == 2 and first:
            loader.load_state_dict(start)
            first = False
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


@pytest.mark.parametrize("options", [{}, {"window": 3, "order": "window"}, {"order": "hashed"}])
def test_a_state_of_another_seed_brings_its_order(options: dict[str, Any]) -> None:
    def make(seed: int) -> fs.Loader:
        return fs.Loader(np.arange(100), 30, seed=seed, epochs=2, **options)

    one, other = make(1), make(2)
    wanted = taken(make(1))
    next(iter(one))
    next(iter(other))  # which has its own order of this epoch by now
    other.load_state_dict(saved(one))
    assert taken(other) == wanted[1:]


def test_for_ever_and_the_number_of_batches() -> None:
    for tail, size, epochs in itertools.product(("short", "drop", "carry"), (1, 4, N), (1, 3)):
        loader = fs.Loader(np.arange(N), size, epochs=epochs, tail=tail)
        assert len(loader) == len(list(loader)) == len(list(loader))
    assert len(fs.Loader(np.arange(N), N + 5)) == 1
    endless = fs.Loader(np.arange(N), 4, epochs=None)
    assert len(taken(itertools.islice(endless, 100))) == 100
    assert endless.clock.epoch == 33 + 4 / N
    with pytest.raises(TypeError, match="epochs=None has no length"):
        len(endless)
    with pytest.raises(TypeError, match=r"not known: batch_sizes\.ramp"):
        len(fs.Loader(np.arange(N), growing()))
    assert endless
    assert fs.Loader(np.arange(N), growing())


def test_a_size_above_the_number_of_samples_takes_all() -> None:
    for tail, sizes in (("short", [N, N]), ("carry", [2 * N])):
        loader = fs.Loader(np.arange(N), 3 * N, epochs=2, tail=tail)
        assert [rows.size for rows in loader] == sizes


@pytest.mark.parametrize(
    ("word", "value", "hint"),
    [
        ("shuffle", True, 'order="shuffled", the default, or order="sequential"'),
        ("drop_last", True, 'tail="drop"'),
        ("sampler", None, "order="),
        ("num_workers", 4, "prefetch="),
        ("collate_fn", None, "transform="),
        ("epoch", 3, "'epochs'"),
        ("batchsize", 3, "'batch_size'"),
    ],
)
def test_words_of_other_libraries_are_pointed_to_this_ones(
    word: str, value: Any, hint: str
) -> None:
    with pytest.raises(
        TypeError, match=f"Loader has no argument '{word}'(: use|; did you mean) {hint}"
    ):
        fs.Loader(np.arange(N), 4, **{word: value})
    with pytest.raises(TypeError, match="Loader has no argument 'zzz'; known are data, batch_size"):
        fs.Loader(np.arange(N), 4, zzz=1)  # type: ignore[call-arg]


def test_it_says_what_it_is() -> None:
    loader = fs.Loader(np.arange(N), 4, epochs=None)
    next(iter(loader))
    assert repr(loader) == (
        "Loader(11 samples, batch_size=batch_sizes.fixed(n=4), order='shuffled', epochs=None, "
        "tail='short', at epoch 0.363636)"
    )


def test_a_batch_has_as_many_entries_as_rows() -> None:
    x, y = np.arange(N), np.arange(N) * 2
    for rows in fs.Loader({"x": x, "y": y}, 4):
        assert len(rows) == rows.size == len(rows["x"])
        assert "x" in rows
        assert "z" not in rows
        with pytest.raises(TypeError, match=r"\['x', 'y'\]: iterate batch.data.items\(\)"):
            iter(rows)
    for rows in fs.Loader((x, y), 4):
        a, b = rows
        assert len(rows) == len(a)
        assert np.array_equal(a * 2, b)
    for rows in fs.Loader(x, 4):
        assert len(list(rows)) == len(rows) == len(rows.data)
    parts = [[len(r) for r in fs.Loader(x, 4, shard=(k, 3))] for k in range(3)]
    assert np.sum(parts, axis=0).tolist() == [4, 4, 3]


@pytest.mark.filterwarnings("ignore:Pickle, copy:DeprecationWarning")  # of itertools
def test_batches_are_pickled_and_loaders_say_what_to_do_instead() -> None:
    loader = fs.Loader({"x": np.arange(N)}, growing())
    for rows in loader:
        for other in (pickle.loads(pickle.dumps(rows)), copy.deepcopy(rows)):
            assert np.array_equal(other["x"], rows["x"])
            assert np.array_equal(other.indices, rows.indices)
            assert (other.size, other.clock, len(other)) == (rows.size, rows.clock, len(rows))
    with pytest.raises(TypeError, match=r"state_dict\(\)"):
        pickle.dumps(loader)
    with pytest.raises(TypeError):  # in Python's own words from 3.14 on
        pickle.dumps(iter(loader))
    with pytest.raises(TypeError, match=r"state_dict\(\)"):
        copy.deepcopy(loader)
