"""A program of a user who has its types checked; it runs, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import fusestep as fs
from fusestep import control, expression, gradients, scaling, schedules

Array = npt.NDArray[np.float32]


@dataclass
class Dense:
    w: Array
    b: Array


def make_optimizer(
    params: list[Dense], rate: float | fs.Expression, build: Callable[..., fs.Optimizer] = fs.AdamW
) -> fs.Optimizer:
    return build(params, lr=rate, groups=[{"match": "*/b", "weight_decay": 0.0}])


def loss_and_grads(params: list[Dense], batch: Any) -> tuple[float, list[Dense]]:
    outputs = batch["x"] @ params[0].w + params[0].b
    error = outputs - batch["y"]
    grads = Dense(batch["x"].T @ error / len(error), error.mean(axis=0))
    return float(np.square(error).mean()), [grads]


def report(info: fs.StepInfo) -> str:
    rate, norm, applied = info
    assert isinstance(info, fs.StepInfo)
    shown: float | None = info.grad_norm
    return f"{info.lr:.3g} {shown} {info.applied} {rate} {norm} {applied}"


def resumed(saves: fs.checkpoint.Checkpoints, layers: list[Dense], opt: fs.Optimizer) -> int:
    found: fs.checkpoint.Loaded | None = saves.load(params=layers, optimizer=opt, keep=("lr",))
    first = 0 if found is None else found.step or 0
    if saves.due(first + 1):
        print(saves.save(step=first + 1, params=layers, optimizer=opt, background=True))
    return first


def main() -> None:
    layers = [Dense(np.zeros((3, 2), np.float32), np.zeros(2, np.float32))]
    lr = schedules.warmup_cosine(peak=3e-3, warmup=2, total=20)
    lr = lr * control.Plateau(factor=0.5, patience=20)
    smooth: fs.Expression = expression.where(expression.step < 5, 0.0, lr)
    size = fs.batch_sizes.ramp(start=2, end=8, increment=2, over_samples=20)
    x, y = np.ones((40, 3), np.float32), np.ones((40, 2), np.float32)
    loader = fs.Loader({"x": x, "y": y}, batch_size=size, seed=0, epochs=2)
    opt = fs.AdamW(
        layers,
        lr=scaling.sqrt(smooth, base_batch=4),
        betas=(0.9, schedules.linear(0.99, 0.999, length=10)),
        clip_norm=1.0,
        nonfinite="skip",
        eps_mode="hat",
        groups=[{"match": "*/b", "weight_decay": 0.0}],
    )
    statistics = gradients.GradientStatistics()
    for batch in loader:
        loss, grads = loss_and_grads(layers, batch)
        opt.accumulate(grads, samples=batch.size)
        opt.accumulate(grads, samples=batch.size)
        info = opt.step(clock=batch.clock, loss=loss, statistics=statistics)
        print(loss, report(info))

    opt.lr = 1e-3 * opt.schedules["lr"]
    opt.lr = lambda t: 1e-3 / (t + 1)
    opt.lr = schedules.presets.timm.CosineLRScheduler(1e-3, t_initial=100, warmup_t=5)
    opt.weight_decay = schedules.constant(0.1)
    opt.betas = (0.8, schedules.constant(0.9))
    opt.clip_norm = None
    opt.clip_value = 0.5
    opt.nonfinite = "raise"
    opt.groups[1].lr = 0.5 * lr
    half: float = opt.eps * 0.5
    beta: float = opt.groups[0].betas[0]
    choice: str = opt.eps_mode
    paths: tuple[str, ...] = opt.groups[1].paths
    arrays: dict[str, Any] = opt.params
    state: dict[str, Any] = opt.state_dict()
    fs.AdamW(layers, eps_mode="hat", groups=[{"match": "*/b"}]).load_state_dict(state, keep=("lr",))
    print(
        half, beta, choice, paths, sorted(arrays), opt.steps_applied, opt.groups[1].eps, repr(opt)
    )

    momentum = fs.SGD([{"params": np.zeros(3), "lr": 0.1}], momentum=0.9)
    momentum.add_group({"params": np.zeros(2)}, lr=0.2)
    momentum.groups[1].momentum = 0.5
    nesterov: bool = momentum.groups[1].nesterov
    belief = fs.AdaBelief(np.zeros(2), eps_root=0.0, decoupled_weight_decay=True, maximize=nesterov)
    belief.groups[0].eps_root = schedules.constant(1e-16)
    optimizer = make_optimizer(layers, 1e-3)
    optimizer.bind([Dense(np.ones((3, 2), np.float32), np.ones(2, np.float32))])
    print(report(optimizer.step()), optimizer.groups[0].lr)


def train(folder: str, layers: list[Dense], loader: fs.Loader, record: fs.Record) -> str | None:
    opt = fs.AdamW(layers, lr=schedules.constant(1e-3))
    run = fs.Run(folder, params=layers, optimizer=opt, loader=loader, record=record, every="1 h")
    for batch in run.steps(total=100):
        loss, grads = loss_and_grads(layers, batch)
        run.note(opt.step(grads, clock=batch.clock), loss=loss, accuracy=0.5)
        if loss < 0.1:
            run.stop()
    rates: npt.NDArray[np.float64] = run.record["lr"]
    values: dict[str, Any] = {"loss/validation": 0.5}
    record.add(step=run.step, loss=float(rates[-1]), **values)
    record.plot(by="epoch", path="run.png")
    return run.stopped


if __name__ == "__main__":
    main()
