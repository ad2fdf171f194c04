"""Who updates rows of a table: fusestep, torch, and NumPy as TensorFlow's LazyAdam does it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

import fusestep as fs

Array = npt.NDArray[Any]
WIDTH = 64
LR, BETAS, EPS = 1e-3, (0.9, 0.999), 1e-8


class Problem:
    """A table, and batches that touch so many of its rows; all with the same gradients."""

    def __init__(self, rows: int, touched: int, batches: int) -> None:
        self.shape = rows, WIDTH
        random = np.random.default_rng(1)
        self.values = 0.01 * random.standard_normal((touched, WIDTH), np.float32)
        self.batches = [_different_rows(random, rows, touched) for _ in range(batches)]
        used = len(np.unique(np.concatenate(self.batches)))
        self.missed = used / touched - 1  # updates since a row was touched, on average

    def fresh_table(self) -> Array:
        return np.random.default_rng(0).random(self.shape, np.float32)


def zipf(random: np.random.Generator, rows: int, draws: int) -> Array:
    """Row numbers, the i-th of the popular ones with a probability in proportion to about 1 / i."""
    ranks = ((rows + 1) ** random.random(draws)).astype(np.int64) - 1
    return ranks.clip(0, rows - 1) * 2_654_435_761 % rows  # which are anywhere in the table


def _different_rows(random: np.random.Generator, rows: int, count: int) -> Array:
    """As they first come in draws from Zipf's law."""
    drawn = np.zeros(0, np.int64)
    while len(drawn) < count:
        drawn = np.concatenate([drawn, zipf(random, rows, 2 * count)])
        _, first = np.unique(drawn, return_index=True)
        drawn = drawn[np.sort(first)]
    return drawn[:count]


class Contestant:
    """One way to update a table; ``step`` takes the next batch."""

    tables = 3  # of memory: parameters and state
    exact = False  # computes what a dense step would

    def __init__(self, problem: Problem) -> None:
        self.problem, self.table, self.taken = problem, problem.fresh_table(), 0

    def step(self) -> None:
        i = self.taken % len(self.problem.batches)
        self.taken += 1
        self.update(i)

    def update(self, i: int) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """Makes the table what it should be."""


class Exact(Contestant):
    """Rows are fetched, as before they are read, and then updated."""

    exact = True

    def __init__(self, problem: Problem, build: Callable[..., fs.optim.Optimizer]) -> None:
        super().__init__(problem)
        self.opt = build({"table": self.table})
        self.grads = [
            {"table": fs.Rows(rows, problem.values, problem.shape)} for rows in problem.batches
        ]

    def update(self, i: int) -> None:
        self.opt.fetch("table", self.problem.batches[i])
        self.opt.step(self.grads[i])

    def finish(self) -> None:
        self.opt.flush()


class Skip(Exact):
    """Nothing is missed, so nothing is fetched."""

    exact = False

    def update(self, i: int) -> None:
        self.opt.step(self.grads[i])


class Dense(Contestant):
    """A gradient of the table's size, whose rows are written and cleared again."""

    tables = 4
    exact = True

    def __init__(self, problem: Problem, build: Callable[..., fs.optim.Optimizer]) -> None:
        super().__init__(problem)
        self.opt = build({"table": self.table})
        self.gradient = np.zeros_like(self.table)

    def update(self, i: int) -> None:
        rows = self.problem.batches[i]
        self.gradient[rows] = self.problem.values
        self.opt.step({"table": self.gradient})
        self.gradient[rows] = 0


class Torch(Contestant):
    """Gradients as backward makes them: the step sorts them, and adds up rows that are the same."""

    def __init__(self, problem: Problem, build: Callable[[Any, Any], Any]) -> None:
        super().__init__(problem)
        torch: Any = importlib.import_module("torch")
        torch.set_num_threads(fs.get_num_threads())
        self.parameter = torch.nn.Parameter(torch.from_numpy(self.table))
        self.optimizer = build(torch.optim, [self.parameter])
        values = torch.from_numpy(problem.values)
        sparse = partial(torch.sparse_coo_tensor, check_invariants=False)
        self.grads = [
            sparse(torch.from_numpy(rows)[None], values, problem.shape) for rows in problem.batches
        ]

    def update(self, i: int) -> None:
        self.parameter.grad = self.grads[i]
        self.optimizer.step()


class NumPyAdam(Contestant):
    """As TensorFlow's LazyAdam: moments and parameters of the rows, and no others."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.m, self.v = np.zeros_like(self.table), np.zeros_like(self.table)

    def update(self, i: int) -> None:
        rows, g, (beta1, beta2) = self.problem.batches[i], self.problem.values, BETAS
        rate = LR * (1 - beta2**self.taken) ** 0.5 / (1 - beta1**self.taken)
        m = self.m[rows] = beta1 * self.m[rows] + (1 - beta1) * g
        v = self.v[rows] = beta2 * self.v[rows] + (1 - beta2) * g * g
        self.table[rows] -= rate * m / (np.sqrt(v) + EPS)


class NumPySGD(Contestant):
    tables = 1

    def update(self, i: int) -> None:
        self.table[self.problem.batches[i]] -= LR * self.problem.values


Builds = Mapping[str, Callable[[Problem], Contestant]]


def _adam(params: Any, **options: Any) -> fs.Adam:
    return fs.Adam(params, lr=LR, betas=BETAS, eps=EPS, eps_mode="hat", **options)


def _sgd(params: Any, **options: Any) -> fs.SGD:
    return fs.SGD(params, lr=LR, **options)


ADAM: Builds = {
    "exact": partial(Exact, build=_adam),
    "skip": partial(Skip, build=partial(_adam, lazy="skip")),
    "torch SparseAdam": partial(
        Torch, build=lambda optim, p: optim.SparseAdam(p, lr=LR, betas=BETAS, eps=EPS)
    ),
    "NumPy": NumPyAdam,
    "dense": partial(Dense, build=_adam),
}
SGD: Builds = {
    "exact": partial(Exact, build=_sgd),
    "torch SGD": partial(Torch, build=lambda optim, p: optim.SGD(p, lr=LR)),
    "NumPy": NumPySGD,
    "dense": partial(Dense, build=_sgd),
}
