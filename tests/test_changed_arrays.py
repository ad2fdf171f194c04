"""Arrays that have changed since the optimizer was built are refused by name, none is written."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from tables.models import Array


def read_only(array: Array) -> None:
    array.flags.writeable = False


def shrunk(array: Array) -> None:
    array.resize(2, refcheck=False)


def grown(array: Array) -> None:
    array.resize(1 << 20, refcheck=False)


def of_other_type(array: Array) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy 2.5 deprecates it
        array.dtype = np.int64  # type: ignore[misc]


CHANGES: list[tuple[Callable[[Array], None], type[Exception], str]] = [
    (read_only, ValueError, "is read-only, but a step updates it in place"),
    (shrunk, fs.StateError, "has been resized or given other memory"),
    (grown, fs.StateError, "has been resized or given other memory"),
    (of_other_type, TypeError, "dtype must be float32 or float64 in native byte order, not int64"),
]
every_change = pytest.mark.parametrize(
    ("change", "error", "message"), CHANGES, ids=lambda x: getattr(x, "__name__", "")
)
every_source = pytest.mark.parametrize("source", ["passed", "bound", "accumulated"])


def given(opt: Any, grads: Any, source: str) -> tuple[Any, ...]:
    """What a step is called with."""
    if source == "bound":
        opt.bind(grads)
    elif source == "accumulated":
        opt.accumulate(grads, 2)
    return (grads,) if source == "passed" else ()


@every_change
@every_source
def test_a_parameter_changed_after_the_optimizer_was_built_is_refused(
    change: Callable[[Array], None], error: type[Exception], message: str, source: str
) -> None:
    params = {"a": np.ones(5), "b": {"w": np.ones(6)}}
    opt = fs.SGD(params, lr=fs.schedules.linear(1.0, 0.0, length=4), momentum=0.9)
    arguments = given(opt, {"a": np.ones(5), "b": {"w": np.ones(6)}}, source)
    change(params["b"]["w"])
    before = repr((params, opt.state_dict(), opt.lr, opt.accumulated))
    with pytest.raises(error, match=rf"^params\['b/w'\]: {message}"):
        opt.step(*arguments)
    assert repr((params, opt.state_dict(), opt.lr, opt.accumulated)) == before


def test_a_parameter_is_updated_again_once_it_is_writeable_and_in_whatever_shape_it_has() -> None:
    w = np.ones((2, 3))
    opt = fs.SGD(w, lr=1.0)
    w.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        opt.step(np.ones((2, 3)))
    w.flags.writeable = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        w.shape = (6,)
    opt.step(np.ones((2, 3)))
    assert (w == 0.0).all()


def moved(array: Array) -> None:
    array.resize(1 << 22, refcheck=False)
    array.resize(5, refcheck=False)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (shrunk, ValueError, r"has shape \(2,\), the parameter has \(5,\)"),
        (grown, ValueError, r"has shape \(1048576,\), the parameter has \(5,\)"),
        (moved, fs.StateError, "has other memory than when it was bound: bind"),
        (of_other_type, TypeError, "has dtype int64, the parameter has float64"),
    ],
)
def test_a_bound_gradient_that_has_changed_is_refused(
    change: Callable[[Array], None], error: type[Exception], message: str
) -> None:
    params, grads = [np.ones(3), np.ones(5)], [np.ones(3), np.ones(5)]
    opt = fs.AdamW(params)
    opt.bind(grads)
    opt.step()
    before = repr((params, opt.state_dict()))
    change(grads[1])
    with pytest.raises(error, match=rf"^params\['1'\]: gradient {message}"):
        opt.step()
    assert repr((params, opt.state_dict())) == before
    opt.bind([np.ones(3), np.ones(5)])
    assert opt.step().applied


def steps_before(error: type[Exception], message: str, opt: Any, grads: Any) -> int:
    """How many steps there are before one is refused."""
    before = opt.steps_attempted
    with pytest.raises(error, match=message):  # noqa: PT012
        for _ in range(1000):
            opt.step(grads)
    return int(opt.steps_attempted - before)


@pytest.mark.parametrize("elements", [1, 2048])
def test_a_change_is_found_at_once_where_arrays_are_few_or_large_and_soon_where_they_are_many(
    elements: int,
) -> None:
    params = [np.ones(elements) for _ in range(200)]
    grads = [np.ones(elements) for _ in range(200)]
    opt = fs.SGD(params, lr=0.1)
    for array in (params[120], params[7]):
        array.flags.writeable = False
        assert steps_before(ValueError, "is read-only", opt, grads) <= (13 if elements == 1 else 0)
        array.flags.writeable = True


def test_what_a_step_can_not_look_at_each_time_is_not_resized_either() -> None:
    params = [np.ones(3) for _ in range(100)]
    grads = [np.ones(3) for _ in range(100)]
    opt = fs.SGD(params, lr=0.1)
    opt.bind(grads)
    for array in (params[50], grads[50]):
        with pytest.raises(ValueError, match="resize"):
            array.resize(1, refcheck=False)
    opt.bind(None)
    grads[50].resize(1, refcheck=False)


# what a container holds in place of what it held


def in_a_dict(params: Any) -> None:
    params["a"]["w"] = params["a"]["w"] * 0.5


def in_a_list(params: Any) -> None:
    params["l"][1] = params["l"][1] * 0.5


def a_container(params: Any) -> None:
    params["a"] = {key: array * 0.5 for key, array in params["a"].items()}


def removed(params: Any) -> None:
    del params["l"][1]


def deleted(params: Any) -> None:
    del params["a"]["w"]


def tree() -> dict[str, Any]:
    return {"a": {"w": np.ones(2), 3: np.ones(1)}, "l": [np.ones(3), np.ones(4)]}


def gradients() -> dict[str, Any]:
    return {"a": {"w": np.ones(2), 3: np.ones(1)}, "l": [np.ones(3), np.ones(4)]}


@every_source
@pytest.mark.parametrize(
    ("replace", "path"),
    [
        (in_a_dict, "a/w"),
        (in_a_list, "l/1"),
        (a_container, "a"),
        (removed, "l/1"),
        (deleted, "a/w"),
    ],
)
def test_a_step_refuses_to_go_on_with_an_array_that_its_container_no_longer_has(
    replace: Callable[[Any], None], path: str, source: str
) -> None:
    params = tree()
    opt = fs.SGD(params, lr=1.0, momentum=0.9)
    arguments = given(opt, gradients(), source)
    old = [*params["a"].values(), *params["l"]]
    replace(params)
    before = repr((old, opt.state_dict()))
    with pytest.raises(
        fs.StateError, match=rf"^params\['{path}'\] is not the array that"
    ) as caught:
        opt.step(*arguments)
    assert "[...] = value" in str(caught.value)
    assert "opt.rebind(params)" in str(caught.value)
    assert repr((old, opt.state_dict())) == before


def test_entries_that_are_no_parameters_may_change() -> None:
    group = {"params": [np.ones(2)], "lr": 0.5}
    opt = fs.SGD([group], lr=1.0)
    group["lr"] = 0.25
    opt.step([[np.ones(2)]])
    assert np.array_equal(group["params"][0], np.full(2, 0.5))


class Computed(dict[str, Any]):
    """Looks up what it was made with, whatever is put into it."""

    def __init__(self, **arrays: Any) -> None:
        super().__init__(arrays)
        self.arrays = arrays

    def __getitem__(self, key: str) -> Any:
        return self.arrays[key]


class Named(dict[str, Any]):
    """A dict that looks up as dicts do."""


@pytest.mark.parametrize(("kind", "looks"), [(OrderedDict, True), (Named, True), (Computed, False)])
def test_a_container_that_looks_up_in_a_way_of_its_own_is_left_alone(
    kind: Any, looks: bool
) -> None:
    params = kind(w=np.ones(2))
    opt = fs.SGD(params, lr=1.0)
    opt.step({"w": np.ones(2)})
    params["w"] = params["w"] * 0.5
    if looks:
        with pytest.raises(fs.StateError, match="is not the array"):
            opt.step({"w": np.ones(2)})
    else:
        assert opt.step({"w": np.ones(2)}).applied


def test_one_of_many_entries_is_found_within_some_steps() -> None:
    params = {str(k): np.ones(1) for k in range(200)}
    grads = {str(k): np.ones(1) for k in range(200)}
    opt = fs.SGD(params, lr=1.0)
    opt.step(grads)
    params["170"] = params["170"] * 2
    assert steps_before(fs.StateError, r"^params\['170'\]", opt, grads) <= 13


# the same natively


def plan_of(opt: Any) -> Any:
    return opt._plan


def test_parameters_are_compared_by_identity_in_one_call() -> None:
    params = [np.ones(2), np.ones(3)]
    plan = plan_of(fs.SGD(params))
    plan.check_same(params)
    with pytest.raises(fs.StateError, match=r"^params\['1'\] is not the array"):
        plan.check_same([params[0], params[1][:]])
    with pytest.raises(ValueError, match="expected 2 parameters, not 1"):
        plan.check_same(params[:1])


@pytest.mark.parametrize("binds", [False, True])
def test_a_plan_goes_on_with_other_arrays_as_if_it_had_had_them(binds: bool) -> None:
    grads = [[np.full(2, 0.5 + k), np.full(3, 0.25 - k)] for k in range(4)]
    expected, params = ([np.ones(2), np.ones(3)] for _ in range(2))
    straight, opt = (fs.Adam(p, lr=0.1, clip_norm=1.0) for p in (expected, params))
    for step, gradient in enumerate(grads):
        straight.step(gradient)
        if binds:
            opt.bind(gradient)
        opt.step() if binds else opt.step(gradient)
        old, params = params, [array.copy() for array in params]
        plan_of(opt).rebind(params)
        for array in old:
            array[...] = np.nan
            array.flags.writeable = False
        assert opt.steps_applied == step + 1
    for a, b in zip(params, expected, strict=True):
        assert np.array_equal(a, b)


BAD_REBINDS: list[tuple[str, Callable[[Any, Any, Any], Any], type[Exception], str]] = [
    ("count", lambda p, g, s: p[:1], ValueError, "expected 2 parameters, not 1"),
    (
        "shape",
        lambda p, g, s: [p[0], np.ones(4)],
        ValueError,
        r"params\['1'\]: has shape \(4,\), this optimizer's parameter has \(3,\)",
    ),
    (
        "dimensions",
        lambda p, g, s: [p[0], np.ones((3, 1))],
        ValueError,
        r"params\['1'\]: has shape \(3, 1\), this",
    ),
    (
        "dtype",
        lambda p, g, s: [p[0], np.ones(3, np.float32)],
        TypeError,
        r"params\['1'\]: has dtype float32, this optimizer's parameter has float64",
    ),
    ("twice", lambda p, g, s: [s[1][:2], s[1]], ValueError, "shares memory with"),
    ("state", lambda p, g, s: [p[0], s[1]], ValueError, "shares memory with params"),
    ("gradient", lambda p, g, s: [p[0], g[1]], ValueError, "gradient shares memory with params"),
    ("list", lambda p, g, s: [p[0], [1.0]], TypeError, r"params\['1'\]: must be a numpy.ndarray"),
]


@pytest.mark.parametrize(
    ("others", "error", "message"), [b[1:] for b in BAD_REBINDS], ids=[b[0] for b in BAD_REBINDS]
)
def test_other_arrays_that_do_not_fit_are_refused_and_nothing_has_changed(
    others: Callable[[Any, Any, Any], Any], error: type[Exception], message: str
) -> None:
    params, grads = [np.ones(2), np.ones(3)], [np.ones(2), np.ones(3)]
    opt = fs.Adam(params)
    opt.bind(grads)
    opt.step()
    states = [state["v"] for state in opt.state.values()]
    with pytest.raises(error, match=message):
        plan_of(opt).rebind(others(params, grads, states))
    before = params[1].copy()
    opt.step()
    assert (params[1] < before).all()


def test_a_gradient_may_lie_where_a_parameter_was_and_not_where_one_is() -> None:
    old, new, grad = np.ones(3), np.ones(3), np.ones(3)
    opt = fs.SGD([old], lr=1.0)
    opt.step([grad])
    plan_of(opt).rebind([new])
    opt.step([old])
    with pytest.raises(ValueError, match="shares memory"):
        opt.step([new])
    plan_of(opt).rebind([grad])
    with pytest.raises(ValueError, match="shares memory"):
        opt.step([grad])
