"""Row-sparse gradients beside the dense ones that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fusestep as fs

Array = np.ndarray[Any, Any]


def zipf(rng: np.random.Generator, rows: int, count: int) -> Array:
    """Numbers of rows, the first of which come most often, with repetitions."""
    weights = 1.0 / np.arange(1, rows + 1) ** 1.1
    return rng.choice(rows, count, p=weights / weights.sum())


def made(indices: Any, shape: tuple[int, ...], dtype: Any, rng: np.random.Generator) -> fs.Rows:
    """A gradient of these rows; some elements are 0 and -0."""
    indices = np.asarray(indices, rng.choice([np.int32, np.int64]))
    values = rng.standard_normal((len(indices), *shape[1:])).astype(dtype)
    values[rng.random(values.shape) < 0.1] = 0.0
    values[rng.random(values.shape) < 0.1] *= -0.0
    return fs.Rows(indices, values, shape)


def dense(gradient: Any) -> Any:
    """What it stands for; anything else is itself."""
    if not isinstance(gradient, fs.Rows):
        return gradient
    array = np.zeros(gradient.shape, gradient.values.dtype)
    np.add.at(array, gradient.indices, gradient.values)
    return array


class Twins:
    """Two optimizers of the same parameters: one gets rows, the other what they stand for."""

    def __init__(self, build: Callable[[Any], Any], params: dict[str, Array]) -> None:
        self.build = build
        self.lazy, self.dense = ({n: p.copy() for n, p in params.items()} for _ in range(2))
        self.opt, self.other = build(self.lazy), build(self.dense)

    def step(self, grads: dict[str, Any], **more: Any) -> None:
        info = self.opt.step(grads, **more)
        other = self.other.step({name: dense(grad) for name, grad in grads.items()}, **more)
        assert repr(tuple(info)) == repr(tuple(other))

    def accumulate(self, grads: dict[str, Any], samples: float) -> None:
        squares = self.opt.accumulate(grads, samples)
        other = self.other.accumulate({n: dense(grad) for n, grad in grads.items()}, samples)
        assert repr(squares) == repr(other)

    def compare(self) -> None:
        """Of all rows, which catch up for it."""
        self.opt.flush()
        for name, array in self.dense.items():
            assert self.lazy[name].tobytes() == array.tobytes(), name
            for state, values in self.other.state[name].items():
                assert self.opt.state[name][state].tobytes() == values.tobytes(), (name, state)

    def compare_rows(self, name: str, rows: Array) -> None:
        """Of these rows alone."""
        self.opt.fetch(name, rows)
        assert self.lazy[name][rows].tobytes() == self.dense[name][rows].tobytes()
