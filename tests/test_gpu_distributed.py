"""Ranks with parameters on a GPU, or some of them: the bits of ranks on processors."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusestep import distributed
from tables.models import Array, assert_same_bits, plain
from tables.ranks import Case, on_ranks, raised


def on_device(cupy: Any, tree: dict[str, Array]) -> dict[str, Any]:
    return {path: cupy.asarray(array) for path, array in tree.items()}


def run(case: Case, group: Any, cupy: Any, **options: Any) -> tuple[Any, ...]:
    """What a rank has in the end; with CuPy on a GPU."""
    params: dict[str, Any] = case.tree()
    if cupy is not None:
        params = on_device(cupy, params)
    opt, told = case.build(params, group, **options), []
    for step in range(len(case.steps)):
        for leaf in range(opt.share.begin, opt.share.end):
            grads, samples, loss = case.steps[step][leaf]
            if not samples:
                opt.skip()
                continue
            given = {str(k): g for k, g in enumerate(grads)}
            if cupy is not None:
                there = {path: g for path, g in given.items() if g is not None}
                given |= on_device(cupy, there)
            opt.accumulate(given, samples, loss=loss)
        info = opt.step()
        norm = None if info.grad_norm is None else float(info.grad_norm)
        told.append((info.lr, norm, bool(info.applied), opt.loss))
    opt.verify()
    state = opt.state_dict()
    found = {path: array if cupy is None else array.get() for path, array in params.items()}
    return found, repr(told), plain(state) if state else None


@pytest.mark.parametrize("seed", range(12))
def test_ranks_on_gpus_and_on_processors_have_the_bits_of_one(cupy: Any, seed: int) -> None:
    case, pick = Case(seed, leaves=4), random.Random(seed)
    params, told, state = run(case, distributed.alone(), None)
    for world in (1, 2, 3):
        places = [None] * world
        places[pick.randrange(world)] = cupy  # one: the emulated device is of one thread
        memory = pick.choice([None, [1] * world, [*range(1, world + 1)]])
        buckets = pick.choice([1, 3])

        def work(group: Any, places: Any = places, memory: Any = memory, k: Any = buckets) -> Any:
            return run(case, group, places[group.rank], memory=memory, buckets=k)

        found = raised(on_ranks(world, work, timeout=300))  # kernels are compiled here
        for rank, one in enumerate(found):
            assert_same_bits(list(one[0].values()), list(params.values()))
            assert one[1] == told
            assert one[2] == (state if rank == 0 else None)


def test_a_checkpoint_of_ranks_on_gpus_is_one_of_ranks_on_processors(
    cupy: Any, tmp_path: Path
) -> None:
    pytest.importorskip("safetensors")
    pytest.importorskip("xxhash")
    case = Case(2, leaves=4, steps=2)

    def work(group: Any, places: Any, loads: bool) -> Any:
        params: dict[str, Any] = {k: array.copy() for k, array in case.tree().items()}
        if places[group.rank] is not None:
            params = on_device(cupy, params)
        opt = case.build(params, group, memory=[1] * group.world)
        if loads:
            assert opt.load(tmp_path).step == 1
        step = 1 if loads else 0
        for leaf in range(opt.share.begin, opt.share.end):
            grads = {str(k): np.ones_like(array) for k, array in enumerate(case.params)}
            given = grads if places[group.rank] is None else on_device(cupy, grads)
            opt.accumulate(given, leaf + 1)
        opt.step()
        opt.save(tmp_path, step=step + 1)
        return [
            array if isinstance(array, np.ndarray) else array.get() for array in params.values()
        ]

    raised(on_ranks(2, lambda group: work(group, [cupy, None], False), timeout=300))
    found = raised(on_ranks(3, lambda group: work(group, [None, None, cupy], True), timeout=300))
    single = case.tree()
    opt = case.build(single, distributed.alone())
    for _ in range(2):
        for leaf in range(4):
            opt.accumulate({k: np.ones_like(a) for k, a in single.items()}, leaf + 1)
        opt.step()
    for arrays in found:
        assert_same_bits(arrays, list(single.values()))
