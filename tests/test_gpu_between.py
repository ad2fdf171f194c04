"""What happens between steps and replays on a GPU leaves host and device with the same counts."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import emulation.cuda
import fusestep as fs
from emulation.cuda import Driver
from tables.models import captured


def full(cupy: Any, value: float) -> Any:
    return cupy.asarray(np.full(3, value, np.float32))


@pytest.fixture
def stream(cupy: Any) -> Any:
    with cupy.cuda.Stream(non_blocking=True) as stream:
        yield stream


def test_a_refused_call_does_not_hide_that_gradients_have_moved(cupy: Any, stream: Any) -> None:
    w, a, b = (full(cupy, value) for value in (0, 1, 10))
    opt = fs.SGD(w, lr=1.0)
    opt.bind(a)
    graph = captured(opt, stream, 2)
    opt.bind(b)
    with pytest.raises(ValueError, match="steps must be at most"):
        opt.prepare_replays(200)
    opt.prepare_replays(2)
    graph.launch()
    assert np.array_equal(w.get(), np.full(3, -10))


def test_a_case_that_failed_to_compile_is_compiled_again(
    emulated: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cupy

    def broken(*arguments: Any) -> None:
        raise OSError("no memory")

    w, g = full(cupy, 0), full(cupy, 1)
    opt = fs.SGD(w, lr=1.0)
    opt.step(g)
    with monkeypatch.context() as patch:
        patch.setattr(cupy.cuda.nvrtc, "createProgram", broken)
        with pytest.raises(RuntimeError, match="no memory"):
            opt.step(g, grad_scale=2.0)
    opt.step(g, grad_scale=2.0)
    assert np.array_equal(w.get(), np.full(3, -1.5))
    assert opt.steps_applied == 2


def test_a_refused_step_between_replays_loses_no_count(cupy: Any, stream: Any) -> None:
    opt = fs.SGD(full(cupy, 0), lr=1.0)
    opt.bind(full(cupy, 1))
    graph = captured(opt, stream, 4)
    graph.launch()
    with pytest.raises(fs.StateError, match="gradients are bound"):
        opt.step(full(cupy, 1))
    graph.launch()
    assert opt.steps_applied == 2


@pytest.mark.parametrize("between", ["load", "steps", "accumulate"])
def test_replays_after_something_else_wait_for_their_preparation(
    cupy: Any, stream: Any, between: str
) -> None:
    w, g = full(cupy, 0), full(cupy, 1)
    opt = fs.SGD(w, lr=fs.schedules.linear(1.0, 0.0, length=4), nonfinite="skip")
    opt.bind(g)
    saved = opt.state_dict()
    graph = captured(opt, stream, 4)
    if between == "load":
        opt.load_state_dict(saved)
    elif between == "steps":
        opt.step()
        opt.step()
    else:
        opt.bind(None)
        opt.accumulate(full(cupy, 5), 2)
    before = w.get()
    graph.launch()
    with pytest.raises(fs.StateError, match="replayed more often"):
        _ = opt.steps_applied
    assert np.array_equal(w.get(), before)
    assert opt.steps_attempted == (2 if between == "steps" else 0)


def test_a_capture_takes_only_what_was_prepared(cupy: Any, stream: Any) -> None:
    opt = fs.SGD({"a": full(cupy, 0), "b": full(cupy, 0)}, lr=1.0, clip_norm=9.0)
    g = full(cupy, 1)
    opt.bind({"a": g, "b": full(cupy, 1)})
    graph = captured(opt, stream, 4)
    graph.launch()

    def refused() -> None:
        stream.begin_capture()
        try:
            with pytest.raises(fs.StateError, match="have changed since prepare_replays"):
                opt.step()
        finally:
            stream.end_capture()

    opt.bind({"a": g, "b": None})
    refused()
    assert opt.state_dict()["parameters"]["b"]["updates"] == 1
    opt.prepare_replays(2)
    opt.lr = 0.5
    refused()
    opt.nonfinite = "skip"
    with pytest.raises(fs.StateError, match="capture anew"):
        opt.prepare_replays(2)


def test_what_a_step_told_is_not_taken_for_another_after_loading(cupy: Any) -> None:
    for nonfinite in ("propagate", "skip"):
        opt = fs.SGD(full(cupy, 0), lr=1.0, clip_norm=1e9, nonfinite=nonfinite)
        saved = opt.state_dict()
        infos = []
        for value in (1, 2, 3):
            infos.append(opt.step(full(cupy, value)))
            opt.load_state_dict(saved)
        norms = [info.grad_norm for info in infos]
        assert norms == pytest.approx([np.sqrt(3) * value for value in (1, 2, 3)])


def test_no_gradient_at_all_is_a_step_as_on_the_cpu(cupy: Any) -> None:
    for opt in (fs.SGD([full(cupy, 0)], nonfinite="skip"), fs.SGD([np.zeros(3)], nonfinite="skip")):
        opt.step([None])
        assert (opt.steps_applied, opt.state_dict()["parameters"]["0"]["updates"]) == (1, 0)


def test_a_first_micro_batch_during_a_capture_is_refused_for_good(cupy: Any, stream: Any) -> None:
    opt = fs.SGD(full(cupy, 0), lr=1.0)
    g = full(cupy, 1)
    stream.begin_capture()
    try:
        with pytest.raises(fs.StateError, match="accumulate: not while a stream is capturing"):
            opt.accumulate(g, 2)
    finally:
        stream.end_capture()
    opt.accumulate(g, 2)
    assert opt.step().applied


def test_sums_loaded_during_a_capture_are_refused_before_there_is_memory_for_them(
    cupy: Any, stream: Any
) -> None:
    opts = [fs.SGD(full(cupy, 0), lr=1.0) for _ in range(2)]
    opts[0].accumulate(full(cupy, 1), 2)
    saved = opts[0].state_dict()
    stream.begin_capture()
    try:
        with pytest.raises(fs.StateError, match="load_state_dict: not while a stream is captur"):
            opts[1]._accumulator.load((2.0, 1, 6.0), saved["accumulated"]["gradients"])
    finally:
        stream.end_capture()
    assert opts[1]._accumulator.arrays == ()
    opts[1].load_state_dict(saved)
    assert opts[1].accumulated == 2


@pytest.mark.parametrize("behind", [None, 0, 1, 4, 8, 16])
def test_a_row_that_is_not_needed_can_not_refuse_a_step(cupy: Any, behind: int | None) -> None:
    emulation.cuda.driver.behind = behind
    w = full(cupy, 0)
    opt = fs.SGD(w, lr=fs.schedules.linear(1.0, -1.0, length=4), nonfinite="skip")
    for value in (1.0, np.nan, 1.0, 1.0):
        opt.step(full(cupy, value))
    assert opt.lr == 0.0
    assert np.array_equal(w.get(), np.full(3, -1.5))


def test_each_replay_has_a_clock_of_its_own(cupy: Any, stream: Any) -> None:
    lr = fs.schedules.piecewise([1.0, 0.5, 0.25], at=[1, 2], by="epoch")
    w, gradients = full(cupy, 0), full(cupy, 1)
    opt = fs.SGD(w, lr=lr)
    opt.bind(gradients)
    opt.prepare_replays(3, clocks=[fs.Clock(epoch=epoch) for epoch in (0, 1, 2)])
    with stream:
        stream.begin_capture()
        opt.step()
        graph = stream.end_capture()
        for expected in (-1.0, -1.5, -1.75):
            graph.launch()
            stream.synchronize()
            assert np.array_equal(w.get(), np.full(3, expected))


def test_the_rate_shown_is_that_of_the_next_update(cupy: Any, stream: Any) -> None:
    opt = fs.SGD(full(cupy, 0), lr=fs.schedules.linear(1.0, 0.0, length=4))
    opt.bind(full(cupy, 1))
    opt.prepare_replays(3)
    assert opt.lr == 1.0
    opt.step()
    assert opt.lr == 1.0
    opt.prepare_replays(2)
    assert opt.lr == 0.75


@pytest.mark.parametrize("behind", [None, 0, 3])
def test_the_rate_shown_between_steps_is_the_one_that_the_last_step_used(
    cupy: Any, behind: int | None
) -> None:
    emulation.cuda.driver.behind = behind
    values = (1.0, np.nan, 1.0, np.nan, np.nan, 1.0, 1.0, np.nan)
    w, lr = full(cupy, 0), fs.schedules.linear(1.0, 0.0, length=8)
    host = fs.SGD(np.zeros(3, np.float32), lr=lr, clip_norm=lr + 1, nonfinite="skip")
    opt = fs.SGD(w, lr=lr, clip_norm=lr + 1, nonfinite="skip")
    for count in range(len(values)):
        host.step(np.full(3, values[count], np.float32))
        opt.step(full(cupy, values[count]))
        if count % 3 == 2:
            assert (opt.lr, opt.clip_norm) == (host.lr, host.clip_norm)
    assert (opt.lr, opt.clip_norm, opt.steps_applied) == (
        host.lr,
        host.clip_norm,
        host.steps_applied,
    )
    opt.weight_decay = 0.0  # which writes the table anew
    assert (opt.lr, opt.clip_norm) == (host.lr, host.clip_norm)


def test_a_refused_step_leaves_the_rate_where_it_was(cupy: Any) -> None:
    opt = fs.SGD(full(cupy, 0), lr=fs.schedules.linear(1.0, 0.0, length=4), nonfinite="raise")
    for _ in range(2):
        opt.step(full(cupy, 1))
    for bad in (full(cupy, np.nan), cupy.asarray(np.ones(4, np.float32))):
        with pytest.raises(ValueError, match="params"):
            opt.step(bad)
        assert opt.lr == 0.75
    assert opt.step(full(cupy, 1)).lr == 0.5


@pytest.mark.parametrize("nonfinite", ["propagate", "skip"])
def test_a_plan_goes_on_with_other_arrays_as_if_it_had_had_them(cupy: Any, nonfinite: str) -> None:
    expected, params = (full(cupy, 1) for _ in range(2))
    straight, opt = (fs.Adam(p, lr=0.1, nonfinite=nonfinite) for p in (expected, params))
    for step in range(4):
        for one in (straight, opt):
            one.step(full(cupy, 0.5 + step))
        old, params = params, params.copy()
        plan: Any = opt._plan
        plan.rebind([params])
        old.fill(np.nan)
        plan.check_same([params])
        with pytest.raises(fs.StateError, match="is not the array"):
            plan.check_same([old])
    with pytest.raises(ValueError, match="has shape"):
        plan.rebind([cupy.asarray(np.ones(4, np.float32))])
    gradient = full(cupy, 0)
    fs.SGD(params, lr=1.0).step(gradient)
    other = fs.SGD(old, lr=1.0)
    other.step(gradient)
    other._plan.rebind([gradient])
    with pytest.raises(ValueError, match="shares memory"):
        other.step(gradient)
    assert np.array_equal(params.get(), expected.get())
    assert opt.steps_applied == straight.steps_applied == 4


def test_a_load_writes_all_of_it_or_nothing(cupy: Any) -> None:
    opt = fs.SGD(full(cupy, 0), lr=0.5, momentum=0.5, nonfinite="skip")
    opt.step(full(cupy, 1))
    plan: Any = opt._plan
    momentum = opt.state[""]["momentum"]
    state = {
        "updates": [4],
        "attempted": 6,
        "applied": 5,
        "accumulated": (0.0, 0, 0.0, []),
        "settings": np.where(plan.settings == 0.5, 0.25, plan.settings),
        "program": None,
        "targets": [],
        "nonfinite": "raise",
        "arrays": [(momentum, np.arange(3, dtype=np.float32))],
    }
    bad = {**state, "updates": [-1]}
    before = repr((plan.updates, plan.settings, plan.nonfinite, momentum.get()))
    with pytest.raises(ValueError, match="counts"):
        plan.load(**bad)
    assert repr((plan.updates, plan.settings, plan.nonfinite, momentum.get())) == before
    plan.load(**state)
    assert (plan.updates, plan.attempted, plan.applied, plan.nonfinite) == ([4], 6, 5, "raise")
    assert np.array_equal(plan.settings, state["settings"], equal_nan=True)
    assert momentum.get().tolist() == [0.0, 1.0, 2.0]


class Slots:
    __slots__ = ("seen",)


@pytest.mark.parametrize("nonfinite", ["propagate", "skip"])
def test_what_comes_with_an_update_is_set_if_there_is_one(cupy: Any, nonfinite: str) -> None:
    opt, observer = fs.SGD(full(cupy, 0), nonfinite=nonfinite), Slots()
    plan: Any = opt._plan
    observer.seen = 0
    plan.step([full(cupy, 1)], 1.0, None, changes=[(observer, "seen", 1)])
    assert observer.seen == 1
    if nonfinite == "skip":
        plan.step([full(cupy, np.nan)], 1.0, None, changes=[(observer, "seen", 2)])
        assert observer.seen == 1


def test_a_plan_that_one_thread_holds_keeps_the_others_out(cupy: Any) -> None:
    opt = fs.SGD(full(cupy, 0), lr=1.0)
    refused: list[str] = []

    def call() -> None:
        for action in (
            lambda: opt.step(full(cupy, 1)),
            lambda: setattr(opt, "lr", 2.0),
            lambda: opt.accumulate(full(cupy, 1), 1),
        ):
            try:
                action()
            except fs.StateError as error:
                refused.append(str(error))

    with opt._plan.held():
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        opt.step(full(cupy, 1))
    assert refused == ["this optimizer is already inside a call of another thread"] * 3
    assert (opt.lr, opt.steps_applied, opt.accumulated) == (1.0, 1, 0.0)


def test_a_graph_is_not_replayed_for_a_case_compiled_after_its_capture(
    cupy: Any, stream: Any
) -> None:
    w, g = full(cupy, 1), full(cupy, 1)
    opt = fs.SGD(w, lr=1.0)
    opt.bind(g)
    captured(opt, stream, 2)
    opt.weight_decay = 0.5
    opt.step()  # compiles
    before = w.get()
    with pytest.raises(fs.StateError, match="capture anew"):
        opt.prepare_replays(2)
    graph = captured(opt, stream, 2)
    graph.launch()
    assert opt.steps_applied == 2
    assert np.array_equal(w.get(), before - (1 + 0.5 * before))
