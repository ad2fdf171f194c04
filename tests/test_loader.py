"""The loader: not one sample lost or repeated, whatever the batch size does, and exact resume."""

from __future__ import annotations

import json
import os
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fusestep as fs

Array = np.ndarray[Any, np.dtype[Any]]
ORDERS: list[dict[str, Any]] = [
    {"order": "shuffled"},
    {"order": "hashed"},
    {"order": "sequential"},
    {"order": "window", "window": 7},
]


def sizes_from(sizes: list[int]) -> Any:
    """A batch size that goes round some sizes, by the number of batches delivered."""
    return lambda clock: sizes[int(clock.step) % len(sizes)]


def stream(loader: fs.Loader) -> Array:
    found = [batch["x"] for batch in loader]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


loaders = st.fixed_dictionaries(
    {
        "n": st.integers(1, 400),
        "sizes": st.lists(st.integers(1, 450), min_size=1, max_size=6),
        "epochs": st.integers(1, 4),
        "order": st.sampled_from(ORDERS),
        "tail": st.sampled_from(["short", "carry"]),
        "seed": st.integers(0, 2**63 - 1),
    }
)


def build(case: dict[str, Any], **more: Any) -> fs.Loader:
    options = {name: case[name] for name in ("epochs", "tail", "seed")} | case["order"] | more
    return fs.Loader({"x": np.arange(case["n"])}, sizes_from(case["sizes"]), **options)


@given(loaders)
def test_every_sample_comes_once_in_every_epoch_in_an_order_that_no_size_changes(
    case: dict[str, Any],
) -> None:
    found = stream(build(case))
    n = case["n"]
    assert len(found) == n * case["epochs"]
    for epoch in found.reshape(case["epochs"], n):
        assert np.array_equal(np.sort(epoch), np.arange(n))
    one_at_a_time = {**case, "sizes": [1], "tail": "short"}
    assert np.array_equal(stream(build(one_at_a_time)), found)


@given(loaders, st.integers(1, 5))
def test_the_parts_of_all_ranks_are_the_batches(case: dict[str, Any], world: int) -> None:
    whole = [batch["x"] for batch in build(case)]
    parts = [[b["x"] for b in build(case, shard=(rank, world))] for rank in range(world)]
    assert {len(part) for part in parts} == {len(whole)}
    for k, batch in enumerate(whole):
        assert np.array_equal(np.concatenate([part[k] for part in parts]), batch)
        sizes = [len(part[k]) for part in parts]
        assert max(sizes) - min(sizes) <= 1


@given(loaders, st.data())
def test_a_saved_loader_goes_on_under_other_sizes_and_ranks(
    case: dict[str, Any], data: st.DataObject
) -> None:
    whole = stream(build(case))
    first, taken, consumed = build(case), [], 0
    stop = data.draw(st.integers(0, len(whole)))
    state = first.state_dict()
    for batch in first:
        taken.append(batch["x"])
        consumed += batch.size
        state = first.state_dict()
        if consumed >= stop:
            break
    state = json.loads(json.dumps(state))
    sizes = data.draw(st.lists(st.integers(1, 450), min_size=1, max_size=4))
    world = data.draw(st.integers(1, 3))
    others = [build({**case, "sizes": sizes, "seed": 99}, shard=(r, world)) for r in range(world)]
    for other in others:
        other.load_state_dict(state)
    if len(taken) == 0 or consumed == len(whole):
        return
    batches = [[b["x"] for b in other] for other in others]
    rest = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    assert np.array_equal(np.concatenate([*taken, *rest]), whole)


@given(loaders)
def test_drop_leaves_out_only_what_is_less_than_a_batch(case: dict[str, Any]) -> None:
    size = min(case["sizes"][0], case["n"])
    case = {**case, "sizes": [size], "tail": "drop"}
    batches = list(build(case))
    assert {len(batch["x"]) for batch in batches} == {size}
    whole = stream(build({**case, "tail": "short"})).reshape(case["epochs"], case["n"])
    kept = case["n"] // size * size
    assert np.array_equal(np.concatenate([b["x"] for b in batches]), whole[:, :kept].ravel())


