"""An interrupt leaves what was there before the call, or what is there after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import fusestep as fs
from emulation.interrupts import halfway
from fusestep import control, schedules
from fusestep.gradients import GradientStatistics, split_step

GRADIENTS = {"a": np.linspace(-1.0, 1.0, 5), "b": np.full(3, 0.25, np.float32)}


class Run(NamedTuple):
    """An optimizer in the middle of its work."""

    params: dict[str, Any]
    opt: fs.Optimizer
    statistics: GradientStatistics

    def look(self) -> list[Any]:
        opt = self.opt
        settings = opt.lr, opt.betas, opt.clip_norm, opt.clip_value, opt.nonfinite  # type: ignore[attr-defined]
        return [
            self.params,
            opt.state_dict(),
            settings,
            [group.lr for group in opt.groups],
            str(opt.schedules),
            self.statistics.state_dict(),
        ]


def run(accumulates: bool = False, **settings: Any) -> Callable[[], Run]:
    def make() -> Run:
        params = {"a": np.ones(5), "b": np.ones(3, np.float32)}
        given = {name: make() for name, make in settings.items()}
        given = {"lr": schedules.linear(1.0, 0.1, length=10), "clip_norm": 1.0, **given}
        opt = fs.AdamW(params, groups=[{"match": "b", "lr": 0.5}], **given)
        opt.step(GRADIENTS, loss=1.0)
        if accumulates:
            for samples in (3, 5):
                opt.accumulate(GRADIENTS, samples)
        return Run(params, opt, GradientStatistics())

    return make


def following() -> dict[str, Any]:
    return {
        "lr": lambda: 0.1 * control.Plateau(patience=0),
        "weight_decay": lambda: 0.1 * control.LossBackoff(),
    }


def loss_and_gradients(batch: Any, *_: Any) -> tuple[float, dict[str, Any]]:
    mean = float(np.mean(batch))
    return mean, {"a": np.full(5, mean), "b": np.full(3, mean, np.float32)}


def saved() -> dict[str, Any]:
    subject = run(**following(), clip_norm=lambda: 7.0)()
    subject.opt.step(GRADIENTS, loss=3.0)
    subject.opt.accumulate(GRADIENTS, 2)
    return subject.opt.state_dict()


CALLS: dict[str, tuple[Any, Callable[[Run], Any], int]] = {
    "a step": (run(), lambda r: r.opt.step(GRADIENTS), 1),
    "a step that controls follow": (
        run(**following()),
        lambda r: r.opt.step(GRADIENTS, loss=2.0),
        1,
    ),
    "a step that calls functions": (
        run(lr=lambda: lambda step: 0.1 / (step + 1)),
        lambda r: r.opt.step(GRADIENTS),
        1,
    ),
    "a micro-batch": (run(), lambda r: r.opt.accumulate(GRADIENTS, 3), 1),
    "a step that statistics learn from": (
        run(accumulates=True, **following()),
        lambda r: r.opt.step(statistics=r.statistics, loss=2.0),
        1,
    ),
    "a step in parts": (
        run(**following()),
        lambda r: split_step(r.opt, loss_and_gradients, np.arange(8.0), statistics=r.statistics),
        3,
    ),
    "a number set": (run(lr=lambda: 0.1), lambda r: setattr(r.opt, "lr", 0.3), 1),
    "a schedule set": (run(), lambda r: setattr(r.opt, "lr", schedules.constant(2.0)), 5),
    "a pair set": (run(), lambda r: setattr(r.opt, "betas", (0.1, 0.2)), 7),
    "a group's own set": (run(), lambda r: setattr(r.opt.groups[1], "lr", 0.7), 7),
    "a limit set": (run(), lambda r: setattr(r.opt, "clip_norm", 2.0), 7),
    "a reset": (run(accumulates=True, **following()), lambda r: r.opt.reset(), 11),
    "a load": (run(**following()), lambda r: r.opt.load_state_dict(saved()), 23),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_interrupt_at_any_line_leaves_the_state_before_or_the_state_after(name: str) -> None:
    make, call, every = CALLS[name]
    state = saved() if name == "a load" else None
    if state is not None:
        call = lambda r: r.opt.load_state_dict(state)  # noqa: E731
    tried, found = halfway(make, call, lambda r: r.look(), every)
    assert not found
    assert tried > 5
