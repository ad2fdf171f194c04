"""States loaded in part, and states begun anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import control, schedules
from tables.models import plain
from tables.registry import ROWS, Row


def params(*names: str) -> dict[str, Any]:
    return {name: np.full(3, 1.0 + ord(name[0])) for name in names}


def gradients(tree: dict[str, Any], step: int) -> dict[str, Any]:
    return {name: np.cos(p + step) for name, p in tree.items()}


def trained(row: Row, tree: dict[str, Any], **settings: Any) -> fs.Optimizer:
    opt = row.build(tree, **settings)
    for step in range(3):
        opt.step(gradients(tree, step))
    return opt


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_what_a_state_has_goes_on_and_what_it_has_not_begins_anew(row: Row) -> None:
    old = params("body", "norm", "tail")
    first = trained(row, old)
    first.accumulate(gradients(old, 3), 4)
    tree = {"body": old["body"].copy(), "layer": old["norm"].copy(), **params("head")}
    fresh = tree["head"].copy()
    opt = row.build(tree)
    loaded = opt.load_state_dict(first.state_dict(), strict=False, rename={"norm": "layer"})
    assert loaded == (("head",), (("norm", "layer"),), ("tail",))
    assert (opt.steps_attempted, opt.steps_applied, opt.accumulated) == (3, 3, 4.0)
    first.step()
    opt.step()
    assert (tree["head"] == fresh).all()  # nothing was accumulated for it
    alone = row.build({"head": fresh})
    for step in range(4, 6):
        first.step(gradients(old, step))
        opt.step({**gradients(tree, step), "layer": np.cos(old["norm"] + step)})
        alone.step(gradients({"head": fresh}, step))
        assert (tree["body"] == old["body"]).all()
        assert (tree["head"] == fresh).all()
    assert (opt.state_dict()["parameters"]["head"]["updates"]) == 2


def test_a_strict_load_may_rename_and_must_find_everything() -> None:
    first = fs.Adam(params("a", "b"))
    opt = fs.Adam(params("a", "c"))
    assert opt.load_state_dict(first.state_dict(), rename={"b": "c"}) == ((), (("b", "c"),), ())
    before = plain(opt.state_dict())
    for rename, found in {
        ("b", "a"): "2 saved parameters would be 'a'",
        ("x", "c"): "'x' is not saved",
        ("b", "y"): "'y' is not present",
    }.items():
        for strict in (True, False):
            with pytest.raises(fs.StateError, match=f"rename: {found}"):
                opt.load_state_dict(first.state_dict(), rename=dict([rename]), strict=strict)
    with pytest.raises(fs.StateError, match=r"params\['c'\]: not saved\n  params\['b'\]: not pres"):
        opt.load_state_dict(first.state_dict())
    assert plain(opt.state_dict()) == before


def test_names_may_be_exchanged() -> None:
    first = fs.SGD(params("a", "b"), momentum=0.5)
    first.step({"a": np.ones(3), "b": np.full(3, 2.0)})
    opt = fs.SGD(params("a", "b"), momentum=0.5)
    opt.load_state_dict(first.state_dict(), rename={"a": "b", "b": "a"})
    assert (opt.state["a"]["momentum"] == 2.0).all()
    assert (opt.state["b"]["momentum"] == 1.0).all()


def test_a_layer_of_another_shape_is_refused_until_it_is_left_out_of_the_state() -> None:
    state = fs.Adam({"body": np.ones(2), "head": np.ones(10)}).state_dict()
    opt = fs.Adam({"body": np.ones(2), "head": np.ones(5)})
    with pytest.raises(fs.StateError, match=r"params\['head'\] m shape: saved \(10,\), present"):
        opt.load_state_dict(state, strict=False)
    del state["parameters"]["head"]
    assert opt.load_state_dict(state, strict=False).new == ("head",)


def test_groups_are_found_by_their_patterns_and_new_ones_keep_their_settings() -> None:
    first = fs.SGD(
        params("a", "b", "c"),
        lr=0.5,
        groups=[{"match": "a", "lr": 0.25}, {"match": "b", "lr": 0.125}],
    )
    groups = [
        {"match": "d", "lr": 0.75, "weight_decay": 0.5 * control.Plateau()},
        {"match": "b", "lr": 1.0},
    ]
    opt = fs.SGD(params("b", "c", "d"), lr=1.0, groups=groups)
    opt.step(gradients(opt.params, 0), loss=1.0)
    remembered = opt.state_dict()["control"]
    with pytest.raises(fs.StateError, match=r"groups: saved \[None, \['a'\], \['b'\]\], present"):
        opt.load_state_dict(first.state_dict())
    opt.load_state_dict(first.state_dict(), strict=False)
    assert [group.lr for group in opt.groups] == [0.5, 0.75, 0.125]
    assert opt.state_dict()["control"] == remembered
    followed = {"match": "b", "lr": 0.5 * control.Plateau(factor=0.5, patience=0)}
    first = fs.SGD(params("a", "b"), groups=[{"match": "a"}, followed])
    for _ in range(3):
        first.step(gradients(first.params, 0), loss=1.0)
    opt = fs.SGD(params("b"), groups=[{"match": "b", "lr": 1.0}])
    opt.load_state_dict(first.state_dict(), strict=False)
    assert opt.groups[1].lr == 0.125
    later = fs.SGD([{"params": params("a")}, {"params": params("b"), "lr": 3.0}])
    later.load_state_dict(fs.SGD([{"params": params("a")}], lr=0.5).state_dict(), strict=False)
    assert [group.lr for group in later.groups] == [0.5, 3.0]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_reset_optimizer_takes_the_steps_of_a_new_one(row: Row) -> None:
    def build(tree: dict[str, Any]) -> fs.Optimizer:
        lr = schedules.linear(0.5, 0.25, length=5) * control.Plateau(factor=0.5, patience=0)
        groups = [{"match": "b", "lr": 0.125}]
        return row.build(tree, lr=lr, groups=groups, clip_norm=2.0)

    tree = params("a", "b")
    opt = build(tree)
    for step in range(3):
        opt.step(gradients(tree, step), loss=1.0)
    opt.accumulate(gradients(tree, 3), 2)
    kept = {name: p.copy() for name, p in tree.items()}
    opt.reset()
    new = build(kept)
    assert plain(opt.state_dict()) == plain(new.state_dict())
    assert plain(tree) == plain(kept)
    assert opt.lr == 0.5
    for step in range(3):
        assert opt.step(gradients(tree, step), loss=1.0) == new.step(
            gradients(kept, step), loss=1.0
        )
    assert plain(tree) == plain(kept)
    assert plain(opt.state_dict()) == plain(new.state_dict())


def test_a_reset_keeps_the_settings_and_works_with_bound_gradients() -> None:
    opt = fs.SGD(np.ones(2), lr=0.5, momentum=0.5, nonfinite="skip")
    opt.lr = 0.25
    opt.bind(np.ones(2))
    opt.step()
    opt.reset()
    assert (opt.lr, opt.nonfinite, opt.steps_attempted) == (0.25, "skip", 0)
    assert (opt.state[""]["momentum"] == 0.0).all()
    assert opt.step().applied
    assert (opt.params[""] == 1.0 - 0.25 - 0.25).all()
