"""Rows by position, of anything: what packages have, files, and classes of one's own."""

from __future__ import annotations

import array
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusestep as fs

Array = np.ndarray[Any, np.dtype[Any]]
N = 40
ORDERS: list[dict[str, Any]] = [
    {"order": "shuffled"},
    {"order": "window", "window": 7},
    {"order": "sequential"},
    {"order": "shuffled", "shard": (1, 3)},  # whose parts of small batches are empty
    {"order": "hashed", "prefetch": 0},
]
every_order = pytest.mark.parametrize("options", ORDERS, ids=str)


def assert_rows(source: Any, expected: Callable[[Any], Any], options: dict[str, Any]) -> None:
    """All rows of all batches, by what gives the rows of some indices as an array."""
    for size, tail in ((1, "short"), (7, "carry"), (N, "short")):
        loader = fs.Loader({"x": source, "i": np.arange(N)}, size, tail=tail, epochs=2, **options)
        batches = list(loader)
        if "shard" not in options:
            assert sum(map(len, batches)) == 2 * N
        for batch in batches:
            assert batch["i"].tolist() == batch.indices.tolist()
            found, wanted = batch["x"], expected(batch.indices)
            assert np.shape(found)[0] == len(batch)
            assert type(found) is type(wanted)
            assert getattr(found, "dtype", None) == getattr(wanted, "dtype", None)
            assert np.array_equal(dense(found), dense(wanted))


def dense(rows: Any) -> Array:
    return np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows)


@every_order
def test_pandas_is_read_by_position_and_keeps_its_types(options: dict[str, Any]) -> None:
    pd = pytest.importorskip("pandas")
    labels = np.random.default_rng(0).permutation(N)
    frame = pd.DataFrame(
        {
            "float": np.arange(N) / 3,
            "small": np.arange(N, dtype=np.int8),
            "kind": pd.Categorical([f"kind {i % 3}" for i in range(N)]),
            "missing": pd.array([None if i % 5 == 0 else i for i in range(N)], dtype="Int64"),
            "when": pd.date_range("2020-01-01", periods=N, tz="UTC"),
            "text": [f"row {i}" for i in range(N)],
        },
        index=labels,
    )
    for name in ("float", "small"):
        values = frame[name].to_numpy()
        assert_rows(frame[name], values.__getitem__, options)
    loader = fs.Loader(frame, 7, tail="carry", epochs=2, **options)
    for batch in loader:
        assert list(batch.data) == list(frame.columns)
        for name in ("kind", "missing", "when"):
            assert batch[name].dtype == frame[name].dtype
            expected = frame[name].iloc[batch.indices].array
            assert len(batch[name]) == len(batch)
            assert pd.Series(batch[name]).equals(pd.Series(expected))
        assert list(batch["text"]) == [f"row {i}" for i in batch.indices]
    for x, y in fs.Loader((frame, frame["small"]), 7, tail="carry", epochs=2, **options):
        assert x.equals(frame.iloc[y.tolist()])
        x["float"] = 0.0  # memory of its own
    assert frame["float"].to_numpy().tolist() == (np.arange(N) / 3).tolist()
    assert_rows(pd.Index(labels), labels.__getitem__, options)


