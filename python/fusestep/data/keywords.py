"""What a loader says to a keyword that it does not have."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")

# what other libraries call it
_ELSEWHERE = {
    "shuffle": 'order="shuffled", the default, or order="sequential"',
    "drop_last": 'tail="drop"',
    "sampler": "order=",
    "batch_sampler": "order= and batch_size=",
    "num_workers": "prefetch=: rows are gathered by threads in any case",
    "workers": "prefetch=: rows are gathered by threads in any case",
    "prefetch_factor": "prefetch=",
    "ahead": "prefetch=",
    "pin_memory": 'device="cuda"',
    "collate_fn": "transform=, for each array",
    "generator": "seed=",
    "random_state": "seed=",
    "rank": "shard=(rank, world)",
    "world_size": "shard=(rank, world)",
    "num_replicas": "shard=(rank, world)",
}


def explained(init: Callable[P, None]) -> Callable[P, None]:
    """Makes an unknown keyword raise what to write instead."""
    known = list(inspect.signature(init).parameters)

    @functools.wraps(init)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        for name in kwargs.keys() - known:
            near = difflib.get_close_matches(name, known, 1)
            hint = _ELSEWHERE.get(name) or (f"{near[0]}=" if near else None)
            raise TypeError(f"Loader has no {name}=" + (f": use {hint}" if hint else ""))
        init(*args, **kwargs)

    return call
