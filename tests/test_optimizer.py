"""What a user sees of an optimizer: nesting, groups, settings, counters, skipped steps, binding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from tables.models import arrays, assert_same_bits
from tables.registry import ROWS, Row


def mlp(dtype: type = np.float32) -> dict[str, Any]:
    w1, b1, w2, b2 = arrays((12, 3, 6, 2), dtype, 0)
    return {"dense1": {"w": w1.reshape(4, 3), "b": b1}, "dense2": {"w": w2.reshape(3, 2), "b": b2}}


def ones_like(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: ones_like(child) for key, child in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(ones_like(child) for child in tree)
    return np.ones_like(tree)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda a, b, c: {"x": a, "y": {"z": b, "u": c}},
        lambda a, b, c: [a, (b, c)],
        lambda a, b, c: ({"k": [a]}, b, {1: c}),
        lambda a, b, c: [a, b, c],
        lambda a, b, c: {"x": a, "y": b, "z": c},
    ],
)
def test_any_nesting_is_updated_in_place_and_by_name(wrap: Any) -> None:
    expected = arrays((5, 6, 7), np.float64, 0)
    leaves = [p.copy() for p in expected]
    grads = arrays((5, 6, 7), np.float64, 1)
    fs.AdamW(expected).step(grads)
    opt = fs.AdamW(wrap(*leaves))
    opt.step(wrap(*grads))
    assert_same_bits(leaves, expected)
    assert len(opt.state) == 3


def test_one_array_is_a_model() -> None:
    w = np.ones((2, 3))
    fs.SGD(w, lr=0.5).step(np.ones((2, 3)))
    assert (w == 0.5).all()


def test_a_scalar_array_and_an_empty_one_are_parameters() -> None:
    w = {"scale": np.array(1.0), "none": np.zeros((0, 3))}
    fs.SGD(w, lr=0.5).step(ones_like(w))
    assert w["scale"] == 0.5


def test_gradients_may_come_in_another_order_of_keys_and_in_tuples() -> None:
    params = {"a": [np.zeros(2), np.zeros(3)], "b": np.zeros(4)}
    fs.SGD(params, lr=1.0).step({"b": -np.ones(4), "a": (-np.ones(2), -np.ones(3))})
    assert (params["b"] == 1).all()
    assert (params["a"][1] == 1).all()


def test_groups_by_pattern_have_their_own_settings() -> None:
    params = mlp()
    opt = fs.AdamW(
        params,
        lr=0.1,
        weight_decay=0.5,
        groups=[
            {"match": "*/b", "weight_decay": 0.0},
            {"match": ["dense2/*", "dense1/b"], "lr": 0.01},
        ],
    )
    assert [g.paths for g in opt.groups] == [
        ("dense1/w",),
        ("dense1/b", "dense2/b"),
        ("dense2/w",),
    ]
    assert [g.weight_decay for g in opt.groups] == [0.5, 0.0, 0.5]
    assert [g.lr for g in opt.groups] == [0.1, 0.1, 0.01]
    expected = mlp()
    opt.step(ones_like(params))
    for path, settings in {
        "dense1/w": {"lr": 0.1, "weight_decay": 0.5},
        "dense1/b": {"lr": 0.1, "weight_decay": 0.0},
        "dense2/w": {"lr": 0.01, "weight_decay": 0.5},
    }.items():
        layer, name = path.split("/")
        alone = expected[layer][name]
        fs.AdamW(alone, **settings).step(np.ones_like(alone))
        assert_same_bits([params[layer][name]], [alone])


def test_groups_in_the_form_of_torch_take_a_list_of_gradient_trees() -> None:
    params = mlp()
    opt = fs.SGD(
        [{"params": params["dense1"], "lr": 0.5}, {"params": params["dense2"], "momentum": 0.9}],
        lr=0.25,
    )
    assert [g.paths for g in opt.groups] == [("0/w", "0/b"), ("1/w", "1/b")]
    assert sorted(opt.state["1/w"]) == ["momentum"]
    assert opt.state["0/w"] == {}
    before = mlp()
    info = opt.step([ones_like(params["dense1"]), ones_like(params["dense2"])])
    assert info.lr == 0.5
    assert_same_bits([params["dense1"]["w"]], [before["dense1"]["w"] - np.float32(0.5)])
    assert_same_bits([params["dense2"]["w"]], [before["dense2"]["w"] - np.float32(0.25)])


def test_settings_are_read_and_set_between_steps_and_per_group() -> None:
    params = mlp()
    opt = fs.AdamW(params, lr=0.1, groups=[{"match": "*/b", "lr": 0.5}])
    opt.lr = 0.2
    assert (opt.lr, opt.groups[0].lr, opt.groups[1].lr) == (0.2, 0.2, 0.5)
    opt.groups[1].lr = np.float32(0.25)
    opt.betas = (0.5, 0.75)
    opt.groups[1].betas = [0.25, 0.5]
    assert (opt.groups[0].betas, opt.groups[1].betas) == ((0.5, 0.75), (0.25, 0.5))
    info = opt.step(ones_like(params))
    assert info.lr == 0.2
    expected = mlp()
    for name, settings in {
        "w": {"lr": 0.2, "betas": (0.5, 0.75)},
        "b": {"lr": 0.25, "betas": (0.25, 0.5)},
    }.items():
        alone = expected["dense1"][name]
        fs.AdamW(alone, **settings).step(np.ones_like(alone))
        assert_same_bits([params["dense1"][name]], [alone])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_every_setting_reads_back_as_it_was_given(row: Row) -> None:
    opt = row.build(np.ones(3), clip_norm=2.0, clip_value=0.5, nonfinite="skip")
    for name, value in {**row.defaults, **row.options}.items():
        assert getattr(opt, name) == value
        assert getattr(opt.groups[0], name) == value
    assert (opt.clip_norm, opt.clip_value, opt.nonfinite) == (2.0, 0.5, "skip")
    opt.clip_norm = opt.clip_value = None
    assert (opt.clip_norm, opt.clip_value) == (None, None)
    assert str(row.full["lr"]) in repr(opt)


def test_a_setting_that_decides_the_arithmetic_is_fixed() -> None:
    opt = fs.Adam(np.ones(3))
    for name, value in {"amsgrad": True, "eps_mode": "hat", "maximize": True}.items():
        with pytest.raises(fs.StateError, match=f"^{name} is fixed when the optimizer is built$"):
            setattr(opt, name, value)


def test_momentum_cannot_start_without_its_buffers_but_may_stop_and_go_on() -> None:
    opt = fs.SGD(np.ones(3))
    with pytest.raises(
        fs.StateError,
        match=r"^momentum=0.9: built without a momentum buffer; build with momentum > 0",
    ):
        opt.momentum = 0.9
    assert opt.momentum == 0.0
    w, g = np.ones(3), np.full(3, 0.25)
    opt = fs.SGD(w, lr=1.0, momentum=0.5)
    opt.step(g)
    opt.momentum = 0.0
    opt.step(g)
    opt.momentum = 0.5
    opt.step(g)
    assert (w == 1 - 0.25 - 0.25 - (0.125 + 0.25)).all()


def test_unknown_settings_are_refused_everywhere() -> None:
    opt = fs.AdamW(np.ones(3))
    with pytest.raises(AttributeError):
        opt.learning_rate = 0.1  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"no setting 'momentum'; did you mean 'betas'\?"):
        _ = opt.groups[0].momentum
    with pytest.raises(AttributeError, match="no setting 'momentum'"):
        opt.groups[0].momentum = 0.1
    with pytest.raises(TypeError, match="momentum"):
        fs.AdamW(np.ones(3), momentum=0.9)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_skipped_step_changes_nothing_not_even_momentum_on_the_first(
    row: Row, bad: float
) -> None:
    sizes = (3, 1000)
    params, expected = arrays(sizes, np.float32, 0), arrays(sizes, np.float32, 0)
    opt = row.build(params, nonfinite="skip")
    reference = row.build(expected, nonfinite="skip")
    poisoned = arrays(sizes, np.float32, 1)
    poisoned[1][777] = bad
    before = opt.state_dict()
    info = opt.step(poisoned)
    assert not info.applied
    assert not math.isfinite(info.grad_norm)
    assert_same_bits(params, expected)
    after = opt.state_dict()
    assert after.pop("attempted") == 1
    before.pop("attempted")
    assert repr(after) == repr(before)
    good = arrays(sizes, np.float32, 2)
    for _ in range(3):
        assert opt.step(good).applied
        opt.step(poisoned)
        reference.step(good)
    assert_same_bits(params, expected)
    assert (opt.steps_attempted, opt.steps_applied, opt.steps_skipped) == (7, 3, 4)


def test_raising_on_a_nonfinite_gradient_names_the_parameter_and_changes_nothing() -> None:
    params = mlp()
    before = mlp()
    opt = fs.AdamW(params, nonfinite="raise")
    grads = ones_like(params)
    grads["dense2"]["w"][1, 1] = np.nan
    with pytest.raises(ValueError, match=r"^params\['dense2/w'\]: gradient holds NaN"):
        opt.step(grads)
    assert (opt.steps_attempted, opt.steps_applied) == (0, 0)
    for layer, names in before.items():
        assert_same_bits([params[layer][n] for n in names], list(names.values()))


def test_by_default_nonfinite_gradients_propagate() -> None:
    w = np.ones(3)
    assert fs.SGD(w, clip_norm=1.0).step(np.array([np.nan, 1.0, 2.0])).applied
    assert np.isnan(w).all()


def test_bound_gradients_are_read_at_every_step() -> None:
    params, expected = arrays((5, 1000), np.float32, 0), arrays((5, 1000), np.float32, 0)
    grads = [np.empty_like(p) for p in params]
    bound, passed = fs.AdamW(params), fs.AdamW(expected)
    bound.bind(grads)
    for seed in range(1, 6):
        fresh = arrays((5, 1000), np.float32, seed)
        for buffer, values in zip(grads, fresh, strict=True):
            buffer[...] = values
        bound.step()
        passed.step(fresh)
    assert_same_bits(params, expected)
    bound.bind(None)
    bound.step(fresh)
    passed.step(fresh)
    assert_same_bits(params, expected)


def test_a_refused_binding_leaves_the_one_before() -> None:
    params = [np.ones(3), np.ones(2)]
    opt = fs.SGD(params, lr=0.25)
    opt.bind([np.ones(3), np.ones(2)])
    with pytest.raises(ValueError, match="gradient has shape"):
        opt.bind([np.full(3, 7.0), np.ones(5)])
    opt.step()
    assert [p.tolist() for p in params] == [[0.75] * 3, [0.75] * 2]


def test_bound_gradients_are_kept_alive() -> None:
    w = np.ones(100_000)
    opt = fs.SGD(w, lr=1.0)
    opt.bind(np.full(100_000, 0.5))
    filler = [np.full(100_000, 7.0) for _ in range(4)]
    opt.step()
    assert (w == 0.5).all()
    assert len(filler) == 4


def test_steps_without_gradients_or_with_two_sorts_are_errors() -> None:
    opt = fs.SGD(np.ones(3))
    with pytest.raises(fs.StateError, match="call bind"):
        opt.step()
    opt.bind(np.ones(3))
    with pytest.raises(fs.StateError, match="gradients are bound"):
        opt.step(np.ones(3))


def test_the_state_is_the_memory_that_steps_write() -> None:
    w = np.ones(3, np.float32)
    opt = fs.SGD(w, momentum=0.5)
    opt.step(np.ones(3, np.float32))
    opt.state[""]["momentum"][:] = 0.0
    opt.step(np.zeros(3, np.float32))
    assert (opt.state[""]["momentum"] == 0).all()


def test_info_is_a_named_tuple_of_what_happened() -> None:
    info = fs.SGD(np.ones(4), lr=0.5, clip_norm=10.0).step(np.full(4, 2.0))
    assert info == (0.5, 4.0, True)
    assert repr(info) == "fusestep.StepInfo(lr=0.5, grad_norm=4.0, applied=True)"


def test_grad_scale_divides_the_norm_too() -> None:
    info = fs.SGD(np.ones(4), clip_norm=10.0).step(np.full(4, 2.0), grad_scale=8.0)
    assert info.grad_norm == 0.5