@given(loaders)
def test_the_clock_counts_what_was_delivered_before(case: dict[str, Any]) -> None:
    loader, samples = build(case), 0
    for k, batch in enumerate(loader):
        assert batch.clock == fs.Clock(
            samples=samples, epoch=batch.clock.epoch, batch_size=batch.size
        )
        assert batch.clock.epoch == samples // case["n"] + samples % case["n"] / case["n"]
        assert np.array_equal(batch.indices, batch["x"])
        samples += batch.size
        assert loader.clock[:2] == (k + 1, samples)


def test_data_may_be_a_dict_a_tuple_one_array_or_anything_that_takes_indices(tmp_path: Any) -> None:
    x, y = np.random.default_rng(0).random((50, 3, 2)), np.arange(50, dtype=np.int8)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")

    class Rows:
        def __len__(self) -> int:
            return 50

        def __getitem__(self, indices: Array) -> Array:
            return x[indices] * 2

    objects = np.array([str(i) for i in range(50)], dtype=object)
    flags = np.asfortranarray(np.arange(200).reshape(50, 4) % 2 == 0)
    data = {
        "x": x,
        "y": y,
        "mapped": mapped,
        "rows": Rows(),
        "objects": objects,
        "flags": flags,
        "list": list(range(50)),
        "reversed": x[::-1],
        "complex": x + 1j,
    }
    for size in (7, 50):
        for batch in fs.Loader(data, size, seed=1):
            i = batch.indices
            assert np.array_equal(batch["x"], x[i])
            assert np.array_equal(batch["y"], y[i])
            assert batch["y"].dtype == np.int8
            assert np.array_equal(batch["mapped"], x[i])
            assert np.array_equal(batch["rows"], x[i] * 2)
            assert list(batch["objects"]) == [str(k) for k in i]
            assert np.array_equal(batch["flags"], flags[i])
            assert np.array_equal(batch["list"], i)
            assert np.array_equal(batch["reversed"], x[::-1][i])
            assert np.array_equal(batch["complex"], (x + 1j)[i])
    for a, b in fs.Loader((x, y), 8):
        assert (a.shape[1:], len(a)) == ((3, 2), len(b))
    assert sum(len(batch.data) for batch in fs.Loader(y, 8)) == 50


def test_numbers_become_float32_on_the_way_as_numpy_makes_them() -> None:
    random = np.random.default_rng(0)
    for kind in ("u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8"):
        x = (random.random((40, 5)) * 100).astype(kind)
        convert = fs.data.to_float32(scale=1 / 255, shift=-0.5)
        for batch in fs.Loader({"x": x}, 16, transform={"x": convert}):
            rows = x[batch.indices].astype(np.float32)
            expected = np.float32(1 / 255) * rows + np.float32(-0.5)
            assert batch["x"].tobytes() == expected.tobytes()
    doubled = fs.Loader((x, x), 16, transform={1: lambda rows: rows * 2})
    for a, b in doubled:
        assert np.array_equal(a * 2, b)


def test_a_batch_that_is_kept_never_changes_and_memory_is_used_again() -> None:
    x = np.arange(400_000).reshape(-1, 100)
    memory = {
        id(b["x"].base) for b in fs.Loader({"x": x}, 37, epochs=30) if b["x"].base is not None
    }
    assert len(memory) <= 12
    kept = []
    for k, batch in enumerate(fs.Loader({"x": x}, 37, epochs=30)):
        if k % 50 == 0:
            kept.append((batch["x"], batch.indices))
    assert len(kept) > 50
    for rows, indices in kept:
        assert np.array_equal(rows, x[indices])


