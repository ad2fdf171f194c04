"""A step that is updated in parts, and a norm from outside: what shards of a model need.

On a GPU as on the CPU; the tests give `xp` as the module of their arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import schedules
from fusestep.engines import Plan, StepInfo
from tables.models import Array, arrays, assert_same_bits
from tables.norms import grad_norm, squared_norm
from tables.registry import ONE_EACH, ROWS, Row

BLOCK = 1024
SIZES = (5, 1019, 3000, 0, 40_000, 1, 7000)
TOTAL = sum(SIZES)
ENDS = [
    [TOTAL],
    [BLOCK, 5 * BLOCK, TOTAL],
    [0, BLOCK, BLOCK, 48 * BLOCK, 49 * BLOCK, TOTAL],
    [*range(BLOCK, TOTAL, BLOCK), TOTAL],
]

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)


def put(xp: Any, values: list[Any]) -> list[Any]:
    return [None if v is None else xp.asarray(v) for v in values]


def got(values: list[Any]) -> list[Array]:
    """Arrays of NumPy, once all that was launched is done."""
    return [v if isinstance(v, np.ndarray) else v.get() for v in values]


def placed(xp: Any, sizes: tuple[int, ...], dtype: Any, seed: int) -> list[Any]:
    return put(xp, list(arrays(sizes, dtype, seed)))


def ones(xp: Any, size: int) -> Any:
    return xp.asarray(np.ones(size))


def plan_of(opt: fs.optim.Optimizer) -> Plan:
    return opt._plan


def in_parts(plan: Plan, grads: Any, ends: list[int], **options: Any) -> StepInfo:
    info = plan.begin_parts(grads, 1.0, None, **options)
    if info.applied:
        assert [plan.update_part(end) for end in ends] == [False] * (len(ends) - 1) + [True]
    return info


@pytest.mark.parametrize(
    ("row", "ends"),
    [(row, ENDS[2]) for row in ROWS] + [(row, e) for row in ONE_EACH for e in ENDS if e != ENDS[2]],
    ids=lambda v: v.id if isinstance(v, Row) else str(len(v)),
)
def test_parts_have_the_bits_of_one_step(xp: Any, row: Row, ends: list[int]) -> None:
    parts, whole = placed(xp, SIZES, np.float32, 0), arrays(SIZES, np.float32, 0)
    opts = [row.build(params, clip_norm=2.0, nonfinite="skip") for params in (parts, whole)]
    for step in range(1, 5):
        grads: list[Array | None] = list(arrays(SIZES, np.float32, step))
        if step == 2:
            grads[2] = None
        if step == 3:
            grads[4][7] = np.inf  # type: ignore[index]
        infos = in_parts(plan_of(opts[0]), put(xp, grads), ends), opts[1].step(grads)
        assert tuple(infos[0]) == tuple(infos[1])
    assert_same_bits(got(parts), whole)
    assert repr(opts[0].state_dict()) == repr(opts[1].state_dict())


def test_a_gradient_may_come_with_its_part(xp: Any) -> None:
    params, expected = placed(xp, (2 * BLOCK,), np.float64, 0), arrays((2 * BLOCK,), np.float64, 0)
    grads = arrays((2 * BLOCK,), np.float64, 1)
    fs.AdamW(expected, lr=0.1).step(grads)
    grads = put(xp, list(grads))
    buffer = [xp.asarray(np.full(2 * BLOCK, np.nan))]
    plan = plan_of(fs.AdamW(params, lr=0.1))
    plan.begin_parts(buffer, 1.0, None)
    for begin in (0, BLOCK):
        buffer[0][begin : begin + BLOCK] = grads[0][begin : begin + BLOCK]
        plan.update_part(begin + BLOCK)
    assert_same_bits(got(params), expected)


def test_the_list_of_gradients_may_change_between_the_parts(xp: Any) -> None:
    params, expected = placed(xp, (2 * BLOCK,), np.float32, 0), arrays((2 * BLOCK,), np.float32, 0)
    fs.SGD(expected).step(arrays((2 * BLOCK,), np.float32, 1))
    grads = placed(xp, (2 * BLOCK,), np.float32, 1)
    plan = plan_of(fs.SGD(params))
    plan.begin_parts(grads, 1.0, None)
    plan.update_part(BLOCK)
    grads[0] = xp.zeros(2 * BLOCK, np.float32)
    assert plan.update_part(2 * BLOCK)
    assert_same_bits(got(params), expected)


def test_two_shards_with_a_norm_from_outside_are_the_whole_model(xp: Any) -> None:
    cut = 6 * BLOCK
    whole, flat = arrays((20_000,), np.float32, 0), placed(xp, (20_000,), np.float32, 0)[0]
    shards = [flat[:cut], flat[cut:]]
    opt = fs.AdamW(whole, lr=0.1, clip_norm=0.5, nonfinite="skip")
    parts = [fs.AdamW(s, lr=0.1, clip_norm=0.5, nonfinite="skip") for s in shards]
    for step in range(1, 5):
        grads = arrays((20_000,), np.float32, step)
        if step == 3:
            grads[0][-1] = np.nan
        info = opt.step(grads)
        total = squared_norm(grads, [20_000])
        for one, grad in zip(parts, (grads[0][:cut], grads[0][cut:]), strict=True):
            told = plan_of(one).step([xp.asarray(grad)], 1.0, None, squared_norm=total)
            assert repr(told) == repr(info)
    assert_same_bits(got([flat]), whole)


def test_a_norm_from_outside_is_told_even_where_nothing_asks_for_one(xp: Any) -> None:
    plan = plan_of(fs.SGD(ones(xp, 3)))
    grads = [ones(xp, 3)]
    assert plan.step(grads, 1.0, None).grad_norm is None
    assert plan.step(grads, 2.0, None, squared_norm=16.0).grad_norm == 2.0
    assert plan.begin_parts(grads, 1.0, None, squared_norm=9.0).grad_norm == 3.0


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_norm_from_outside_may_be_of_scaled_gradients(xp: Any) -> None:
    huge = [np.full(4, 1e200)]
    expected, w = [np.ones(4)], ones(xp, 4)
    info = fs.SGD(expected, lr=1.0, clip_norm=1.0).step(huge)
    scale = 2.0**-600
    total = squared_norm([huge[0] * scale], [4])
    plan = plan_of(fs.SGD(w, lr=1.0, clip_norm=1.0))
    told = plan.step(put(xp, huge), 1.0, None, squared_norm=(total, scale))
    assert tuple(told) == tuple(info)
    assert info.grad_norm == grad_norm(huge, [4])
    assert_same_bits(got([w]), expected)


@pytest.mark.parametrize("options", [{"squared_norm": -1.0}, {"squared_norm": (1.0, 0.0)}], ids=str)
def test_a_norm_that_can_not_be_is_refused(xp: Any, options: Any) -> None:
    plan = plan_of(fs.SGD(ones(xp, 3)))
    for call in (plan.step, plan.begin_parts):
        with pytest.raises(ValueError, match="squared_norm must be at least 0"):
            call([ones(xp, 3)], 1.0, None, **options)
    assert (plan.attempted, plan.updates) == (0, [0])


def test_a_nonfinite_norm_from_outside_ends_a_step_in_parts_at_once(xp: Any) -> None:
    w = ones(xp, 3 * BLOCK)
    opt = fs.SGD(w, nonfinite="skip")
    plan = plan_of(opt)
    info = plan.begin_parts([ones(xp, 3 * BLOCK)], 1.0, None, squared_norm=np.inf)
    assert not info.applied
    assert (opt.steps_attempted, opt.steps_applied) == (1, 0)
    with pytest.raises(fs.StateError, match="no step is updated in parts"):
        plan.update_part(BLOCK)
    opt.nonfinite = "raise"
    with pytest.raises(ValueError, match="gradient holds NaN or infinity; nothing was updated"):
        plan.begin_parts([ones(xp, 3 * BLOCK)], 1.0, None, squared_norm=np.nan)
    assert (got([w])[0] == 1.0).all()


OTHER_CALLS = {
    "step": lambda opt, xp: opt.step([ones(xp, 2 * BLOCK)]),
    "begin_parts": lambda opt, xp: opt._plan.begin_parts([ones(xp, 2 * BLOCK)], 1.0, None),
    "bind": lambda opt, xp: opt.bind([ones(xp, 2 * BLOCK)]),
    "set": lambda opt, xp: setattr(opt, "lr", 0.5),
    "nonfinite": lambda opt, xp: setattr(opt, "nonfinite", "skip"),
    "rebind": lambda opt, xp: opt.rebind([ones(xp, 2 * BLOCK)]),
    "accumulate": lambda opt, xp: opt.accumulate([ones(xp, 2 * BLOCK)], samples=1),
    "state_dict": lambda opt, xp: opt.state_dict(),
    "add_group": lambda opt, xp: opt.add_group([ones(xp, 2)]),
}


@pytest.mark.parametrize("call", OTHER_CALLS.values(), ids=OTHER_CALLS)
def test_between_parts_every_other_call_is_refused_and_the_step_goes_on(xp: Any, call: Any) -> None:
    params, expected = placed(xp, (2 * BLOCK,), np.float64, 0), arrays((2 * BLOCK,), np.float64, 0)
    grads = arrays((2 * BLOCK,), np.float64, 1)
    fs.Adam(expected, lr=0.1).step(grads)
    opt = fs.Adam(params, lr=0.1)
    plan = plan_of(opt)
    plan.begin_parts(put(xp, list(grads)), 1.0, None)
    for end in (BLOCK, 2 * BLOCK):
        with pytest.raises(fs.StateError, match="a step is updated in parts"):
            call(opt, xp)
        plan.update_part(end)
    assert_same_bits(got(params), expected)
    assert (opt.steps_attempted, opt.steps_applied, opt.lr) == (1, 1, 0.1)


def test_parts_in_a_wrong_order_are_refused_and_change_nothing(xp: Any) -> None:
    w = ones(xp, 3 * BLOCK - 5)
    plan = plan_of(fs.SGD(w, lr=1.0))
    with pytest.raises(fs.StateError, match="begin_parts"):
        plan.update_part(BLOCK)
    with pytest.raises(fs.StateError, match="begin_parts"):
        plan.cancel_parts()
    plan.begin_parts([ones(xp, w.size)], 1.0, None)
    plan.update_part(2 * BLOCK)
    with pytest.raises(fs.StateError, match="elements up to 2048 are updated"):
        plan.update_part(BLOCK)
    for end in (2 * BLOCK + 1, 3 * BLOCK):
        with pytest.raises(ValueError, match="must end at a multiple of 1024 or at 3067, not at"):
            plan.update_part(end)
    assert ((got([w])[0] == 0.0) == (np.arange(w.size) < 2 * BLOCK)).all()
    with pytest.raises(fs.StateError, match="some parts of this step are updated"):
        plan.cancel_parts()
    assert plan.update_part(w.size)
    assert (got([w])[0] == 0.0).all()
    with pytest.raises(fs.StateError, match="begin_parts"):
        plan.update_part(w.size)


def test_a_step_of_which_nothing_is_updated_may_be_cancelled(xp: Any) -> None:
    opt = fs.NAdam(ones(xp, BLOCK), lr=schedules.linear(1.0, 0.0, length=4))
    opt.step(ones(xp, BLOCK))
    before = opt.state_dict()
    plan = plan_of(opt)
    plan.begin_parts([ones(xp, BLOCK)], 1.0, None)
    plan.update_part(0)
    plan.cancel_parts()
    assert repr(opt.state_dict()) == repr(before)
    assert opt.lr == 1.0
    assert opt.step(ones(xp, BLOCK)).lr == 0.75


def test_a_saved_state_ends_a_step_that_stopped_between_its_parts(xp: Any) -> None:
    params = placed(xp, (2 * BLOCK,), np.float32, 0)
    opt = fs.NAdam(params)
    state, saved = opt.state_dict(), [p.copy() for p in got(params)]
    plan = plan_of(opt)
    plan.begin_parts(placed(xp, (2 * BLOCK,), np.float32, 1), 1.0, None)
    plan.update_part(BLOCK)
    plan.load(
        updates=[0],
        attempted=0,
        applied=0,
        accumulated=plan.accumulated,
        settings=plan.settings,
        program=None,
        targets=[],
        nonfinite="propagate",
        arrays=[(a, None) for entry in opt.state.values() for a in entry.values()],
    )
    params[0][:] = xp.asarray(saved[0])
    assert repr(opt.state_dict()) == repr(state)
    assert opt.step(placed(xp, (2 * BLOCK,), np.float32, 1)).applied


def test_an_empty_shard_has_one_empty_part(xp: Any) -> None:
    opt = fs.AdamW([ones(xp, 0), ones(xp, 0)])
    plan = plan_of(opt)
    assert plan.size == 0
    plan.begin_parts([ones(xp, 0)] * 2, 1.0, None, squared_norm=4.0)
    assert plan.update_part(0)
    assert (opt.steps_applied, plan.updates) == (1, [1, 1])


@pytest.mark.parametrize("kind", ["bound", "accumulated"])
def test_accumulated_and_bound_gradients_may_be_updated_in_parts(xp: Any, kind: str) -> None:
    params, expected = placed(xp, (5000,), np.float32, 0), arrays((5000,), np.float32, 0)
    opts = [fs.AdamW(p, lr=0.1) for p in (params, expected)]
    for opt, module in zip(opts, (xp, np), strict=True):
        grads = placed(module, (5000,), np.float32, 1)
        opt.bind(grads) if kind == "bound" else opt.accumulate(grads, samples=3)
    opts[1].step()
    in_parts(plan_of(opts[0]), None, [BLOCK, 5000])
    assert_same_bits(got(params), expected)
    assert opts[0].accumulated == 0
