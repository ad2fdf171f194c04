"""The table of presets under test: arguments, updates, and how the peer's own object is stepped."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest

import fusestep as fs
from fusestep.expression import step
from fusestep.schedules import presets
from tables.preset_formulas import FORMULAS


class Row:
    """A preset of a peer, its arguments, and for how many updates it is compared."""

    def __init__(self, name: str, updates: int = 60, **arguments: Any) -> None:
        self.peer, self.name = name.split(".")
        self.updates, self.arguments = updates, arguments

    def __repr__(self) -> str:
        given = ", ".join(
            f"{k}={getattr(v, '__name__', None) or repr(v)}" for k, v in self.arguments.items()
        )
        return f"{self.peer}.{self.name}({given})"

    def given(self) -> dict[str, Any]:
        """The arguments, with expressions for rows in them."""
        arguments: dict[str, Any] = _each(self.arguments, Row, Row.build)
        return arguments

    def build(self) -> Any:
        return getattr(getattr(presets, self.peer), self.name)(**self.given())

    def formula(self, t: int) -> float:
        """The value by the closed form, in plain Python."""
        arguments = _each(self.arguments, fs.Expression, lambda curve: curve)
        return FORMULAS[self.peer][self.name](t, **arguments)

    def theirs(self) -> list[float]:
        """What the peer's own object puts in force for each update; skips where it is absent."""
        return PEERS[self.peer](self)


