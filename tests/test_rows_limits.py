"""What steps with rows cost: memory that nobody touched stays untouched."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep.distributed import Sharded, alone
from tables.row_gradients import Twins, made, zipf


def normal(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def resident() -> int:
    """Bytes of memory that this process has pages of."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.unsanitized
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("lazy", ["exact", "skip"])
def test_a_step_touches_no_memory_of_other_rows(lazy: Any) -> None:
    rows, width = 1 << 20, 64  # 256 MB for each of parameter, m, v and sum
    table = np.zeros((rows, width), np.float32)
    indices = np.arange(100, dtype=np.int32)
    gradient = fs.Rows(indices, np.ones((100, width), np.float32), table.shape)
    opt = fs.Adam({"t": table, "b": np.zeros(5000)}, clip_norm=1.0, lazy=lazy)
    before = resident()
    for _ in range(5):
        opt.fetch("t", indices)
        opt.step({"t": gradient, "b": np.ones(5000)})
        opt.accumulate({"t": gradient, "b": None}, 3)
        opt.accumulate({"t": gradient, "b": None}, 3)
        opt.step()
    assert resident() - before < 40e6  # some pages are large
    assert opt.steps_applied == 10


def test_many_rows_are_sorted_by_several_threads() -> None:
    shape, rng = (70_000, 1), np.random.default_rng(0)
    fs.set_num_threads(3)
    twins = Twins(lambda p: fs.Adam(p, lr=0.1, clip_norm=1.0), {"t": normal(shape)})
    for _ in range(3):
        rows = zipf(rng, shape[0], 100_000)
        twins.opt.fetch("t", rows)
        twins.step({"t": made(rows, shape, np.float32, rng)})
    twins.compare()


def test_rules_that_leave_other_rows_alone_log_nothing() -> None:
    # with a history of one update, each that is logged would make all rows catch up
    shape = (1000, 4)
    options: list[Any] = [fs.SGD, lambda p, **more: fs.Adagrad(p, **more)]
    for build in options:
        table = normal(shape)
        opt = build(table, lr=0.5, history=1)
        gradient = fs.Rows(np.array([3]), np.ones((1, 4), np.float32), shape)
        before = table.copy()
        table[10] = np.nan  # whoever updates this row is found out
        opt.step(gradient)
        opt.step(gradient)
        table[10] = before[10]
        opt.flush()
        changed = np.flatnonzero((table != before).any(axis=1))
        assert changed.tolist() == [3]


def test_rows_without_state_rest() -> None:
    shape = (100, 4)
    table = normal(shape)
    table[7] = -0.0
    twins = Twins(lambda p: fs.Adam(p, lr=0.1), {"t": table})
    rng = np.random.default_rng(1)
    for step in range(20):
        twins.step({"t": made(zipf(rng, 7, 3), shape, np.float32, rng)})
        if step == 10:
            twins.opt.weight_decay = twins.other.weight_decay = 0.1
        if step == 15:
            twins.opt.weight_decay = twins.other.weight_decay = 0.0
            twins.compare()
    twins.compare()


def test_an_array_that_was_resized_is_found() -> None:
    indices = np.array([1, 2])
    gradient = fs.Rows(indices, np.ones((2, 3)), (9, 3))
    opt = fs.SGD(np.ones((9, 3)))
    indices.resize(3, refcheck=False)
    with pytest.raises(ValueError, match="an array has been resized since"):
        opt.step(gradient)


def test_ranks_refuse_rows() -> None:
    table = np.ones((9, 3))
    sharded = Sharded(fs.SGD, {"t": table}, leaves=1, group=alone())
    with pytest.raises(TypeError, match=r"params\['t'\]: gradient is a Rows, which ranks can't"):
        sharded.accumulate({"t": fs.Rows(np.array([1]), np.ones((1, 3)), (9, 3))}, 1)


@pytest.mark.parametrize("maximize", [False, True])
def test_zeros_of_other_rows_have_the_sign_of_dense_ones(maximize: bool) -> None:
    # to maximize, a gradient of 0 is -0, and -0 minus -0 is 0
    twins = Twins(lambda p: fs.SGD(p, lr=1.0, maximize=maximize), {"t": np.full((9, 2), -0.0)})
    twins.step({"t": fs.Rows(np.array([3]), np.ones((1, 2)), (9, 2))})
    twins.compare()
