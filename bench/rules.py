"""Every rule on handwritten digits, with a learning rate that the same sweep finds for each.

It shows that each rule trains, at which rate, and how far from it the others still do. A network of
2,410 parameters does not say which rule is best for a large model.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fusestep as fs
from fusestep import demo

from . import command
from . import reproduce_training as training
from .command import pyplot
from .report import Column, Table

BATCH = 32
RATES = tuple(10.0 ** (k / 2) for k in range(-8, 4))


@dataclass(frozen=True)
class Extent:
    """How much is run."""

    epochs: int
    rates: Sequence[float]
    orders: int  # of the data, with the rate that was found


FULL = Extent(epochs=20, rates=RATES, orders=3)
QUICK = Extent(epochs=3, rates=RATES[::3], orders=1)

Build = Callable[..., fs.Optimizer]

# options that make another rule of a class; without weight decay LARS is SGD
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "LARS": ("LARS", {"momentum": 0.9, "weight_decay": 1e-4}),
    "SGD, momentum": ("SGD", {"momentum": 0.9}),
    "SGD, Nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
}
# signs of noisy gradients would undo each other: the whole training set is one batch
FULL_BATCH = {"Rprop"}
# a rate that falls is not for these
CONSTANT = {"Rprop", "ScheduleFreeAdamW", "ScheduleFreeSGD"}


@dataclass(frozen=True)
class Outcome:
    """Of one training run: losses over the training set after every epoch, and the test."""

    losses: list[float]
    test_loss: float
    test_accuracy: float

    @property
    def loss(self) -> float:
        return self.losses[-1]


def contenders() -> dict[str, Build]:
    """Every rule that fusestep has, and what options make of it."""
    classes = {name: getattr(fs.optim, name) for name in fs.optim.__all__}
    rules = {name: made for name, made in classes.items() if _is_rule(made)}
    variants = {
        name: functools.partial(classes[kind], **options)
        for name, (kind, options) in VARIANTS.items()
    }
    return dict(sorted({**rules, **variants}.items()))


def _is_rule(kind: type) -> bool:
    return issubclass(kind, fs.Optimizer) and kind is not fs.Optimizer


def train(
    data: demo.Digits, name: str, build: Build, rate: float, seed: int, epochs: int
) -> Outcome:
    """With a rate that falls to 0 as half a cosine wave, or with a constant one."""
    params = training.Task("digits", data.train_x, data.train_y, 0).initial_params()
    rows = len(data.train_x)
    lr: Any = rate if name in CONSTANT else fs.schedules.cosine(rate, length=epochs, by="epoch")
    optimizer = build(params, lr=lr)
    loader = fs.Loader(
        (data.train_x, data.train_y),
        rows if name in FULL_BATCH else BATCH,
        seed=seed,
        epochs=epochs,
    )
    losses = []
    for batch in loader:
        x, y = batch
        optimizer.step(demo.gradients(params, x, y), clock=batch.clock)
        if (int(batch.clock.samples or 0) + batch.size) % rows == 0:
            at = evaluated(optimizer, params)
            losses.append(demo.loss_and_accuracy(at, data.train_x, data.train_y)[0])
    test = demo.loss_and_accuracy(evaluated(optimizer, params), data.test_x, data.test_y)
    return Outcome(losses, *test)


def evaluated(optimizer: fs.Optimizer, params: demo.Params) -> demo.Params:
    """The weights to evaluate: averaged ones where the rule has them."""
    averaged: demo.Params | None = optimizer.averaged
    return params if averaged is None else averaged


def sweep(data: demo.Digits, name: str, build: Build, extent: Extent) -> dict[float, Outcome]:
    """By rate; a run that diverged has a loss that is not finite."""
    with np.errstate(all="ignore"):
        return {rate: train(data, name, build, rate, 0, extent.epochs) for rate in extent.rates}


def compared(names: Sequence[str], extent: Extent) -> Table:
    data, rules = demo.Digits.load(), contenders()
    rows: list[dict[str, Any]] = []
    curves: dict[str, Any] = {}
    sweeps: dict[str, Any] = {}
    for name in names:
        print(f"rules: {name}", file=sys.stderr, flush=True)
        found = sweep(data, name, rules[name], extent)
        losses = {rate: o.loss if math.isfinite(o.loss) else math.inf for rate, o in found.items()}
        best = min(losses, key=lambda rate: losses[rate])
        runs = [found[best]] + [
            train(data, name, rules[name], best, seed, extent.epochs)
            for seed in range(1, extent.orders)
        ]
        near = [rate for rate in losses if losses[rate] <= 2 * losses[best]]
        rows.append(
            {
                "rule": name,
                "rate": best,
                "near": f"{near[0]:.2g} to {near[-1]:.2g}" if len(near) > 1 else "-",
                "loss": float(np.mean([run.loss for run in runs])),
                "test": float(np.mean([run.test_loss for run in runs])),
                "accuracy": 100 * float(np.mean([run.test_accuracy for run in runs])),
            }
        )
        curves[name] = np.mean([run.losses for run in runs], axis=0).tolist()
        sweeps[name] = [list(losses), list(losses.values())]
    columns = [
        Column("rule", "rule"),
        Column("rate", "lr", "{:.2g}".format),
        Column("near", "lr with up to twice its loss"),
        Column("loss", "loss", "{:.4f}".format),
        Column("test", "test loss", "{:.4f}".format),
        Column("accuracy", "test accuracy", "{:.1f} %".format),
    ]
    constant, whole = (", ".join(sorted(kinds & {*names})) for kinds in (CONSTANT, FULL_BATCH))
    notes = [
        f"MLP 64-32-10, batches of {BATCH}, {extent.epochs} epochs; all else as the rule has it by "
        f"default. The rate is that of {len(extent.rates)} with the lowest loss; it "
        "falls to 0 as half a cosine wave"
        + (f" (constant: {constant})" if constant else "")
        + f". Means of {extent.orders} orders of the data."
        + (f" The whole set as one batch: {whole}." if whole else ""),
    ]
    title = "Every rule on handwritten digits, each with the rate that the same sweep finds"
    return Table("rules", title, columns, rows, notes, {"curves": curves, "sweeps": sweeps})


def draw(path: Path, tables: Sequence[Table], facts: Mapping[str, Any]) -> str:
    """Losses over epochs, and over rates; "written", or the reason why there is no picture."""
    try:
        plt = pyplot()
    except ImportError as error:
        return f"absent: {error}"
    (table,) = tables
    curves, sweeps = table.measured["curves"], table.measured["sweeps"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 6.5), layout="constrained")
    colours = plt.get_cmap("tab20").colors
    for k, name in enumerate(curves):
        look = {"color": colours[k % 20], "linestyle": "--" if k >= 20 else "-", "linewidth": 1.3}
        left.plot(range(1, len(curves[name]) + 1), curves[name], label=name, **look)
        right.plot(*sweeps[name], **look)
    for axes, label in ((left, "epochs, each with its rate"), (right, "lr")):
        axes.set_yscale("log")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel(label)
        axes.set_ylabel("loss over the training set")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#ececec", linewidth=0.8)
    right.set_xscale("log")
    right.set_ylim(*left.get_ylim())
    figure.legend(loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    figure.suptitle(f"{table.title}\nfusestep {facts['fusestep']}", fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return "written"


def run(options: argparse.Namespace) -> int:
    """Trains the rules that the options name; all if they name none."""
    names = command.selected(options, list(contenders()))
    if names is None:
        return 2
    extent = QUICK if options.quick else FULL
    return command.run(
        options, "rules", {"rules": functools.partial(compared, names, extent)}, draw
    )
