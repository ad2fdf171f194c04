"""Runs on several ranks, which are threads of this process."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

import fusestep as fs
from fusestep import distributed, gradients, schedules
from tables.models import Array, assert_same_bits, plain

SIZES = (1, 3, 15, 16, 17, 1000, 1023, 1024, 1025, 5000)
NONFINITE = ("propagate", "skip")


def on_ranks(
    world: int, work: Callable[[distributed.Group], Any], timeout: float = 30
) -> list[Any]:
    """What some work returns, or raises, on every rank of a group."""
    found: list[Any] = [None] * world

    def run(group: Any) -> None:
        try:
            found[group.rank] = work(group)
        except Exception as error:
            found[group.rank] = error

    ranks = distributed.threads(world, timeout=timeout) if world > 1 else [distributed.alone()]
    threads = [threading.Thread(target=run, args=(group,)) for group in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def raised(found: list[Any]) -> list[Any]:
    """What ranks returned; raises the first error of one."""
    for error in found:
        if isinstance(error, Exception):
            raise error
    return found


def level_by_level(values: list[Array | None]) -> Array | None:
    """The sum over the tree, as NumPy adds it."""
    while len(values) > 1:
        pairs = [values[i : i + 2] for i in range(0, len(values), 2)]
        values = []
        for pair in pairs:
            there = [value for value in pair if value is not None]
            values.append(there[0] + there[1] if len(there) == 2 else (there or [None])[0])
    return values[0]


class Case:
    """A run of a few steps, with gradients of every leaf."""

    RULES = (
        (fs.AdamW, {"lr": 1e-2, "weight_decay": 0.1}),
        (fs.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        (fs.Adam, {"lr": schedules.cosine(1e-2, length=5), "amsgrad": True}),
        (fs.AdamW, {"lr": 1e-2, "groups": [{"match": "0", "weight_decay": 0.0, "lr": 1e-3}]}),
        (fs.Lion, {"lr": 1e-3}),
        (fs.NAdam, {"lr": 1e-3, "ema": 0.9}),
    )
    SUMMING = (  # over whole arrays
        (fs.LAMB, {"lr": 1e-2, "weight_decay": 0.1}),
        (fs.LARS, {"lr": 0.1, "momentum": 0.9}),
        (fs.AdamW, {"lr": 1e-2, "cautious": True}),
        (fs.SGD, {"lr": 0.1, "agc": 0.1, "agc_axis": 0}),
        (fs.StableAdamW, {"lr": 1e-2, "groups": [{"match": "0", "weight_decay": 0.1}]}),
    )

    def __init__(self, seed: int, leaves: int | None = None, steps: int = 3) -> None:
        rng, pick = np.random.default_rng(seed), random.Random(seed)
        sizes = [pick.choice([*SIZES, pick.randint(1, 3000), 0]) for _ in range(pick.randint(1, 5))]
        sizes += [pick.choice(SIZES)]
        if seed % 10 == 0:
            sizes += [(1 << 20) + 7, 333]
        self.dtype = pick.choice([np.float32, np.float64])
        self.leaves = leaves or pick.randint(1, 17)
        self.rule, settings = pick.choice(self.SUMMING if seed % 4 == 3 else self.RULES)
        limits = {"clip_norm": pick.choice([None, 0.1, 1e3]), "nonfinite": pick.choice(NONFINITE)}
        self.settings: dict[str, Any] = {**settings, **limits}
        self.shapes = [(size // 3, 3) if size % 3 == 0 else (size,) for size in sizes]
        self.params = [rng.standard_normal(one).astype(self.dtype) for one in self.shapes]
        self.steps = [
            [self._leaf(rng, pick, leaf) for leaf in range(self.leaves)] for _ in range(steps)
        ]
        if pick.random() < 0.3:
            self.steps[1][-1][0][-1] = np.full(self.shapes[-1], np.inf, self.dtype)

    def _leaf(self, rng: Any, pick: Any, leaf: int) -> tuple[list[Any], int, float]:
        grads: list[Any] = []
        for shape in self.shapes:
            gradient = (rng.standard_normal(shape) * 10.0 ** rng.integers(-2, 3)).astype(self.dtype)
            gradient[::7] = -0.0
            grads.append(None if pick.random() < 0.1 else gradient)
        return grads, pick.randint(0 if leaf else 1, 40), pick.random()

    def tree(self) -> dict[str, Array]:
        return {str(k): array.copy() for k, array in enumerate(self.params)}

    def build(self, params: Any, group: Any, **options: Any) -> distributed.Sharded:
        options = {"leaves": self.leaves, **options, **self.settings}
        return distributed.Sharded(self.rule, params, group=group, **options)

    def accumulate(self, opt: distributed.Sharded, step: int) -> None:
        for leaf in range(opt.share.begin, opt.share.end):
            grads, samples, loss = self.steps[step][leaf]
            if samples:
                opt.accumulate({str(k): g for k, g in enumerate(grads)}, samples, loss=loss)
            else:
                opt.skip()

    def run(self, world: int, **options: Any) -> tuple[Any, ...]:
        def work(group: Any) -> Any:
            params, told = self.tree(), []
            opt = self.build(params, group, **options)
            statistics = gradients.GradientStatistics()
            for step in range(len(self.steps)):
                self.accumulate(opt, step)
                info = opt.step(statistics=statistics if step else None)
                told.append((info.lr, info.grad_norm, info.applied, opt.loss))
            opt.verify()
            state = opt.state_dict()
            assert (state is None) == (group.rank > 0)
            return params, repr(told), plain(statistics.state_dict()), state

        found = on_ranks(world, work)
        for error in found:
            if isinstance(error, Exception):
                raise error
        for params, *rest in found[1:]:
            assert_same_bits(list(params.values()), list(found[0][0].values()))
            assert rest[:2] == list(found[0][1:3])
        return found[0]
