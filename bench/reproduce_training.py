"""Training runs that must go alike: a scaled rate, a batch that grows instead of a rate that falls.

Runs are compared by log loss over samples, as the mean over several orders of the data; a run and
the one it is compared with have the same weights at the beginning and the same orders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

import fusestep as fs
from fusestep import demo

from .report import Column, Table

Array = npt.NDArray[Any]
Rate = float | fs.Expression
Curve = dict[int, float]  # log loss by samples seen

BASE = 8
HIDDEN = 32
TRAINING_ROWS = 1400
RULES: dict[str, Callable[[float, int], Rate]] = {
    "linear": fs.scaling.linear,
    "sqrt": fs.scaling.sqrt,
    "none": lambda rate, base: rate,
}


@dataclass(frozen=True)
class Task:
    """Images and labels, and how many of them the loss is taken over."""

    name: str
    x: Array
    y: Array
    evaluated: int

    def initial_params(self) -> demo.Params:
        """He-normal weights and zero biases, float32, always the same."""
        random = np.random.default_rng(1)
        params: demo.Params = {}
        for k, (n, m) in enumerate(pairwise((self.x.shape[1], HIDDEN, 10))):
            w = (random.standard_normal((n, m)) * math.sqrt(2.0 / n)).astype(np.float32)
            params[f"dense{k + 1}"] = {"w": w, "b": np.zeros(m, np.float32)}
        return params

    def log_loss(self, params: demo.Params) -> float:
        n = self.evaluated
        return math.log(demo.loss_and_accuracy(params, self.x[:n], self.y[:n])[0])


@dataclass(frozen=True)
class Extent:
    """How much is run."""

    epochs: int
    factors: Sequence[int]  # k of the linear rule
    orders: int  # of the data, for every run
    milestones: int


def digits() -> Task:
    """Of scikit-learn: 1400 rows, a multiple of 8, 40, 56 and 200."""
    data = demo.Digits.load()
    n = TRAINING_ROWS
    return Task("digits", data.train_x[:n], data.train_y[:n], n)


def train(
    task: Task, loader: fs.Loader, lr: Rate, milestones: Iterable[int], momentum: float = 0.0
) -> Curve:
    """The log loss at the beginning and at those of the milestones where a batch ends."""
    wanted = set(milestones)
    params = task.initial_params()
    optimizer = fs.SGD(params, lr=lr, momentum=momentum)
    curve = {0: task.log_loss(params)}
    for batch in loader:
        x, y = batch
        optimizer.step(demo.gradients(params, x, y), clock=batch.clock)
        seen = int(batch.clock.samples or 0) + batch.size
        if seen in wanted:
            curve[seen] = task.log_loss(params)
    return curve


def mean(curves: Sequence[Curve]) -> Curve:
    return {at: float(np.mean([curve[at] for curve in curves])) for at in curves[0]}


def distance(one: Curve, other: Curve, at: Iterable[int]) -> float:
    """The largest difference of log loss; NaN if a run diverged, which passes no line."""
    return float(np.max([abs(one[n] - other[n]) for n in at]))


def verdict(passes: bool) -> str:
    return "pass" if passes else "FAIL"


def panel(curves: Mapping[str, Curve], quantity: str = "log loss") -> dict[str, Any]:
    """A panel of the picture."""
    return {
        "axes": ["samples", quantity],
        "curves": {name: [list(curve), list(curve.values())] for name, curve in curves.items()},
    }


def linear_rule(name: str, task: Task, rates: Sequence[float], extent: Extent) -> Table:
    """A batch k times as large with a rate k times as large, beside sqrt(k) and no change."""
    rows: list[dict[str, Any]] = []
    panels: dict[str, Any] = {}
    for rate in rates:
        more, curves = _linear_rows(task, rate, extent)
        rows += more
        panels[f"Linear rule, {task.name}, lr {rate:g}"] = panel(curves)
    columns = [
        Column("lr", "lr", "{:g}".format),
        Column("batch", "batch"),
        Column("k", "k"),
        Column("noise", "noise", "{:.4f}".format),
        *(Column(rule, f"D {rule}", "{:.4f}".format) for rule in RULES),
        Column("allowed", "D linear allowed", "{:.4f}".format),
        Column("contrast", "none / linear", "{:.0f}x".format),
        Column("passes", "", verdict),
    ]
    notes = [
        f"D: largest difference of mean log loss ({task.evaluated:,} rows) from batches of {BASE}, "
        f"at {extent.milestones - 1} milestones after the first. Noise: the same between an order "
        "and the mean of all, for the base.",
        "Pass: D linear <= max(3 noise, 0.03), D none >= 5 D linear, D none > D sqrt > D linear; "
        "and the control, none, must miss the line of linear.",
    ]
    factors = ", ".join(map(str, extent.factors))
    title = (
        f"Linear scaling of the rate: {task.name} ({len(task.x):,} rows), MLP "
        f"{task.x.shape[1]}-{HIDDEN}-10, SGD; k = {factors}; {extent.epochs} "
        f"epoch{'s' if extent.epochs > 1 else ''}, {extent.orders} orders"
    )
    return Table(name, title, columns, rows, notes, {"panels": panels})


def _linear_rows(
    task: Task, rate: float, extent: Extent
) -> tuple[list[dict[str, Any]], dict[str, Curve]]:
    total = extent.epochs * len(task.x)

    def milestones(size: int) -> list[int]:
        # whole batches, so that both runs have seen exactly as many samples
        parts = extent.milestones
        return [size * (total * i // (parts * size)) for i in range(1, parts + 1)]

    def runs(rule: str, size: int, at: Iterable[int]) -> list[Curve]:
        wanted, lr = set(at), RULES[rule](rate, BASE)
        return [
            # carried: a short batch at the end of every epoch would cost more than the rule does
            train(task, _loader(task, size, seed, extent.epochs, "carry"), lr, wanted)
            for seed in range(extent.orders)
        ]

    sizes = {k: BASE * k for k in extent.factors}
    at = {k: milestones(size) for k, size in sizes.items()}
    orders = runs("none", BASE, {n for some in at.values() for n in some})
    base = mean(orders)
    later = {n for some in at.values() for n in some[1:]}
    noise = max(distance(order, base, later) for order in orders)
    allowed = max(3 * noise, 0.03)
    curves = {"base": base}
    rows = []
    for k, size in sizes.items():
        means = {rule: mean(runs(rule, size, at[k])) for rule in RULES}
        curves |= {f"{rule}, k = {k}": curve for rule, curve in means.items()}
        d = {rule: distance(curve, base, at[k][1:]) for rule, curve in means.items()}
        rows.append(
            {
                "lr": rate,
                "batch": size,
                "k": k,
                "noise": noise,
                **d,
                "allowed": allowed,
                "contrast": d["none"] / d["linear"],
                "passes": d["linear"] <= allowed < d["none"]
                and d["none"] >= 5 * d["linear"]
                and d["none"] > d["sqrt"] > d["linear"],
            }
        )
    return rows, curves


def _loader(task: Task, size: Any, seed: int, epochs: int, tail: str = "short") -> fs.Loader:
    return fs.Loader((task.x, task.y), size, seed=seed, epochs=epochs, tail=tail)


EPOCHS, CHANGES, FALL = 30, (15, 22), 5
LARGEST = BASE * FALL ** len(CHANGES)


def increased_batch(orders: int) -> Table:
    """A batch that grows fivefold, beside a rate that falls to a fifth."""
    task = digits()
    rows: list[dict[str, Any]] = []
    panels: dict[str, Any] = {}
    for momentum, rate in ((0.0, 0.1), (0.9, 0.01)):
        curves, updates = _grown_and_decayed(task, rate, momentum, orders)
        after = [n for n in curves["decay"] if n > CHANGES[0] * len(task.x)]
        d = {arm: distance(curves[arm], curves["decay"], after) for arm in curves}
        same = d["increase"] <= 0.05 and updates["increase"] < updates["decay"]
        for arm, passes in (("increase", same), ("constant", d["constant"] >= 0.3)):
            rows.append(
                {
                    "momentum": momentum,
                    "lr": rate,
                    "arm": arm,
                    "updates": updates[arm],
                    "decaying": updates["decay"],
                    "distance": d[arm],
                    "line": "<= 0.05" if arm == "increase" else ">= 0.3",
                    "passes": passes,
                }
            )
        panels[f"Batch or rate, {task.name}, momentum {momentum:g}"] = panel(curves)
    columns = [
        Column("momentum", "momentum", "{:g}".format),
        Column("lr", "lr", "{:g}".format),
        Column("arm", "arm"),
        Column("updates", "updates", "{:,}".format),
        Column("decaying", "of decay", "{:,}".format),
        Column("distance", "D", "{:.4f}".format),
        Column("line", "must be"),
        Column("passes", "", verdict),
    ]
    sizes = " -> ".join(str(BASE * FALL**i) for i in range(len(CHANGES) + 1))
    notes = [
        "D: largest difference of mean log loss from the run whose rate falls, at the ends of "
        f"epochs after the first change. Increase: batches {sizes}, the rate stays; it must take "
        "fewer updates, too. Constant, the control: neither changes.",
    ]
    title = (
        f"The batch grows x{FALL} instead of the rate falling to 1/{FALL}: {task.name}, SGD, "
        f"{EPOCHS} epochs, changes at {CHANGES[0]} and {CHANGES[1]}, {orders} "
        f"order{'s' if orders > 1 else ''}"
    )
    return Table("smith", title, columns, rows, notes, {"panels": panels})


def _grown_and_decayed(
    task: Task, rate: float, momentum: float, orders: int
) -> tuple[dict[str, Curve], dict[str, int]]:
    falling = fs.schedules.multistep(rate, 1 / FALL, at=CHANGES, by="epoch")
    ends = [epoch * len(task.x) for epoch in range(1, EPOCHS + 1)]
    runs: dict[str, list[Curve]] = {"decay": [], "increase": [], "constant": []}
    updates: dict[str, int] = {}
    for seed in range(orders):
        growing = fs.batch_sizes.increase_instead_of_decay(falling, BASE, maximum=LARGEST)
        arms: dict[str, tuple[Any, Rate]] = {
            "decay": (BASE, falling),
            "increase": (growing, growing.lr),
            "constant": (BASE, rate),
        }
        for arm, (size, lr) in arms.items():
            loader = _loader(task, size, seed, EPOCHS)
            runs[arm].append(train(task, loader, lr, ends, momentum))
            updates[arm] = int(loader.clock.step or 0)
    return {arm: mean(curves) for arm, curves in runs.items()}, updates
