"""Parameters with other arrays in their place, and more of them."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import control, schedules
from tables.models import Array, assert_same_bits
from tables.registry import ROWS, Row


@dataclass
class Dense:
    w: Array
    b: Array


def a(value: float = 0.0) -> Array:
    return np.full(2, value)


def steps(opt: fs.Optimizer, grads: Any) -> None:
    for _ in range(10):  # each looks at some entries
        opt.step(grads)


# other arrays


def replaced(params: Any) -> Any:
    params["w"] = params["w"] * 0.5
    return params


def test_an_array_that_was_replaced_is_told_and_nothing_is_updated() -> None:
    params = {"u": [a(1.0)], "w": a(1.0)}
    opt = fs.SGD(params, lr=1.0)
    old = opt.params["w"]
    replaced(params)
    with pytest.raises(fs.StateError, match=r"params\['w'\].*opt\.rebind\(params\)"):
        opt.step({"u": [a(1.0)], "w": a(1.0)}, params=params)
    with pytest.raises(fs.StateError, match=r"params\['w'\].*opt\.rebind\(params\)"):
        steps(opt, {"u": [None], "w": None})
    assert (old == 1.0).all()
    assert (params["u"][0] == 1.0).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda x: {"deep": {"w": x()}},
        lambda x: [x()],
        lambda x: {"t": (x(), [x()])},
        lambda x: Dense(x(), x()),
    ],
)
def test_a_step_finds_replaced_entries_in_dicts_lists_and_objects_at_any_depth(make: Any) -> None:
    params = make(a)
    opt = fs.SGD(params)
    inner = params
    while not isinstance(inner, list) and not hasattr(inner, "w") and "w" not in inner:
        inner = inner["deep"] if "deep" in inner else inner["t"][1]
    if isinstance(inner, list):
        inner[0] = a()
    elif isinstance(inner, dict):
        inner["w"] = a()
    else:
        inner.w = a()
    with pytest.raises(fs.StateError, match="rebind"):
        steps(opt, make(lambda: None))


@pytest.mark.parametrize("row", ROWS[::3], ids=lambda row: row.id)
def test_rebinding_goes_on_with_the_state_and_the_counts_of_the_run(row: Row) -> None:
    params, expected = {"u": a(1.0), "w": a(2.0)}, {"u": a(1.0), "w": a(2.0)}
    opt, reference = row.build(params, clip_norm=1.0), row.build(expected, clip_norm=1.0)
    for seed in range(4):
        grads = {"u": a(0.1 * seed), "w": a(-0.2)}
        opt.step(grads)
        reference.step(grads)
        params = {name: array.copy() for name, array in params.items()}
        opt.rebind(params)
    assert_same_bits(list(params.values()), list(expected.values()))
    assert (opt.steps_applied, opt.params["w"] is params["w"]) == (4, True)


def test_rebinding_takes_the_form_that_the_optimizer_was_built_with() -> None:
    first, second = a(), a()
    opt = fs.SGD([{"params": {"w": first}, "lr": 1.0}, {"params": [second]}])
    opt.rebind([{"params": {"w": second}}, {"params": [first]}])
    opt.step([{"w": a(1.0)}, [None]])
    assert (second == -1.0).all()
    with pytest.raises(ValueError, match=r"^params: must have 2 entries"):
        opt.rebind([{"params": {"w": second}}])


@pytest.mark.parametrize(
    ("other", "error"),
    [
        (np.zeros(3), ValueError),
        (np.zeros(2, np.float32), (TypeError, ValueError)),
        (np.zeros(4)[::2], ValueError),
        ([0.0, 0.0], TypeError),
        (None, TypeError),
    ],
)
def test_arrays_that_do_not_fit_are_not_rebound(other: Any, error: Any) -> None:
    params = {"u": a(), "w": a()}
    opt = fs.SGD(params, lr=1.0)
    with pytest.raises(error, match=r"params\['w"):
        opt.rebind({"u": a(), "w": other})
    with pytest.raises(ValueError, match=r"missing \['w'\]"):
        opt.rebind({"u": a()})
    shared = np.zeros(3)
    with pytest.raises(ValueError, match="shares memory"):
        opt.rebind({"u": shared[:2], "w": shared[1:]})
    opt.step({"u": a(1.0), "w": a(1.0)}, params=params)
    assert (params["w"] == -1.0).all()


# more parameters


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_parameters_added_later_go_on_like_those_of_an_optimizer_built_with_both(row: Row) -> None:
    params = {"body": {"w": a(1.0), "b": a(2.0)}}
    opt = row.build(params, clip_norm=1.0, groups=[{"match": "*/b", "lr": 0.25}])
    opt.step({"body": {"w": a(0.5), "b": a(-0.5)}})
    head = {"w": a(3.0), "b": a(4.0)}
    opt.add_group({"head": head}, match="head/*", lr=0.125)
    assert [group.paths for group in opt.groups] == [("body/w",), ("body/b", "head/b"), ("head/w",)]
    assert [group.lr for group in opt.groups[1:]] == [0.25, 0.125]
    both = {
        "body": {n: p.copy() for n, p in params["body"].items()},
        "head": {"w": a(3.0), "b": a(4.0)},
    }
    groups = [{"match": "*/b", "lr": 0.25}, {"match": "head/*", "lr": 0.125}]
    other = row.build(both, clip_norm=1.0, groups=groups)
    other.load_state_dict(opt.state_dict())
    assert other.state_dict()["parameters"]["head/w"]["updates"] == 0
    for value in (0.25, -1.0):
        grads = {"body": {"w": a(value), "b": a(1.0)}, "head": {"w": a(0.5), "b": a(value)}}
        assert opt.step(grads) == other.step(grads)
    assert_same_bits(list(opt.params.values()), list(other.params.values()))
    assert opt.params["head/w"] is head["w"]
    assert opt.steps_applied == 3


def test_a_group_is_added_in_the_form_of_torch() -> None:
    opt = fs.SGD([{"params": [a(1.0)], "lr": 1.0}], momentum=0.5)
    opt.step([[a(1.0)]])
    first = opt.groups[0]
    opt.add_group({"params": {"w": a(1.0)}, "lr": 0.5})
    opt.add_group([a(1.0)], lr=0.25)
    opt.step([[a(0.0)], {"w": a(1.0)}, [a(1.0)]])
    assert [p[0] for p in opt.params.values()] == [-0.5, 0.5, 0.75]
    assert opt.groups[0] is first
    first.lr = 2.0
    opt.step([[a(0.0)], {"w": None}, [None]])
    assert opt.params["0/0"][0] == -0.5 - 2.0 * 0.25
    built = fs.SGD(
        [
            {"params": [a()], "lr": 2.0},
            {"params": {"w": a()}, "lr": 0.5},
            {"params": [a()], "lr": 0.25},
        ],
        momentum=0.5,
    )
    built.load_state_dict(opt.state_dict())
    assert built.state_dict()["applied"] == 3


def test_a_list_of_parameters_grows_at_its_end() -> None:
    params = [a(1.0)]
    opt = fs.SGD(params, lr=1.0)
    params.append(a(2.0))
    opt.add_group(params[1:], lr=0.5)
    opt.step([a(1.0), a(1.0)])
    assert [p[0] for p in params] == [0.0, 1.5]


def test_schedules_and_controls_go_on_when_a_group_is_added() -> None:
    plateau = control.Plateau(factor=0.5, patience=0)
    params = {"u": a(), "v": a()}
    opt = fs.SGD({"u": params["u"]}, lr=schedules.linear(1.0, 0.0, length=10) * plateau)
    for loss in (1.0, 2.0):
        opt.step({"u": a()}, loss=loss)
    opt.add_group({"v": params["v"]}, lr=schedules.constant(3.0))
    assert opt.lr == 0.9
    info = opt.step({"u": a(1.0), "v": a(1.0)}, loss=3.0)
    assert info.lr == pytest.approx(0.8 * 0.5)
    assert params["v"][0] == -3.0
    opt.lr = schedules.constant(1.0)
    assert opt.step({"u": a(1.0), "v": a(1.0)}).lr == 1.0


def test_an_added_entry_that_is_replaced_is_found() -> None:
    params = {"u": a()}
    opt = fs.SGD(params)
    params["v"] = a()
    opt.add_group({"v": params["v"]})
    params["v"] = a()
    with pytest.raises(fs.StateError, match=r"params\['v'\]"):
        steps(opt, {"u": None, "v": None})


ADDED_WRONGLY: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    ({"u": a()}, {}, ValueError, r"^params\['u'\]: is there already; pass what is new alone$"),
    ([a()], {}, TypeError, r"^params: only the entries of a dict can be added to a dict"),
    ({"v": np.zeros(2, int)}, {}, TypeError, r"^params\['v'\]: dtype must be"),
    ({"v": None}, {}, TypeError, r"^params\['v'\]: "),
    ({}, {}, ValueError, r"^params: must hold at least one array$"),
    ({"v": a()}, {"match": "w*"}, ValueError, r"no parameter matches \['w\*'\]"),
    ({"v": a()}, {"match": "*"}, ValueError, r"matches params\['u'\], which is in groups\[0\]"),
    ({"v": a()}, {"match": 3}, TypeError, r"must be a pattern or a list of patterns"),
    ({"v": a()}, {"lr": -1.0}, ValueError, r"^lr must be finite and at least 0"),
    ({"v": a()}, {"learning_rate": 1.0}, ValueError, r"did you mean 'lr'\?$"),
    ({"v": a()}, {"nesterov": True}, ValueError, r"^nesterov needs momentum above 0"),
]


@pytest.mark.parametrize(("params", "settings", "error", "message"), ADDED_WRONGLY)
def test_a_group_that_does_not_fit_is_refused_and_nothing_has_changed(
    params: Any, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    mine = {"u": a(1.0)}
    opt = fs.SGD(mine, lr=1.0)
    before = repr((opt.state_dict(), opt.groups, opt))
    with pytest.raises(error, match=message):
        opt.add_group(params, **settings)
    assert repr((opt.state_dict(), opt.groups, opt)) == before
    opt.step({"u": a(1.0)}, params=mine)
    assert (mine["u"] == 0.0).all()


def test_a_new_parameter_may_not_share_memory_with_another() -> None:
    memory = np.zeros(3)
    opt = fs.SGD({"u": memory[:2]})
    with pytest.raises(ValueError, match="shares memory"):
        opt.add_group({"v": memory[1:]})
    lone = fs.SGD(a())
    with pytest.raises(TypeError, match="not dict to ndarray"):
        lone.add_group({"v": a()})


def test_no_group_is_added_while_gradients_are_bound_or_accumulated() -> None:
    opt = fs.SGD({"u": a()}, lr=1.0)
    opt.bind({"u": a(1.0)})
    with pytest.raises(fs.StateError, match=r"^gradients are bound: bind\(None\) first$"):
        opt.add_group({"v": a()})
    opt.bind(None)
    opt.accumulate({"u": a(1.0)}, samples=2)
    with pytest.raises(fs.StateError, match=r"^gradients are accumulated: step\(\)"):
        opt.add_group({"v": a()})
    opt.step()
    opt.add_group({"v": a()})
    opt.accumulate({"u": a(1.0), "v": a(1.0)}, samples=2)
    opt.step()
    assert [p[0] for p in opt.params.values()] == [-2.0, -1.0]


def test_what_a_step_is_to_look_at_is_looked_at_in_whole() -> None:
    params = tuple(a() for _ in range(50))
    opt = fs.SGD(params)
    opt.step([None] * 50, params=params)
    for i in (0, 30, 49):
        other = (*params[:i], a(), *params[i + 1 :])
        with pytest.raises(fs.StateError, match=rf"params\['{i}'\] is not the array"):
            opt.step([None] * 50, params=other)


def test_arrays_that_were_replaced_are_let_go_of_and_not_taken_up_again() -> None:
    params = {"u": a(1.0)}
    opt = fs.SGD(params, lr=1.0)
    old = weakref.ref(params["u"])
    params["u"] = a(2.0)
    opt.rebind(params)
    opt.accumulate({"u": a(1.0)}, samples=1)
    opt.step()
    gc.collect()
    assert old() is None
    opt.add_group({"v": a()})
    opt.step({"u": a(1.0), "v": a()}, params={"u": params["u"], "v": opt.params["v"]})
    assert (params["u"] == 0.0).all()


def test_all_that_was_set_or_switched_off_is_kept_when_a_group_is_added() -> None:
    opt = fs.SGD({"u": a()}, momentum=0.5, nonfinite="skip", clip_value=2.0)
    opt.momentum = 0.0
    opt.add_group({"v": a()})
    assert (opt.momentum, opt.nonfinite, opt.clip_value) == (0.0, "skip", 2.0)
    assert list(opt.state["u"]) == ["momentum"]
    opt.groups[0].momentum = 0.25
    assert not opt.step({"u": a(np.nan), "v": a()}).applied


def test_names_with_the_characters_of_patterns_are_added_by_name() -> None:
    opt = fs.SGD({"b1": a(), "bx": a()}, groups=[{"match": "bx"}])
    opt.add_group({"b[1]": a()}, lr=1.0)
    opt.add_group({"b?": a()}, lr=2.0)
    assert [g.paths for g in opt.groups] == [("b1",), ("bx",), ("b[1]",), ("b?",)]


# on a GPU


def test_on_a_gpu_arrays_are_replaced_and_added_with_the_same_bits(cupy: Any) -> None:
    opts: list[Any] = []
    models: list[Any] = []
    for asarray in (np.asarray, cupy.asarray):
        params = {"u": asarray(a(1.0)), "v": asarray(a(2.0))}
        opt = fs.AdamW({"u": params["u"]}, lr=schedules.linear(0.5, 0.0, length=8), clip_norm=1.0)
        opt.step({"u": asarray(a(0.75))}, params={"u": params["u"]})
        opt.add_group({"v": params["v"]}, lr=0.125)
        opt.step({"u": asarray(a(-0.75)), "v": asarray(a(0.5))})
        params = {name: array.copy() for name, array in params.items()}
        opt.rebind(params)
        opt.step({"u": asarray(a(0.25)), "v": asarray(a(0.125))}, params=params)
        opts.append(opt)
        models.append(params)
    assert opts[0].steps_applied == opts[1].steps_applied == 3
    on_cpu, on_gpu = (opt.state_dict()["parameters"] for opt in opts)
    for path in ("u", "v"):
        assert_same_bits([models[1][path].get()], [models[0][path]])
        assert on_cpu[path]["updates"] == on_gpu[path]["updates"]
        for name, array in on_cpu[path]["state"].items():
            assert_same_bits([on_gpu[path]["state"][name]], [array])


def test_a_captured_step_keeps_its_arrays_so_no_group_is_added(cupy: Any) -> None:
    params, grads = {"u": cupy.zeros(2)}, {"u": cupy.zeros(2)}
    opt = fs.SGD(params, lr=1.0)
    opt.bind(grads)
    opt.prepare_replays(2)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        opt.step()
        stream.end_capture()
    opt.bind(None)
    with pytest.raises(fs.StateError, match="a graph has captured a step"):
        opt.add_group({"v": cupy.zeros(2)})
