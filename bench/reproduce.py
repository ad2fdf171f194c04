"""Published claims in small, each with a line to pass and a control that must miss it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fusestep as fs

from . import command, mnist
from . import reproduce_training as training
from .command import pyplot, selected
from .report import Column, Table, absences
from .reproduce_training import Extent, Task, verdict

Part = Callable[[], Table]

DIGITS = Extent(epochs=20, factors=range(2, 8), orders=3, milestones=20)
DIGITS_QUICK = Extent(epochs=5, factors=(2, 4, 7), orders=2, milestones=10)
MNIST = Extent(epochs=5, factors=(2, 4, 7), orders=3, milestones=20)
MNIST_QUICK = Extent(epochs=1, factors=(4,), orders=2, milestones=5)

SIZES = (3, 8, 1, 20)
FOR_EVER = 1e9  # a horizon in samples beyond any run here: plain means


def linear(quick: bool) -> Table:
    """The linear rule on digits, with the rate of the article and ten times that."""
    rates, extent = ((0.01,), DIGITS_QUICK) if quick else ((0.001, 0.01), DIGITS)
    return training.linear_rule("linear", training.digits(), rates, extent)


def smith(quick: bool) -> Table:
    return training.increased_batch(1 if quick else 3)


def noise(quick: bool) -> Table:
    """The estimates from micro-batches of several sizes are right on average."""
    from fusestep.gradients import GradientStatistics

    random = np.random.default_rng(0)
    groups, draws = 50, 100 if quick else 800
    spreads = np.linspace(0.3, 1.3, 18)  # of each coordinate over samples
    gradient = np.full(len(spreads), 0.066)
    true = {"S": float(np.sum(spreads**2)), "|G|²": float(gradient @ gradient)}
    starts = np.cumsum((0, *SIZES[:-1]))
    total, count = sum(SIZES), len(SIZES)

    found: dict[str, list[float]] = {"S": [], "|G|²": [], "S, equal sizes": []}
    for _ in range(groups):
        samples = gradient + spreads * random.standard_normal((draws, total, len(spreads)))
        micro = np.add.reduceat(samples, starts, axis=1) / np.array(SIZES)[:, None]
        norms = np.sum(micro**2, axis=2).tolist()
        whole = np.sum(samples.mean(axis=1) ** 2, axis=1).tolist()
        unweighted = np.sum(micro.mean(axis=1) ** 2, axis=1).tolist()
        stats, wrong = GradientStatistics(horizon=FOR_EVER), GradientStatistics(horizon=FOR_EVER)
        for each, mean, other in zip(norms, whole, unweighted, strict=True):
            stats.add(each, SIZES, mean)
            wrong.add(each, [total // count] * count, other)
        found["S"].append(float(stats.gradient_variance))
        found["|G|²"].append(float(stats.squared_gradient))
        found["S, equal sizes"].append(float(wrong.gradient_variance))

    rows: list[dict[str, Any]] = []
    curves: dict[str, Any] = {}
    for name, values in found.items():
        expected = true[name.partition(",")[0]]
        mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / groups**0.5
        off, control = abs(mean - expected) / error, "equal" in name
        rows.append(
            {
                "estimate": name,
                "true": expected,
                "mean": mean,
                "error": error,
                "off": off,
                "line": "> 10" if control else "<= 4",
                "passes": off > 10 if control else off <= 4,
            }
        )
        running = np.cumsum(values) / np.arange(1, groups + 1) / expected
        seen = draws * np.arange(1, groups + 1)
        curves[name] = [seen.tolist(), running.tolist()]
    columns = [
        Column("estimate", "estimate"),
        *(Column(key, key, "{:.4f}".format) for key in ("true", "mean")),
        Column("error", "standard error", "{:.4f}".format),
        Column("off", "off by standard errors", "{:.1f}".format),
        Column("line", "must be"),
        Column("passes", "", verdict),
    ]
    title = (
        f"Noise of gradients from micro-batches of {', '.join(map(str, SIZES))} samples: "
        f"{groups * draws:,} draws of normal gradients"
    )
    notes = ["Control: the same micro-batches, taken as if their sizes were equal."]
    panel = {"axes": ["draws", "running mean / true"], "curves": curves}
    panels = {"Noise estimates, several sizes": panel}
    return Table("noise", title, columns, rows, notes, {"panels": panels})


# squared norms of the gradients of two micro-batches and of their mean; what AdaScale makes of them
GOLDEN = (
    # sum of |g_j|², |mean|², variance, |G|², gain
    (8.0, 3.0, 2.0, 2.0, 4 / 3),
    (12.0, 2.0, 8.0, -2.0, 2.0),
    (88.5, 30.125, 28.25, 16.0, 1.4688796680497926),
    (72.58, 19.645, 33.29, 3.0, 1.8472893866),
)


def adascale(quick: bool) -> Table:
    """The gains of AdaScale, as fairscale's tests have them."""
    from fusestep.gradients import AdaScale, GradientStatistics

    rows: list[dict[str, Any]] = []
    for total, mean, variance, squared, gain in GOLDEN:
        stats = GradientStatistics(horizon=FOR_EVER)
        stats.add([total / 2, total / 2], (1, 1), mean)
        measured = (
            float(stats.gradient_variance),
            float(stats.squared_gradient),
            float(AdaScale(stats, base_batch=1).gain(2)),
        )
        off = [abs(a - b) for a, b in zip(measured, (variance, squared, gain), strict=True)]
        row = {"norms": total, "mean": mean, "variance": measured[0], "squared": measured[1]}
        row |= {"gain": measured[2], "published": gain, "off": max(off), "linear": 2 - gain}
        rows.append({**row, "passes": max(off) <= 1e-9})
    misses = max(row["linear"] for row in rows)
    control = {"linear": misses, "passes": misses > 1e-9}
    columns = [
        Column("norms", "sum |g_j|²", "{:g}".format, missing="control"),
        *(
            Column(key, heading, "{:.10g}".format)
            for key, heading in (
                ("mean", "|mean|²"),
                ("variance", "S"),
                ("squared", "|G|²"),
                ("gain", "gain"),
                ("published", "published"),
            )
        ),
        Column("off", "off by", "{:.0e}".format),
        Column("linear", "linear rule off by", "{:.2f}".format),
        Column("passes", "", verdict),
    ]
    notes = [
        "Two micro-batches of one sample, twice the base batch. Pass: S, |G|² and the gain within "
        "1e-9; the control, the linear rule with its gain of 2, must miss some gain."
    ]
    vectors = list(range(1, len(GOLDEN) + 1))
    curves = {
        "published": [vectors, [row["published"] for row in rows]],
        "AdaScale": [vectors, [row["gain"] for row in rows]],
        "linear rule": [vectors, [2.0] * len(rows)],
    }
    panels = {"AdaScale": {"axes": ["vector", "gain"], "curves": curves}}
    title = f"AdaScale: {len(GOLDEN)} golden vectors"
    return Table("adascale", title, columns, rows + [control], notes, {"panels": panels})