def test_threads_and_ranks_of_the_machine_change_nothing() -> None:
    x = np.random.default_rng(0).random((5000, 64))
    expected = [b["x"].tobytes() for b in fs.Loader({"x": x}, 333, epochs=2)]
    for threads in (1, 2, 5):
        fs.set_num_threads(threads)
        assert [b["x"].tobytes() for b in fs.Loader({"x": x}, 333, epochs=2)] == expected
    results: list[bool] = []

    def run() -> None:
        mine = [b["x"].tobytes() for b in fs.Loader({"x": x}, 333, epochs=2)]
        results.append(mine == expected)

    together = [threading.Thread(target=run) for _ in range(4)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join(60)
    assert results == [True] * 4


def test_a_loop_goes_on_where_the_last_one_stopped() -> None:
    loader = fs.Loader({"x": np.arange(10)}, 3, order="sequential")
    first = next(iter(loader))["x"].tolist()
    rest = [batch["x"].tolist() for batch in loader]
    again = [batch["x"].tolist() for batch in loader]
    assert first == [0, 1, 2]
    assert rest == [[3, 4, 5], [6, 7, 8], [9]]
    assert again == [[0, 1, 2], *rest]
    assert loader.clock == fs.Clock(step=8, samples=20, epoch=2.0)


def test_a_bar_counts_samples(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    if os.environ.get("TQDM_DISABLE"):
        pytest.skip("bars are switched off")
    assert len(list(fs.Loader(np.arange(1000), 300, progress=True))) == 4
    assert "1.00k/1.00k" in capsys.readouterr().err


X = np.arange(10)
BAD: list[tuple[Any, type[Exception], str]] = [
    (
        lambda: fs.Loader({"x": X, "y": X[:9]}, 2),
        ValueError,
        r"data\['y'\] has 9 samples, data\['x",
    ),
    (lambda: fs.Loader({}, 2), ValueError, "data must hold at least one array"),
    (lambda: fs.Loader(X[:0], 2), ValueError, "data must hold at least one sample"),
    (lambda: fs.Loader(3, 2), TypeError, "data must be an array, or have a length"),
    (lambda: fs.Loader((X, np.array(3)), 2), ValueError, r"data\[1\] must have samples along"),
    (lambda: fs.Loader(X, 0), ValueError, "batch_size"),
    (
        lambda: fs.Loader(X, 11, tail="drop"),
        ValueError,
        "batch_size is 11, there are 10 samples: with tail='drop' nothing",
    ),
    (lambda: fs.Loader(X, 2.5), TypeError, "batch_size"),
    (lambda: fs.Loader(X, "all"), ValueError, "batch_size"),
    (lambda: fs.Loader(X, 2, epochs=0), ValueError, "epochs must be at least 1, not 0"),
    (lambda: fs.Loader(X, 2, seed=-1), ValueError, "seed must be at least 0, not -1"),
    (lambda: fs.Loader(X, 2, order="random"), ValueError, "order must be one of shuffled, hashed"),
    (lambda: fs.Loader(X, 2, order="window"), ValueError, "window goes with order='window'"),
    (lambda: fs.Loader(X, 2, window=3), ValueError, "window goes with order='window'"),
    (lambda: fs.Loader(X, 2, tail="pad"), ValueError, "tail must be one of short, drop, carry"),
    (lambda: fs.Loader(X, 2, shard=(2, 2)), ValueError, r"shard\[0\] must be at least 0 and at mo"),
    (
        lambda: fs.Loader(X, 2, shard=3),
        TypeError,
        r"shard must be \(rank, world\) or \(begin, end, leaves\), not 3",
    ),
    (lambda: fs.Loader(X, 2, shard=(2, 1, 4)), ValueError, r"shard\[1\] must be"),
    (lambda: fs.Loader(X, 2, shard=(0, 5, 4)), ValueError, r"shard\[1\] must be"),
    (lambda: fs.Loader(X, 2, progress=1), TypeError, "progress must be True or False, not 1"),
    (
        lambda: fs.Loader({"x": X}, 2, transform={"y": abs}),
        ValueError,
        "data has no 'y'; there are",
    ),
    (
        lambda: fs.Loader({"x": X}, 2, transform={"x": 3}),
        TypeError,
        r"transform of data\['x'\] must",
    ),
    (
        lambda: fs.Loader({"x": X + 1j}, 2, transform={"x": fs.data.to_float32()}),
        TypeError,
        "numbers",
    ),
    (lambda: fs.data.to_float32(scale=np.nan), ValueError, "scale must be finite, not nan"),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_arguments_are_named(bad: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bad()
