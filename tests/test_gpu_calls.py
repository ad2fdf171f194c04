"""Calls between Python and a GPU's plan: a few for a step, none inside another, all or nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusestep as fs
from emulation.cuda import Driver
from fusestep import _core
from fusestep.engines import Plan
from fusestep.engines.cuda.launcher import Launcher
from tables.models import arrays


def full(cupy: Any, value: float) -> Any:
    return cupy.asarray(np.full(3, value, np.float32))


def two(cupy: Any) -> list[Any]:
    return [cupy.asarray(values) for values in arrays((5000, 3), np.float32, 0)]


@pytest.fixture
def crossings(emulated: Driver, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls between Python and the native plan, in either direction."""
    called: list[str] = []

    def noted(name: str, function: Any) -> Any:
        def call(*args: Any, **keywords: Any) -> Any:
            called.append(name)
            return function(*args, **keywords)

        return call

    for owner in (_core.CudaPlan, _core.CudaStepInfo, Launcher):
        for name, member in vars(owner).items():
            if isinstance(member, property):
                monkeypatch.setattr(owner, name, property(noted(name, member.fget), member.fset))
            elif not name.startswith("_"):
                monkeypatch.setattr(owner, name, noted(name, member))
    for name, member in vars(_core).items():
        if callable(member) and not isinstance(member, type):
            monkeypatch.setattr(_core, name, noted(name, member))
    return called


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["step", "enter", "run"]),
        ({"clip_norm": 1.0}, ["step", "enter", "run"]),
        ({"nonfinite": "skip"}, ["step", "enter", "run"]),
        ({"nonfinite": "raise"}, ["step", "enter", "run", "run"]),
    ],
    ids=str,
)
def test_a_step_crosses_between_python_and_native_code_a_few_times(
    options: dict[str, Any], expected: list[str], crossings: list[str]
) -> None:
    import cupy

    grads = two(cupy)
    opt = fs.AdamW(two(cupy), **options)
    opt.step(grads)  # compiles
    for _ in range(3):
        cupy.cuda.Device().synchronize()
        crossings.clear()
        opt.step(grads)
        assert crossings == expected


def test_a_step_in_parts_crosses_a_few_times_for_each(crossings: list[str]) -> None:
    import cupy

    grads = two(cupy)
    opt = fs.AdamW(two(cupy), nonfinite="skip")
    plan: Any = opt._plan
    for step in range(3):
        crossings.clear()
        plan.begin_parts(grads, 1.0, None)
        plan.update_part(1024)
        plan.update_part(5003)
        called = ["begin_parts", "enter", "run", *["update_part", "enter", "run"] * 2]
        assert step == 0 or crossings == called  # the first one compiles


@pytest.mark.parametrize(
    ("nonfinite", "expected"),
    [
        ("skip", ["step", "enter", "run", "learn"]),
        ("propagate", ["step", "enter", "run", "learn", "run"]),
        ("raise", ["step", "enter", "run", "learn", "run"]),
    ],
)
def test_a_step_from_whose_norm_something_learns_calls_for_that_once(
    nonfinite: str, expected: list[str], crossings: list[str]
) -> None:
    import cupy

    def learn(norm: float) -> list[Any]:
        crossings.append("learn")
        return []

    grads = two(cupy)
    plan: Any = fs.AdamW(two(cupy), nonfinite=nonfinite)._plan
    for step in range(3):
        crossings.clear()
        plan.step(grads, 1.0, None, learn=learn)
        assert step == 0 or crossings == expected  # the first one compiles


def test_a_captured_step_and_a_micro_batch_cross_a_few_times(crossings: list[str]) -> None:
    import cupy

    grads = two(cupy)
    opt = fs.AdamW(two(cupy), clip_norm=1.0)
    opt.bind(grads)
    opt.prepare_replays(3)
    crossings.clear()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        opt.step()
        stream.end_capture()
    assert crossings == ["step", "enter", "run"]
    opt.bind(None)
    opt.accumulate(grads, 2)
    crossings.clear()
    opt.accumulate(grads, 2)
    assert crossings == ["accumulate", "enter", "new_number", "run"]


@pytest.mark.parametrize("nonfinite", ["propagate", "skip", "raise"])
def test_a_call_from_inside_a_step_is_refused_and_the_step_goes_on(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, nonfinite: str
) -> None:
    w, g = full(cupy, 0), full(cupy, 1)
    run, calls = Launcher.run, []

    def interfered(launcher: Any, *queued: Any) -> None:
        for call in calls:
            with pytest.raises(fs.StateError, match="already inside a call"):
                call()
        run(launcher, *queued)

    monkeypatch.setattr(Launcher, "run", interfered)
    opt = fs.SGD(w, lr=1.0, nonfinite=nonfinite)
    opt.step(g)
    calls += [lambda: opt.step(g), lambda: opt.bind(g), lambda: opt.accumulate(g, 2)]
    calls += [lambda: opt.prepare_replays(1), lambda: setattr(opt, "lr", 9.0)]
    calls += [opt.discard_accumulated, lambda: opt.load_state_dict(saved)]
    saved: Any = None
    opt.step(g)
    calls.clear()
    assert (opt.steps_applied, opt.lr, opt.accumulated) == (2, 1.0, 0.0)
    assert np.array_equal(w.get(), np.full(3, -2))


@pytest.mark.parametrize("nonfinite", ["propagate", "skip", "raise"])
@pytest.mark.parametrize("entries", [1, 10])
def test_a_step_that_can_not_be_launched_leaves_all_as_it_was(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, nonfinite: str, entries: int
) -> None:
    curve = fs.schedules.linear(1.0, 0.0, length=4)
    groups = [{"match": str(k), "weight_decay": float(k)} for k in range(entries)]
    run, fails = Launcher.run, [False]

    def failing(launcher: Any, *queued: Any) -> None:
        if fails[0]:
            raise OSError("no driver")
        run(launcher, *queued)

    monkeypatch.setattr(Launcher, "run", failing)
    params = [full(cupy, 0) for _ in range(10)]
    expected = [full(cupy, 0) for _ in range(10)]
    one, other = (
        fs.SGD(p, lr=curve, groups=groups, nonfinite=nonfinite) for p in (params, expected)
    )
    for step in range(3):
        grads = [full(cupy, 1 + step) for _ in range(10)]
        fails[0] = True
        counts = one.steps_applied, one.lr
        with pytest.raises(OSError, match="no driver"):
            one.step([full(cupy, np.nan) for _ in range(10)])
        assert (one.steps_applied, one.lr) == counts
        fails[0] = False
        one.step(grads)
        other.step(grads)
    assert [p.get().tolist() for p in params] == [p.get().tolist() for p in expected]
    assert (one.steps_applied, one.lr) == (other.steps_applied, other.lr)


@pytest.mark.parametrize("plan", [_core.CpuPlan, _core.CudaPlan])
def test_every_plan_can_do_what_the_protocol_says(plan: type[Plan]) -> None:
    said = {name for name in vars(Plan) if not name.startswith("_")} | set(Plan.__annotations__)
    assert "step" in said
    assert said - set(dir(plan)) == set()
