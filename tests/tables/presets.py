"""Presets under test: their arguments, closed forms, and the peers' own objects, stepped."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import fusestep as fs
from fusestep.schedules import presets
from tables.peer_formulas import FORMULAS
from tables.peer_modules import imported


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
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
    torch = imported("torch")
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.5)


def followed(optimizer: Any, updates: int, step: Callable[[int], Any]) -> list[float]:
    """The rate in force for each update; ``step(t)`` prepares update t."""
    found = []
    for t in range(updates):
        if t > 0:
            optimizer.step()
            step(t)
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
        build = getattr(imported(f"torch.optim.{room}"), row.name)
        return build(**options) if row.name == "ChainedScheduler" else build(optimizer, **options)

    first = row
    while "schedulers" in first.arguments:
        first = first.arguments["schedulers"][0]
    optimizer = optimizer_with(first.arguments.get("base", 1.0))
    built = scheduler(row)
    return followed(optimizer, row.updates, lambda t: built.step())


def of_an_optimizer(module: str) -> Callable[[Row], list[float]]:
    """Those whose first argument is an optimizer of torch."""

    def values(row: Row) -> list[float]:
        options = {k: v for k, v in row.arguments.items() if k != "base"}
        if row.name == "OneCycle":
            options["cycle_momentum"] = False
        build = getattr(imported(module), row.name)
        optimizer = optimizer_with(row.arguments.get("base", 1.0))
        built = build(optimizer, **options)
        return followed(optimizer, row.updates, lambda t: built.step(*[t][: row.peer == "timm"]))

    return values


def in_optax(row: Row) -> list[float]:
    """In double precision."""

    def schedule(row: Row) -> Any:
        options = _each(row.arguments, Row, schedule)
        return getattr(optax, row.name)(**options)

    optax = imported("optax")
    with imported("jax").enable_x64(True):
        built = schedule(row)
        return [float(built(t)) for t in range(row.updates)]


def in_keras(row: Row) -> list[float]:
    """In double precision, with torch."""
    imported("torch")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = imported("keras")
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        built = getattr(keras.optimizers.schedules, row.name)(**row.arguments)
        return [float(keras.ops.convert_to_numpy(built(t))) for t in range(row.updates)]
    finally:
        keras.config.set_floatx(before)


def in_averages(row: Row) -> list[float]:
    """What part of the average is kept in each update."""
    times = range(row.updates)
    if row.name == "torch_swa":
        average = imported("torch.optim.swa_utils").get_swa_avg_fn()
        return [average(1.0, 0.0, t) for t in times]
    if row.name == "keras":
        imported("torch")
        os.environ.setdefault("KERAS_BACKEND", "torch")
        sgd = imported("keras.optimizers").SGD(use_ema=True, **row.arguments)
        return [float(sgd.ema_momentum)] * row.updates
    if row.name == "tensorflow":
        tensorflow = imported("tensorflow")
        found = []
        for t in times:
            average = tensorflow.train.ExponentialMovingAverage(num_updates=t + 1, **row.arguments)
            kept = tensorflow.Variable(1.0, dtype="float64")
            average.apply([kept])
            kept.assign(0.0)
            average.apply([kept])
            found.append(float(average.average(kept)))
        return found
    torch = imported("torch")
    model = torch.nn.Linear(1, 1)
    if row.name == "timm":
        average = imported("timm.utils.model_ema").ModelEmaV3(model, **row.arguments)
        return [average.get_decay(t + 1) for t in times]
    if row.name == "diffusers":
        average = imported("diffusers.training_utils").EMAModel(model.parameters(), **row.arguments)
        return [average.get_decay(t + 1) for t in times]
    if row.name == "ema_pytorch":
        average = imported("ema_pytorch").EMA(model, **row.arguments)
        average.step = average.step.double()
        found = []
        for _ in times:
            average.step += 1
            found.append(average.get_current_decay())
        return found
    kept = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    found = []
    average = imported("torch_ema").ExponentialMovingAverage([kept], **row.arguments)
    with torch.no_grad():
        kept.zero_()
    for _ in times:
        average.shadow_params[0].fill_(1.0)
        average.update()
        found.append(float(average.shadow_params[0]))
    return found


PEERS: dict[str, Callable[[Row], list[float]]] = {
    "averages": in_averages,
    "deepspeed": of_an_optimizer("deepspeed.runtime.lr_schedules"),
    "keras": in_keras,
    "optax": in_optax,
    "timm": of_an_optimizer("timm.scheduler"),
    "torch": in_torch,
    "transformers": of_an_optimizer("transformers.optimization"),
}