@every_order
def test_polars_and_pyarrow_are_read_by_position(options: dict[str, Any]) -> None:
    pl, pa = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    numbers = np.arange(N) / 3
    missing = [None if i % 5 == 0 else i for i in range(N)]
    table = {"x": numbers, "missing": missing, "text": [f"row {i}" for i in range(N)]}
    for column in (
        pl.Series(numbers),
        pa.array(numbers),
        pa.chunked_array([numbers[:9], numbers[9:]]),
    ):
        assert_rows(column, numbers.__getitem__, options)
    flags = np.arange(N) % 3 == 0
    for column in (pl.Series(flags), pa.array(flags)):
        assert_rows(column, flags.__getitem__, options)
    for data in (pl.DataFrame(table), pa.table(table), pa.RecordBatch.from_pydict(table)):
        for batch in fs.Loader(data, 7, tail="carry", epochs=2, **options):
            assert batch["x"].tolist() == numbers[batch.indices].tolist()
            for name in ("missing", "text"):
                found = batch[name]
                found = found.to_list() if hasattr(found, "to_list") else found.to_pylist()
                assert found == [table[name][i] for i in batch.indices]
        for rows, x in fs.Loader((data, numbers), 7, tail="carry", epochs=2, **options):
            assert np.asarray(rows["x"]).tolist() == x.tolist()
            assert len(rows["text"]) == len(x)


@every_order
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil"])
def test_sparse_rows_are_sparse_or_dense_on_request(options: dict[str, Any], form: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    numbers = np.random.default_rng(0).integers(0, 3, (N, 5)) // 2.0
    for make in (sparse.csr_matrix, sparse.csr_array):
        rows = make(numbers)
        assert_rows(rows.asformat(form), rows.__getitem__, options)
    to_dense = {0: lambda some: some.toarray()}
    for x, y in fs.Loader((rows, numbers), 7, transform=to_dense, tail="carry", **options):
        assert np.array_equal(x, y)


@every_order
def test_files_that_take_rising_indices_only(options: dict[str, Any], tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    numbers = np.random.default_rng(0).random((N, 3))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"], file["y"] = numbers, np.arange(N)
        assert_rows(file["x"], numbers.__getitem__, options)
        for batch in fs.Loader(file, 7, **options):
            assert np.array_equal(batch["x"], numbers[batch["y"]])
    zarr = pytest.importorskip("zarr")
    stored = zarr.create_array(str(tmp_path / "x.zarr"), shape=(N, 3), chunks=(6, 3), dtype="f8")
    stored[:] = numbers
    assert_rows(stored, numbers.__getitem__, options)


class Own:
    """A source that gives one buffer again and again, and takes only what h5py takes."""

    def __init__(self, rows: Array) -> None:
        self.rows, self.buffer = rows, np.empty_like(rows)
        self.threads: list[str] = []
        self.reads: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: Array) -> Array:
        assert (places[1:] > places[:-1]).all()
        assert len(places) > 0
        self.threads.append(threading.current_thread().name)
        self.reads.append(places.tolist())
        view = self.buffer[: len(places)]
        np.take(self.rows, places, axis=0, out=view)
        return view


@every_order
def test_a_source_may_give_the_same_memory_again(options: dict[str, Any]) -> None:
    rows = np.random.default_rng(0).random((N, 3))
    assert_rows(Own(rows), rows.__getitem__, options)


def test_a_source_may_give_a_list_of_rows() -> None:
    class Rows(Own):
        def __getitem__(self, places: Array) -> Any:
            return [self.rows[i] for i in places]

    rows = np.random.default_rng(0).random((N, 3))
    assert_rows(Rows(rows), rows.__getitem__, {})


def test_nothing_is_read_ahead_where_that_is_not_wanted_nor_across_epochs() -> None:
    source = Own(np.arange(N))
    names = set()
    for batch in fs.Loader(source, 4, prefetch=0, epochs=2):
        assert [sorted(batch.indices)] == source.reads[-1:]
        assert sum(map(len, source.reads)) == sum(map(len, source.reads[:-1])) + 4
    assert set(source.threads) == {threading.current_thread().name}
    source = Own(np.arange(N))
    for batch in fs.Loader(source, 4, epochs=3):
        names.update(source.threads)
        passed = int(batch.clock.epoch or 0) + 1
        assert sum(map(len, source.reads)) <= passed * N
    assert sum(map(len, source.reads)) == 3 * N


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_what_is_changed_at_the_end_of_an_epoch_holds_for_all_of_the_next(
    own: bool, prefetch: int
) -> None:
    rows = np.zeros(N, np.int64)
    loader = fs.Loader(Own(rows) if own else rows, 4, epochs=4, prefetch=prefetch)
    for batch in loader:
        epoch = int(batch.clock.epoch or 0)
        assert batch.data.tolist() == [epoch] * 4
        if loader.clock.epoch == epoch + 1:
            rows[:] = epoch + 1


def test_lists_and_their_like_are_arrays_and_objects_stay_objects() -> None:
    plain = np.arange(N)
    for source in (list(plain), tuple(plain), range(N), array.array("q", range(N))):
        assert_rows(source, plain.__getitem__, {})
    assert_rows([np.full(3, i) for i in range(N)], np.repeat(plain[:, None], 3, 1).__getitem__, {})
    ragged = np.empty(N, object)
    ragged[:] = [tuple(range(i % 4)) for i in range(N)]
    assert_rows(ragged, ragged.__getitem__, {})
    structured = np.zeros(N, [("a", "i4"), ("b", "f8", 3)])
    structured["a"] = plain
    assert_rows(structured, structured.__getitem__, {})


class Bad:
    """A source with something wrong."""

    def __init__(self, give: Callable[[Array], Any], length: int = 10) -> None:
        self.give, self.length = give, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, places: Array) -> Any:
        return self.give(places)


