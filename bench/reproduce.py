"""Published claims in small, each with a line to pass and a control that must miss it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import command, mnist
from . import reproduce_training as training
from .command import pyplot, selected
from .report import Column, Table, absences
from .reproduce_training import Extent, Task, verdict

DIGITS = Extent(epochs=20, factors=range(2, 8), orders=3, milestones=20)
DIGITS_QUICK = Extent(epochs=5, factors=(2, 4, 7), orders=2, milestones=10)

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
    groups, draws = 20 if quick else 50, 800
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
        # None stands for what is not above 0: 800 draws are enough for it not to happen
        found["S"].append(stats.gradient_variance or 0.0)
        found["|G|²"].append(stats.squared_gradient or 0.0)
        found["S, equal sizes"].append(wrong.gradient_variance or 0.0)

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
    (12.0, 2.0, 8.0, 0.0, 2.0),  # |G|² is -2, taken as 0
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
            stats.gradient_variance or 0.0,
            stats.squared_gradient or 0.0,  # None stands for all that is not above 0
            AdaScale(stats, base_batch=1).gain(2),
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
    return Table("adascale", title, columns, [*rows, control], notes, {"panels": panels})


PARTS: dict[str, Callable[[bool], Table]] = {
    "linear": linear,
    "smith": smith,
    "noise": noise,
    "adascale": adascale,
}
OF_MNIST: dict[str, Callable[[Task, bool], Table]] = {
    "mnist": mnist.linear,
    "mnist-noise": lambda task, quick: mnist.noise(task),
}


def run(options: argparse.Namespace) -> int:
    """Runs what the options ask for; 1 where a line is missed."""
    chosen = selected(options, [*PARTS, *OF_MNIST])
    if chosen is None:
        return 2
    task = None
    if options.mnist is not None:
        try:
            task = mnist.load(options.mnist)
        except ValueError as error:
            print(f"--mnist: {error}", file=sys.stderr)
            return 2
    tables: list[Table] = []

    def part(name: str) -> Table:
        print(name, file=sys.stderr, flush=True)
        try:
            if name in PARTS:
                tables.append(PARTS[name](options.quick))
            elif task is not None:
                tables.append(OF_MNIST[name](task, options.quick))
            else:
                tables.append(_absent(name, "not run without --mnist FOLDER"))
        except ImportError as error:
            tables.append(_absent(name, str(error)))
        return tables[-1]

    status = command.run(options, "reproduce", {n: partial(part, n) for n in chosen}, _draw)
    lines = [(table.name, row) for table in tables for row in table.rows if "passes" in row]
    missed = [name for name, row in lines if not row["passes"]]
    absent = [table.name for table in tables if not any("passes" in row for row in table.rows)]
    print(f"\n{len(lines) - len(missed)} of {len(lines)} lines pass", end="")
    print(f"; absent: {', '.join(absent)}" if absent else "", flush=True)
    for name in dict.fromkeys(missed):
        print(f"error: {name} misses {missed.count(name)} of its lines", file=sys.stderr)
    return status or int(bool(missed))


def _absent(name: str, reason: str) -> Table:
    columns = [Column("part", "part"), Column("passes", "", verdict, missing="absent")]
    return Table(name, name, columns, [{"part": name}], absences({name: reason}))


# by the beginning of a curve's name
_COLOURS = {
    "base": "black",
    "decay": "black",
    "published": "black",
    "sqrt": "#e08214",
    "none": "#2f6db5",
    "constant": "#2f6db5",
    "linear rule": "#2f6db5",
    "S, equal": "#2f6db5",
    "parts": "#2f6db5",
    "|G|": "#e08214",
}
_RED = "#c1272d"


def _draw(path: Path, tables: Sequence[Table], facts: Mapping[str, Any]) -> str:
    panels = [item for table in tables for item in table.measured.get("panels", {}).items()]
    if not panels:
        return "absent: nothing was run"
    try:
        plt = pyplot()
    except ImportError as error:
        return f"absent: {error}"
    rows = -(-len(panels) // 2)
    figure, grid = plt.subplots(
        rows, 2, figsize=(12, 3.8 * rows), layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, panel) in zip(grid.flat, panels, strict=False):
        for name, (x, y) in panel["curves"].items():
            found = (colour for start, colour in _COLOURS.items() if name.startswith(start))
            own = name.partition(",")[0] if ", k = " in name else name
            known = axes.get_legend_handles_labels()[1]
            front = own in ("base", "decay", "published")
            axes.plot(
                x,
                y,
                color=next(found, _RED),
                linestyle="--" if front else "-",
                linewidth=1.8 if front else 1.2,
                zorder=3 if front else 2,
                label="_" if own in known else own,
            )
        axes.set(xlabel=panel["axes"][0], ylabel=panel["axes"][1])
        axes.set_title(title, fontsize=11)
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return "written"
