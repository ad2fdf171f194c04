"""Options of Adam: off, they change no bit; and what each is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import schedules
from tables.models import DTYPES, Array, arrays, assert_same_bits
from tables.oracle import Oracle
from tables.registry import ROWS, Row

SIZES = (1, 1000, 4097, 40_000)
PLAIN = [
    row
    for row in ROWS
    if row.optimizer in (fs.Adam, fs.AdamW)
    and not row.options.keys() & {"nesterov", "cautious", "update_clip", "cautious_decay"}
]
DECOUPLED = [row for row in PLAIN if row.optimizer is fs.AdamW]

every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def trained(row: Row, dtype: type, **options: Any) -> list[Array]:
    params = arrays(SIZES, dtype, 0)
    opt = row.build(params, clip_norm=3.0, **options)
    for seed in range(1, 5):
        opt.step(arrays(SIZES, dtype, seed))
    return [*params, *(a for state in opt.state.values() for a in state.values())]


@every_dtype
@pytest.mark.parametrize("row", PLAIN, ids=lambda row: row.id)
def test_a_clip_that_is_not_reached_has_the_bits_of_plain_adam(row: Row, dtype: type) -> None:
    assert_same_bits(trained(row, dtype, update_clip=1e30), trained(row, dtype))


@every_dtype
@pytest.mark.parametrize("row", DECOUPLED, ids=lambda row: row.id)
def test_cautious_decay_of_nothing_has_the_bits_of_plain_adam(row: Row, dtype: type) -> None:
    expected = trained(row, dtype, weight_decay=0.0)
    assert_same_bits(trained(row, dtype, weight_decay=0.0, cautious_decay=True), expected)


@every_dtype
def test_an_update_clip_may_come_and_go_and_follow_a_schedule(dtype: type) -> None:
    params, grads = arrays(SIZES, dtype, 0), arrays(SIZES, dtype, 1)
    h = {**DECOUPLED[0].full, "lr": 0.02}
    oracle = Oracle("adam", h, params)
    opt = fs.AdamW(params, lr=0.02)
    falling = schedules.linear(1.0, 0.1, length=4)
    clips = [None, 0.5, None, falling, falling, falling]
    for step, clip in enumerate(clips):
        if step == 0 or clip is not clips[step - 1]:
            opt.update_clip = clip
        h["update_clip"] = clip(step) if clip is falling else clip
        oracle.step(grads)
        opt.step(grads)
        assert opt.update_clip == h["update_clip"]
    assert_same_bits(params, oracle.params)


def test_groups_clip_by_themselves() -> None:
    sizes = (50_000, 7, 50_000)
    params = arrays(sizes, np.float32, 0)
    alone = [params[0].copy(), params[2].copy()]
    opt = fs.AdamW(params, lr=0.02, groups=[{"match": "2", "update_clip": 0.3}])
    others = [fs.AdamW(alone[0], lr=0.02), fs.AdamW(alone[1], lr=0.02, update_clip=0.3)]
    for seed in range(1, 4):
        grads = arrays(sizes, np.float32, seed)
        opt.step(grads)
        for other, grad in zip(others, grads[::2], strict=True):
            other.step(grad)
    assert_same_bits(params[::2], alone)


def test_what_strays_from_the_gradient_stands_still_and_the_rest_goes_farther() -> None:
    w = np.zeros(4)
    opt = fs.AdamW(w, lr=0.1, weight_decay=0.0, cautious=True, betas=(0.9, 0.9), eps=1e-30)
    opt.step(np.full(4, 1.0))
    assert w == pytest.approx(np.full(4, -0.1))
    opt.step(np.array([-0.5, 1.0, 1.0, 1.0]))  # the momentum of the first is above 0 still
    assert w[0] == pytest.approx(-0.1)
    assert w[1:] == pytest.approx(np.full(3, -0.1 - 0.1 * 4 / 3))


def test_where_all_stray_nothing_moves_and_decay_acts() -> None:
    w = np.ones(3)
    opt = fs.AdamW(w, lr=0.1, weight_decay=0.5, cautious=True)
    opt.step(np.zeros(3))
    assert w == pytest.approx(np.full(3, 0.95))


def test_a_gradient_far_above_its_average_shortens_the_step_of_the_whole_array() -> None:
    params = [np.zeros(2), np.zeros(2)]
    plain, clipped = fs.Adam(params[0], lr=0.1), fs.Adam(params[1], lr=0.1, update_clip=1.0)
    for gradient in ([1.0, 1.0], [1.0, 1.0], [100.0, 1.0]):
        for opt in (plain, clipped):
            opt.step(np.array(gradient))
    free, short = (p + 0.2 for p in params)
    assert short / free == pytest.approx(np.full(2, short[0] / free[0]))
    assert 0 < short[0] / free[0] < 0.9


def test_cautious_decay_leaves_what_the_step_takes_away_from_zero() -> None:
    w = np.array([2.0, -2.0, 2.0, -2.0, 0.0])
    opt = fs.AdamW(w, lr=0.1, weight_decay=0.5, cautious_decay=True)
    opt.step(np.array([1.0, -1.0, -1.0, 1.0, 1.0]))
    assert w == pytest.approx([1.8, -1.8, 2.1, -2.1, -0.1])
    w[:] = 2.0
    opt = fs.AdamW(w, lr=0.1, weight_decay=0.5, cautious_decay=True)
    opt.step(np.zeros(5))  # no step, no decay
    assert (w == 2.0).all()


@pytest.mark.parametrize(
    ("decay_by", "max_lr", "shrinks"),
    [("lr", None, (0.9, 0.95)), ("max_lr", 0.2, (0.9, 0.975)), ("schedule", 0.2, (0.5, 0.75))],
)
def test_decay_follows_the_rate_its_square_or_the_schedule_alone(
    decay_by: Any, max_lr: float | None, shrinks: tuple[float, float]
) -> None:
    w = np.ones(1)
    lr = schedules.linear(0.2, 0.1, length=1)
    opt = fs.AdamW(w, lr=lr, weight_decay=0.5, decay_by=decay_by, max_lr=max_lr)
    for shrink in shrinks:
        before = w.copy()
        opt.step(np.zeros(1))
        assert w == pytest.approx(before * shrink)


def test_the_largest_rate_may_be_that_of_a_group() -> None:
    params = [np.ones(1), np.ones(1)]
    other = {"match": "1", "lr": 0.2, "max_lr": 0.4}
    opt = fs.AdamW(
        params, lr=0.1, weight_decay=0.5, decay_by="schedule", max_lr=0.1, groups=[other]
    )
    opt.step([np.zeros(1), np.zeros(1)])
    assert [p[0] for p in params] == pytest.approx([0.5, 0.75])