def _each(item: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """An argument with each object of a kind in it changed."""
    if isinstance(item, kind):
        return change(item)
    if isinstance(item, dict):
        return {k: _each(v, kind, change) for k, v in item.items()}
    return [_each(v, kind, change) for v in item] if isinstance(item, list) else item


def optimizer_with(lr: float) -> Any:
    """An optimizer of torch with one group."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.5)


def followed(optimizer: Any, scheduler: Any, updates: int) -> list[float]:
    """The rate in force for each update of a scheduler that is stepped after it."""
    found = []
    for t in range(updates):
        if t > 0:
            optimizer.step()
            scheduler.step()
        found.append(float(optimizer.param_groups[0]["lr"]))
    return found


def in_torch(row: Row) -> list[float]:
    def scheduler(row: Row) -> Any:
        options = _each(row.arguments, Row, scheduler)
        options = _each(options, fs.Expression, fs.schedules.as_lambda)
        options.pop("base", None)
        if row.name in ("CyclicLR", "OneCycleLR"):
            options["cycle_momentum"] = False
        room = "swa_utils" if row.name == "SWALR" else "lr_scheduler"
        build = getattr(importlib.import_module(f"torch.optim.{room}"), row.name)
        return build(**options) if row.name == "ChainedScheduler" else build(optimizer, **options)

    first = row
    while "schedulers" in first.arguments:
        first = first.arguments["schedulers"][0]
    optimizer = optimizer_with(first.arguments.get("base", 1.0))
    return followed(optimizer, scheduler(row), row.updates)


def harmonic(t: float) -> float:
    return 1 / (1 + t)


def slowly(t: float) -> float:
    return 1 - 0.01 * t


_WARM = Row("torch.LinearLR", base=0.3, start_factor=0.1, total_iters=10)
_FALL = Row("torch.CosineAnnealingLR", base=0.3, T_max=50, eta_min=0.01)
_PAST = {"pct_start": 0.25, "div_factor": 10.0, "final_div_factor": 100.0}
_CYCLE = {"base_lr": 0.01, "max_lr": 0.3, "step_size_up": 7, "step_size_down": 13}

TORCH = [
    Row("torch.LambdaLR", base=0.3, lr_lambda=harmonic),
    Row("torch.LambdaLR", base=0.3, lr_lambda=1 / (1 + step) ** 0.5),
    Row("torch.MultiplicativeLR", base=0.3, lr_lambda=slowly),
    Row("torch.MultiplicativeLR", 500, base=0.3, lr_lambda=1 - 0.001 * step),
    Row("torch.StepLR", 200, base=0.3, step_size=7, gamma=0.5),
    Row("torch.StepLR", base=0.3, step_size=20),
    Row("torch.MultiStepLR", base=0.3, milestones=[3, 20, 10, 10], gamma=0.5),
    Row("torch.MultiStepLR", base=0.3, milestones=[0, 5]),
    Row("torch.MultiStepLR", base=0.3, milestones=[]),
    Row("torch.ConstantLR", base=0.3),
    Row("torch.ConstantLR", base=0.3, factor=0.7, total_iters=9),
    Row("torch.LinearLR", base=0.3),
    Row("torch.LinearLR", 500, base=0.3, start_factor=0.1, end_factor=0.7, total_iters=300),
    Row("torch.LinearLR", base=0.3, start_factor=1.0, end_factor=0.0, total_iters=50),
    Row("torch.ExponentialLR", 2000, base=0.3, gamma=0.97),
    Row("torch.ExponentialLR", 200, base=0.3, gamma=1.01),
    Row("torch.PolynomialLR", base=0.3),
    Row("torch.PolynomialLR", base=0.3, total_iters=40, power=2.0),
    Row("torch.PolynomialLR", base=0.3, total_iters=40, power=0.5),
    Row("torch.CosineAnnealingLR", base=0.3, T_max=50),
    Row("torch.CosineAnnealingLR", 200, base=0.3, T_max=20, eta_min=0.01),
    Row("torch.CosineAnnealingLR", 2000, base=0.3, T_max=1500, eta_min=0.01),
    Row("torch.CosineAnnealingWarmRestarts", 300, base=0.3, T_0=5, T_mult=2, eta_min=0.01),
    Row("torch.CosineAnnealingWarmRestarts", 200, base=0.3, T_0=7),
    Row("torch.CosineAnnealingWarmRestarts", 2000, base=0.3, T_0=3, T_mult=3),
    Row("torch.CyclicLR", 200, **_CYCLE),
    Row("torch.CyclicLR", 2000, base_lr=0.01, max_lr=0.3, step_size_up=100),
    Row("torch.CyclicLR", 200, **_CYCLE, mode="triangular2"),
    Row("torch.CyclicLR", 200, **_CYCLE, mode="exp_range", gamma=0.99),
    Row("torch.CyclicLR", 200, **_CYCLE, scale_fn=harmonic),
    Row("torch.CyclicLR", 200, **_CYCLE, scale_fn=1 / step**0.5),
    Row("torch.CyclicLR", 200, **_CYCLE, scale_fn=harmonic, scale_mode="iterations"),
    *(
        Row("torch.OneCycleLR", 61, max_lr=0.5, total_steps=61, anneal_strategy=a, three_phase=p)
        for a in ("cos", "linear")
        for p in (False, True)
    ),
    Row("torch.OneCycleLR", 1000, max_lr=0.5, epochs=10, steps_per_epoch=100, **_PAST),
    Row("torch.SequentialLR", schedulers=[_WARM, _FALL], milestones=[10]),
    Row(
        "torch.SequentialLR",
        100,
        schedulers=[_WARM, Row("torch.ExponentialLR", base=0.3, gamma=0.9), _FALL],
        milestones=[10, 30],
    ),
    Row("torch.ChainedScheduler", schedulers=[_WARM], base=0.3),
    Row(
        "torch.ChainedScheduler",
        base=0.3,
        schedulers=[
            Row("torch.ConstantLR", base=0.3, factor=0.1, total_iters=8),
            Row("torch.ExponentialLR", base=0.3, gamma=0.9),
            Row("torch.MultiStepLR", base=0.3, milestones=[5, 30], gamma=0.5),
            Row("torch.CosineAnnealingLR", base=0.3, T_max=100),
        ],
    ),
    Row("torch.SWALR", base=0.3, swa_lr=0.05),
    Row("torch.SWALR", base=0.3, swa_lr=0.5, anneal_epochs=30, anneal_strategy="linear"),
    Row("torch.SWALR", base=0.3, swa_lr=0.05, anneal_epochs=0),
]
PEERS: dict[str, Callable[[Row], list[float]]] = {"torch": in_torch}
ROWS = TORCH
# those that follow the loss
CONTROLS = {"torch.ReduceLROnPlateau"}
