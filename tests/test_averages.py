"""Averages of parameters, taken in the pass of the update, have the bits of the oracle."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import _core, expression, schedules
from tables.models import DTYPES, SIZES, arrays, assert_same_bits
from tables.oracle import Oracle
from tables.registry import ROWS, Row

AVERAGED = [row for row in ROWS if not row.rule.startswith("schedule_free")]
every_row = pytest.mark.parametrize("row", AVERAGED, ids=lambda row: row.id)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
# one rule of one pass, without state and with; one of two passes
SOME = [r for r in ROWS if not r.options and r.optimizer in (fs.SGD, fs.AdamW, fs.LAMB)]
some_rows = pytest.mark.parametrize("row", SOME, ids=lambda row: row.id)
N = expression.step
MEAN = N / (N + 1)


def averages(opt: Any) -> list[Any]:
    return [state["average"] for state in opt.state.values()]


@every_row
@every_dtype
def test_averages_have_the_bits_of_the_oracle_at_every_size(row: Row, dtype: type) -> None:
    params = arrays(SIZES, dtype, 0)
    oracle = Oracle(row.rule, row.full, params, ema=0.9)
    opt = row.build(params, ema=0.9, clip_norm=3.0)
    for step in range(1, 8):
        grads: list[Any] = arrays(SIZES, dtype, step)
        grads[step] = None
        oracle.step(grads, clip_norm=3.0)
        opt.step(grads)
    assert_same_bits(params, oracle.params)
    assert_same_bits(averages(opt), oracle.averages)
    assert_same_bits(opt.averaged, oracle.averages)


@some_rows
@pytest.mark.parametrize("every", [2, 3])
def test_every_so_many_updates_of_a_parameter_count(row: Row, every: int) -> None:
    params = arrays((5, 33, 1000), np.float32, 0)
    oracle = Oracle(row.rule, row.full, params, ema=0.75, ema_every=every)
    opt = row.build(params, ema=0.75, ema_every=every)
    for step in range(1, 12):
        grads: list[Any] = arrays((5, 33, 1000), np.float32, step)
        if step % 4 == 0:
            grads[1] = None
        oracle.step(grads)
        opt.step(grads)
        assert_same_bits(averages(opt), oracle.averages)
    assert opt.ema_every == every


def test_groups_follow_decays_of_their_own_and_a_parameter_without_one_stands_for_itself() -> None:
    row, decays = SOME[1], [0.5, None, 0.0, 1.0]
    params = arrays((70, 71, 72, 73), np.float32, 0)
    oracle = Oracle(row.rule, row.full, params)
    oracle.ema = list(decays)
    groups = [{"match": str(i), "ema": decay} for i, decay in enumerate(decays)]
    opt = row.build(params, groups=groups)
    for step in range(1, 6):
        grads = arrays((70, 71, 72, 73), np.float32, step)
        oracle.step(grads)
        opt.step(grads)
    assert [sorted(opt.state[str(i)]) for i in (0, 1)] == [["average", "m", "v"], ["m", "v"]]
    assert opt.averaged[1] is params[1]
    assert_same_bits(opt.averaged, [*oracle.averages[:1], params[1], *oracle.averages[2:]])
    assert_same_bits(opt.averaged[2:3], params[2:3])  # 0 keeps nothing
    assert opt.groups[1].ema == 0.5
    assert opt.ema is None


def test_a_decay_may_be_an_expression_and_change_between_steps() -> None:
    row = SOME[1]
    params = arrays((40,), np.float32, 0)
    oracle = Oracle(row.rule, row.full, params)
    opt = row.build(params, ema=MEAN)
    for step in range(12):
        grads = arrays((40,), np.float32, step + 1)
        if step == 8:
            opt.ema = schedules.constant(0.3)
        oracle.ema = [step / (step + 1) if step < 8 else 0.3]
        oracle.step(grads)
        opt.step(grads)
        assert opt.ema == oracle.ema[0]
    assert_same_bits(opt.averaged, oracle.averages)
    opt.ema = schedules.constant(1.5)
    before = opt.averaged[0].copy(), params[0].copy()
    with pytest.raises(ValueError, match=r"^ema must be in \[0, 1\], but its schedule gives 1.5"):
        opt.step(arrays((40,), np.float32, 0))
    assert_same_bits([opt.averaged[0], params[0]], list(before))


def test_no_average_for_a_while_and_then_again() -> None:
    w = np.zeros(1)
    opt = fs.SGD(w, lr=1.0, ema=0.5)
    for decay, expected in ((0.5, 1.0), (None, 1.0), (0.5, 2.0)):
        opt.ema = decay
        opt.step(np.full(1, -1.0))
        assert opt.averaged[0] == expected


@every_dtype
@pytest.mark.parametrize("isa", fs.build_info()["isa_supported"])
def test_every_instruction_set_and_number_of_threads_gives_the_same_bits(
    dtype: type, isa: str
) -> None:
    sizes = (100_003, 17, 70_001)
    for row in SOME:
        results = []
        for name, threads in (("baseline", 1), (isa, 3)):
            _core.use_isa(name)
            fs.set_num_threads(threads)
            params = arrays(sizes, dtype, 0)
            copies = {str(i): np.zeros_like(p) for i, p in enumerate(params)}
            opt = row.build(params, ema=0.9, copies=copies)
            for step in range(1, 4):
                opt.step(arrays(sizes, dtype, step))
            assert_same_bits(list(copies.values()), params)
            results.append([*params, *averages(opt)])
        assert_same_bits(*results)


@some_rows
def test_a_step_in_parts_averages_and_copies_its_parts(xp: Any, row: Row) -> None:
    def got(values: list[Any]) -> list[Any]:
        return [a if xp is np else a.get() for a in values]

    sizes = (3000, 17, 5000)
    whole = arrays(sizes, np.float32, 0)
    parts = [xp.asarray(p) for p in arrays(sizes, np.float32, 0)]
    copies = {"0": xp.zeros(3000, np.float64), "2": xp.zeros(5000, np.float32)}
    opts = [row.build(whole, ema=0.5), row.build(parts, ema=0.5, copies=copies)]
    plan: Any = opts[1]._plan
    for step in range(1, 4):
        grads = arrays(sizes, np.float32, step)
        opts[0].step(grads)
        plan.begin_parts([xp.asarray(g) for g in grads], 1.0, None)
        for end in (1024, 4096, plan.size):
            plan.update_part(end)
    assert_same_bits(got(averages(opts[1])), averages(opts[0]))
    assert_same_bits(got([copies["0"], copies["2"]]), [whole[0].astype(np.float64), whole[2]])


def test_skipped_steps_leave_averages_and_copies() -> None:
    w, copied = np.ones(3), np.zeros(3)
    opt = fs.SGD(w, lr=0.5, ema=0.5, nonfinite="skip", copies={"": copied})
    opt.step(np.full(3, np.inf))
    assert (opt.averaged[0], copied[0]) == (1.0, 0.0)
    opt.step(np.ones(3))
    assert (opt.averaged[0], copied[0]) == (0.5, 0.5)
    opt.step(np.full(3, np.nan))
    assert (opt.averaged[0], copied[0]) == (0.5, 0.5)


def test_a_copied_average_forgets_what_was_not_finite() -> None:
    w = np.array([np.inf, 1.0])
    opt = fs.SGD(w, lr=0.0, ema=0.0)
    assert opt.averaged[0] == np.inf
    w[0] = 2.0
    opt.step(np.zeros(2))
    assert_same_bits([opt.averaged], [np.array([2.0, 1.0])])


# saved state


@some_rows
@pytest.mark.parametrize("every", [1, 3])
def test_a_run_that_was_saved_goes_on_bit_for_bit(row: Row, every: int) -> None:
    sizes = (5, 300)
    straight, saved = arrays(sizes, np.float32, 0), arrays(sizes, np.float32, 0)
    opt = row.build(straight, ema=MEAN, ema_every=every)
    other = row.build(saved, ema=MEAN, ema_every=every)
    for step in range(1, 12):
        if step in (2, 7):
            state = copy.deepcopy(other.state_dict())
            other = row.build(saved, ema=MEAN, ema_every=every)
            other.load_state_dict(state)
        grads: list[Any] = arrays(sizes, np.float32, step)
        grads[0] = grads[0] if step % 3 else None
        opt.step(grads)
        other.step(grads)
    assert_same_bits(saved, straight)
    assert_same_bits(averages(other), averages(opt))


def test_a_state_without_averages_is_refused_by_name() -> None:
    params = arrays((3,), np.float32, 0)
    plain, averaging = fs.AdamW(params), fs.AdamW(params, ema=0.9)
    with pytest.raises(
        fs.StateError,
        match=r"params\['0'\] state arrays: saved \['m', 'v'\], present \['average', 'm', 'v'\]",
    ):
        averaging.load_state_dict(plain.state_dict())
    with pytest.raises(fs.StateError, match=r"saved \['average', 'm', 'v'\], present \['m', 'v'\]"):
        plain.load_state_dict(averaging.state_dict())
    with pytest.raises(fs.StateError, match="ema_every: saved 2, present 1"):
        averaging.load_state_dict(fs.AdamW(params, ema=0.9, ema_every=2).state_dict())


def test_a_parameter_that_was_not_saved_begins_its_average_anew() -> None:
    state = fs.SGD({"a": np.ones(2)}, ema=0.5).state_dict()
    opt = fs.SGD({"a": np.zeros(2), "b": np.full(2, 7.0)}, lr=1.0, ema=0.5)
    opt.step({"a": np.ones(2), "b": np.ones(2)})
    opt.load_state_dict(state, strict=False)
    assert opt.averaged["a"].tolist() == [1.0, 1.0]
    assert opt.averaged["b"].tolist() == opt.params["b"].tolist() == [6.0, 6.0]


def test_reset_begins_averages_at_the_parameters_as_they_are() -> None:
    w = np.zeros(2)
    opt = fs.SGD(w, lr=1.0, ema=0.9)
    for _ in range(3):
        opt.step(np.ones(2))
    opt.reset()
    assert opt.averaged.tolist() == w.tolist() == [-3.0, -3.0]
    opt.step(np.ones(2))
    assert opt.averaged.tolist() == [-4.0, -4.0]


def test_added_parameters_begin_at_their_first_update_and_rebound_ones_go_on() -> None:
    params: dict[str, Any] = {"a": np.zeros(2)}
    opt = fs.SGD(params, lr=1.0, ema=0.5)
    opt.step({"a": -np.ones(2)})
    params["b"] = np.zeros(2)
    opt.add_group({"b": params["b"]}, ema=0.75)
    opt.step({"a": -np.ones(2), "b": -np.ones(2)})
    assert (opt.averaged["a"][0], opt.averaged["b"][0]) == (1.5, 1.0)
    params["b"] = params["b"].copy()
    opt.rebind(params)
    opt.step({"a": None, "b": np.full(2, -4.0)})
    assert (opt.averaged["a"][0], opt.averaged["b"][0]) == (1.5, 2.0)


def test_without_averages_there_are_none_to_show() -> None:
    opt = fs.SGD(np.zeros(2))
    assert opt.averaged is None
    with pytest.raises(fs.StateError, match=r"there are no averages: .* ema="):
        opt.averaged_in_place()
    with pytest.raises(fs.StateError, match=r"^ema=0.9: built without an average buffer"):
        opt.ema = 0.9
    opt.step(np.ones(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ema": 1.1}, r"ema must be in \[0, 1\], or None, not 1.1"),
        ({"ema": -0.1}, r"ema must be in \[0, 1\], or None, not -0.1"),
        ({"ema": math.nan}, r"ema must be in \[0, 1\], or None, not nan"),
        ({"ema": "0.9"}, "ema must be a number, not '0.9'"),
        ({"ema": 0.9, "ema_every": 0}, "ema_every must be at least 1"),
        ({"ema": 0.9, "ema_every": 1.5}, "ema_every must be a whole number, not 1.5"),
        ({"groups": [{"match": "*", "ema_every": 2}]}, "no setting 'ema_every'"),
    ],
)
def test_bad_decays_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        fs.SGD(np.zeros(2), **options)


def test_how_many_updates_make_one_is_fixed() -> None:
    opt: Any = fs.SGD(np.zeros(2), ema=0.5)
    with pytest.raises(fs.StateError, match="ema_every is fixed when the optimizer is built"):
        opt.ema_every = 2
    assert "ema=0.5, ema_every=1" in repr(opt)


# peers


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_torch_averages_the_same_over_50_updates(kind: str) -> None:
    torch = pytest.importorskip("torch")
    swa = pytest.importorskip("torch.optim.swa_utils")
    generator = np.random.default_rng(0)
    start, target = generator.standard_normal((2, 400))
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(start))])
    # the rate of get_swa_multi_avg_fn is a float32, whatever the parameters are
    average = swa.get_ema_avg_fn(0.9) if kind == "ema" else swa.get_swa_avg_fn()
    averaged = swa.AveragedModel(model, avg_fn=average)
    peer = torch.optim.AdamW(model.parameters(), lr=0.01)
    w = start.copy()
    opt = fs.AdamW(w, lr=0.01, ema=0.9 if kind == "ema" else MEAN)
    for _ in range(50):
        model[0].grad = model[0].detach() - torch.tensor(target)
        peer.step()
        averaged.update_parameters(model)
        opt.step(w - target)
    expected = averaged.module[0].detach().numpy()
    assert np.abs(opt.averaged - expected).max() <= 1e-12 * np.abs(expected).max()
