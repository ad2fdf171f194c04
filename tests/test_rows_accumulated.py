"""Micro-batches of row-sparse gradients, and what else holds them for a while."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep.gradients import GradientStatistics
from tables.row_gradients import Twins, made, zipf


def normal(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    return np.random.default_rng(7).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kinds", ["RR", "RDR", "DRR", "RNR", "NRD", "RRRR"])
def test_sums_of_micro_batches_are_those_of_dense_gradients(kinds: str, dtype: Any) -> None:
    shape, rng = (60, 5), np.random.default_rng(0)

    def build(params: Any) -> Any:
        return fs.AdamW(params, lr=0.1, clip_norm=0.5)

    twins = Twins(build, {"t": normal(shape, dtype), "b": normal((9,), dtype)})
    for step in range(6):
        for kind in kinds:
            grads: dict[str, Any] = {"b": rng.standard_normal(9).astype(dtype), "t": None}
            if kind == "D":
                grads["t"] = rng.standard_normal(shape).astype(dtype)
            if kind == "R":
                grads["t"] = made(zipf(rng, 60, 7), shape, dtype, rng)
            twins.accumulate(grads, float(rng.integers(1, 9)))
        if step == 2:
            twins.opt.discard_accumulated()
            twins.other.discard_accumulated()
        else:
            assert repr(tuple(twins.opt.step())) == repr(tuple(twins.other.step()))
        twins.step({"t": made([5], shape, dtype, rng), "b": None})
    twins.compare()


def test_sums_that_are_too_small_have_the_sign_of_dense_ones() -> None:
    shape = (4, 1)
    twins = Twins(lambda p: fs.SGD(p, lr=1.0), {"t": np.full(shape, -0.0)})
    tiny = np.full((2, 1), -5e-324)
    for rows in ([0, 1], [1, 2], [3, 3]):
        twins.accumulate({"t": fs.Rows(np.array(rows), tiny, shape)}, 0.25)
    assert repr(tuple(twins.opt.step())) == repr(tuple(twins.other.step()))
    twins.compare()


def test_statistics_learn_from_rows() -> None:
    shape, rng = (60, 5), np.random.default_rng(1)
    twins = Twins(lambda p: fs.SGD(p, lr=0.1), {"t": normal(shape)})
    statistics = GradientStatistics(), GradientStatistics()
    for _ in range(4):
        for samples in (3, 5):
            twins.accumulate({"t": made(zipf(rng, 60, 9), shape, np.float32, rng)}, samples)
        twins.opt.step(statistics=statistics[0])
        twins.other.step(statistics=statistics[1])
    assert statistics[0].state_dict() == statistics[1].state_dict()
    twins.compare()


@pytest.mark.parametrize("in_between", [False, True])
def test_a_state_saved_at_any_time_goes_on_with_the_same_bits(in_between: bool) -> None:
    shape, rng = (40, 3), np.random.default_rng(2)

    def build(params: Any) -> Any:
        return fs.AdamW(params, lr=0.1)

    twins = Twins(build, {"t": normal(shape)})
    for step in range(30):
        if in_between:
            twins.accumulate({"t": made(zipf(rng, 40, 4), shape, np.float32, rng)}, 2)
        if step in (7, 8, 20):
            state = twins.opt.state_dict()
            opt = build(twins.lazy)
            opt.load_state_dict(state)
            twins.opt = opt
        if in_between:
            twins.accumulate({"t": made(zipf(rng, 40, 4), shape, np.float32, rng)}, 1)
            assert tuple(twins.opt.step()) == tuple(twins.other.step())
        else:
            twins.step({"t": made(zipf(rng, 40, 4), shape, np.float32, rng)})
    twins.compare()


@pytest.mark.parametrize("change", ["reset", "rebind", "add_group", "load", "history"])
def test_what_replaces_arrays_or_state_finds_all_rows_caught_up(change: str) -> None:
    shape, rng = (40, 3), np.random.default_rng(3)
    twins = Twins(lambda p: fs.AdamW(p, lr=0.1), {"t": normal(shape)})
    saved = [opt.state_dict() for opt in (twins.opt, twins.other)]
    replaced: list[bytes] = []
    for step in range(10):
        twins.step({"t": made(zipf(rng, 40, 4), shape, np.float32, rng)})
        if step != 6:
            continue
        if change == "history":
            twins.opt.history = 2
        pairs = (twins.opt, twins.lazy, saved[0]), (twins.other, twins.dense, saved[1])
        for opt, params, state in pairs:
            if change == "reset":
                opt.reset()
            elif change == "load":
                opt.load_state_dict(state)
            elif change == "rebind":
                before = params["t"]
                params["t"] = np.ones_like(before)
                opt.rebind(params)
                params["t"][...] = before
                replaced.append(before.tobytes())
            elif change == "add_group":
                params["more"] = np.ones(2, np.float32)
                opt.add_group({"more": params["more"]}, lr=0.5)
        if change == "add_group":
            break
    assert replaced[:1] == replaced[1:]
    twins.compare()


def test_trial_steps_with_rows_are_undone() -> None:
    shape, rng = (40, 3), np.random.default_rng(4)
    twins = Twins(lambda p: fs.AdamW(p, lr=0.1), {"t": normal(shape)})
    for _ in range(5):
        twins.step({"t": made(zipf(rng, 40, 4), shape, np.float32, rng)})
    back = twins.opt._returning([])
    for _ in range(3):
        twins.opt.step({"t": made(zipf(rng, 40, 4), shape, np.float32, rng)})
    back()
    twins.step({"t": made(zipf(rng, 40, 4), shape, np.float32, rng)})
    twins.compare()


def test_a_step_in_parts_finds_all_rows_caught_up() -> None:
    shape, rng = (3000, 3), np.random.default_rng(5)
    twins = Twins(lambda p: fs.AdamW(p, lr=0.1), {"t": normal(shape)})
    for _ in range(3):
        twins.step({"t": made(zipf(rng, 3000, 40), shape, np.float32, rng)})
        gradient = normal(shape)
        twins.other.step({"t": gradient})
        plan = twins.opt._plan
        plan.begin_parts([gradient], 1.0, None)
        while not plan.update_part(min(plan.size, 4096)) and not plan.update_part(plan.size):
            pass
    twins.compare()


def test_a_checkpoint_has_all_rows_caught_up(tmp_path: Path) -> None:
    pytest.importorskip("xxhash")
    shape, rng = (40, 3), np.random.default_rng(6)
    twins = Twins(lambda p: fs.AdamW(p, lr=0.1, ema=0.9), {"t": normal(shape)})
    for step in range(9):
        twins.step({"t": made(zipf(rng, 40, 4), shape, np.float32, rng)})
        if step == 4:
            path = fs.checkpoint.save(
                tmp_path / "run", step=4, params=twins.lazy, optimizer=twins.opt
            )
            expected = twins.dense["t"].copy()
            twins.lazy = {"t": np.zeros(shape, np.float32)}
            twins.opt = fs.AdamW(twins.lazy, lr=0.1, ema=0.9)
            fs.checkpoint.load(path, params=twins.lazy, optimizer=twins.opt)
            assert twins.lazy["t"].tobytes() == expected.tobytes()
    twins.compare()