def mnist_linear(task: Task | None, quick: bool) -> Table:
    return training.linear_rule(
        "mnist", _present(task), (0.001, 0.01), MNIST_QUICK if quick else MNIST
    )


def mnist_noise(task: Task | None, quick: bool) -> Table:
    """The simple noise scale over one epoch: the quotient of the means of S and of |G|²."""
    task = _present(task)
    from fusestep.gradients import GradientStatistics

    batch, parts, rate = 128, 8, 0.01
    stats = GradientStatistics(horizon=FOR_EVER)
    params = task.initial_params()
    optimizer = fs.SGD(params, lr=rate)
    loader = fs.Loader((task.x, task.y), batch, tail="drop")
    curve: dict[int, float] = {}
    for x, y in loader:
        some = np.array_split(np.arange(batch), parts)
        trees = [training.demo.gradients(params, x[rows], y[rows]) for rows in some]
        grads = training.demo.gradients(params, x, y)
        stats.add([_squared_norm(tree) for tree in trees], [batch // parts] * parts, _squared_norm(grads))
        optimizer.step(grads)
        if stats.noise_scale is not None:
            curve[int(loader.clock.samples)] = float(stats.noise_scale)
    value = next(reversed(curve.values()), float("nan"))
    rows = [{"quantity": "noise scale", "value": value, "line": "600..1200"}]
    rows[0]["passes"] = 600 <= value <= 1200
    columns = [
        Column("quantity", "quantity"),
        Column("value", "samples", "{:.0f}".format),
        Column("line", "must be"),
        Column("passes", "", verdict),
    ]
    return Table("mnist-noise", "", columns, rows)


def _squared_norm(tree: Any) -> float:
    return sum(float(np.vdot(a, a)) for layer in tree.values() for a in layer.values())