class OnlyOne(Bad):
    def __getitem__(self, index: Any) -> Any:
        return range(10)[index]


X = np.arange(10)
BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: np.ma.masked_array(X, X > 3), TypeError, "is a masked array, whose mask .*filled"),
    (lambda: [np.ma.masked_array(X, X > 3)] * 10, TypeError, "is a masked array"),
    (lambda: Bad(lambda i: np.ma.masked_array(X[i])), TypeError, "is a masked array"),
    (
        lambda: Bad(lambda i: (X[i], X[i])),
        TypeError,
        "a row for each index, not a tuple",
    ),
    (lambda: Bad(lambda i: [X[i], X[i]]), TypeError, "gives list of 2 for one index"),
    (lambda: Bad(lambda i: {"a": X[i]}), TypeError, "a row for each index, not a dict"),
    (lambda: Bad(lambda i: X[i][1:]), ValueError, r"gave 1 samples for 2 indices"),
    (lambda: Bad(lambda i: X[:1]), ValueError, r"gave 1 samples for 2 indices"),
    (lambda: Bad(lambda i: 3), TypeError, "must give an array of rows, not a int"),
    (lambda: Bad(lambda i: [[1], [2, 3]]), TypeError, "for one index"),
    (lambda: Bad(X[:5].__getitem__), IndexError, "all below its length 10; Bad raised IndexError"),
    (lambda: OnlyOne(X.__getitem__), TypeError, "at an array of 2 indices .* raised TypeError"),
    (lambda: {"a": X}, TypeError, "must be an array: give the arrays of this dict"),
    (lambda: "0123456789", TypeError, "must be an array, or have a length"),
    (lambda: [[1], [2, 3]] * 5, ValueError, "rows of different shapes .* pad them"),
    (lambda: np.array(3), ValueError, "must have samples along its first axis"),
    (lambda: iter(X), TypeError, "must be an array, or have a length"),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD, ids=[m for *_, m in BAD])
def test_what_has_no_row_for_each_index_is_refused_by_name(
    make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=r"data\['x'\] .*" + message):
        next(iter(fs.Loader({"x": make(), "y": X}, 2, order="hashed")))


def test_tables_must_name_their_columns_once() -> None:
    pd = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match="must name each column once"):
        fs.Loader(pd.DataFrame(np.zeros((3, 2)), columns=["a", "a"]), 2)


def test_what_a_gpu_can_not_have_is_refused(cupy: Any) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match="data can't go to a GPU: give its arrays"):
        fs.Loader(sparse.csr_array(np.eye(4)), 2, device="cuda")
