"""Saved by any number of ranks and loaded by any other: ranks are threads of this process."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from fusestep import checkpoint
from runs import processes
from tables.models import Array, assert_same_bits, plain
from tables.ranks import Case, on_ranks, raised

pytest.importorskip("safetensors")
pytest.importorskip("xxhash")

from runs import ranks
from runs.ranks import Training


@pytest.mark.parametrize("seed", range(16))
def test_a_run_goes_on_with_any_number_of_ranks_and_with_none(seed: int, tmp_path: Path) -> None:
    case, pick = Case(seed, leaves=16, steps=4), random.Random(seed)
    params, *_, state = case.run(1)
    for step, world in enumerate([3, 2, 4, 1]):
        memory = pick.choice([None, [pick.choice([0, 1, 5]) for _ in range(world - 1)] + [1]])

        def work(group: Any, step: int = step, memory: Any = memory) -> Any:
            mine = case.tree()
            opt = case.build(mine, group, memory=memory)
            loaded = opt.load(tmp_path)
            assert (None if loaded is None else loaded.step) == (step or None)
            case.accumulate(opt, step)
            opt.step()
            opt.save(tmp_path, step=step + 1)
            return mine

        found = raised(on_ranks(world, work))
        assert_same_bits(list(found[0].values()), list(found[-1].values()))
    assert_same_bits(list(found[0].values()), list(params.values()))

    others = case.tree()
    opt = case.rule(others, **case.settings)
    loaded = checkpoint.Checkpoints(tmp_path).load(params=others, optimizer=opt)
    assert loaded is not None
    assert (loaded.step, loaded.new, loaded.unused) == (4, (), ())
    assert_same_bits(list(others.values()), list(params.values()))
    assert plain(opt.state_dict()) == plain(state)


@pytest.mark.parametrize("seed", range(6))
def test_a_run_of_one_process_goes_on_with_ranks(seed: int, tmp_path: Path) -> None:
    case = Case(seed, leaves=16)
    params, *_, state = case.run(1)
    opt = case.rule(params, **case.settings)
    opt.load_state_dict(state)
    path = checkpoint.save(tmp_path / "run.safetensors", step=3, params=params, optimizer=opt)

    def work(group: Any) -> Any:
        mine = case.tree()
        ranks = case.build(mine, group)
        loaded = ranks.load(path)
        return mine, ranks.state_dict(), loaded.step

    found = raised(on_ranks(3, work))
    for mine, _, step in found:
        assert_same_bits(list(mine.values()), list(params.values()))
        assert step == 3
    assert plain(found[0][1]) == plain(state)


def trained(worlds: list[int], folder: Path) -> tuple[list[str], Array, Any]:
    """Two steps of each number of ranks in turn, from folder to folder."""
    losses: list[str] = []
    for world in worlds:

        def work(group: Any) -> Any:
            run = Training(group)
            done = run.load(folder)
            run.steps(2)
            run.save(folder, done + 2)
            return run.losses, run.params["w"], run.opt.state_dict()

        found = raised(on_ranks(world, work))
        for told, values, _ in found:
            assert told == found[0][0]
            assert_same_bits([values], [found[0][1]])
        losses += found[0][0]
    return losses, found[0][1], found[0][2]


def test_loader_schedules_controls_and_averages_go_on_with_other_ranks(tmp_path: Path) -> None:
    def whole(group: Any) -> Any:
        run = Training(group)
        run.steps(8)
        return run.losses, run.params["w"], run.opt.state_dict()

    (expected,) = raised(on_ranks(1, whole))
    found = trained([3, 2, 4, 1], tmp_path)
    assert found[0] == expected[0]
    assert_same_bits([found[1]], [expected[1]])
    assert plain(found[2]) == plain(expected[2])


def test_after_each_kill_of_a_rank_the_newest_checkpoint_has_the_bits_of_one_rank(
    tmp_path: Path,
) -> None:
    processes.mpiexec()
    counts = ranks.killed(tmp_path, kills=4, seed=0)
    assert counts["kills"] == 4
    assert counts["saved"] > 4
