"""What tests of loaders on a GPU share: where the arrays are, and what the host would deliver."""

from __future__ import annotations

from typing import Any

import numpy as np

from fusestep.data import device

Array = np.ndarray[Any, np.dtype[Any]]
PLACES = ["device", "host", "both"]


def some_data(n: int) -> dict[str, Array]:
    random = np.random.default_rng(n)
    return {
        "x": random.random((n, 3, 2)),
        "y": np.arange(n, dtype=np.uint8),
        "z": random.random((n, 4)).astype(np.float32),
    }


def placed(cupy: Any, data: dict[str, Array], place: str) -> dict[str, Any]:
    """All arrays on the device, all on the host, or every second one on the device."""
    there = {"device": slice(None), "host": slice(0), "both": slice(None, None, 2)}[place]
    return data | {key: cupy.asarray(data[key]) for key in list(data)[there]}


def assert_same(batches: Any, expected: Any) -> None:
    for batch, other in zip(batches, expected, strict=True):
        assert (batch.clock, batch.size) == (other.clock, other.size)
        assert np.array_equal(batch.indices, other.indices)
        assert list(batch.data) == list(other.data)
        for key, rows in other.data.items():
            assert device.is_on_device(batch[key])
            assert (batch[key].shape, batch[key].dtype) == (rows.shape, rows.dtype)
            assert batch[key].get().tobytes() == rows.tobytes(), key


class Rows:
    """A source that brings its own rows, and fails at some calls."""

    def __init__(self, rows: Array, fails_at: int | None = None) -> None:
        self.rows, self.fails_at, self.calls = rows, fails_at, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Array) -> Array:
        self.calls += 1
        if self.calls == self.fails_at:
            raise OSError("no disk")
        return self.rows[indices]
