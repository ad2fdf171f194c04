"""The time of scikit-learn's networks with their own Adam, and with fusestep's in its place."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from sklearn import neural_network
from sklearn.datasets import load_digits

from fusestep.sklearn import MLPClassifier

from . import command, report
from .agreement import Disagreement
from .command import selected
from .measure import FULL, QUICK, Effort, in_turns
from .report import Column, Table
from .step import spread

NETWORKS = {"64": (64,), "100": (100,), "256-128": (256, 128), "512-512": (512, 512)}
KINDS: dict[str, Callable[..., Any]] = {
    "scikit-learn": neural_network.MLPClassifier,
    "fusestep": partial(MLPClassifier, optimizer__eps_mode="hat"),  # which is theirs
}
AGREED_EPOCHS, TOLERANCE = 5, 1e-8  # of the loss after these epochs


def _watched(model: Any) -> list[float]:
    """The seconds that each later call of the optimizer takes, as they are measured."""
    solver, update, spent = model._optimizer, model._optimizer.update_params, []

    def timed(*arguments: Any) -> None:
        begin = time.perf_counter()
        update(*arguments)
        spent.append(time.perf_counter() - begin)

    solver.update_params = timed
    return spent


def compare(names: Sequence[str], effort: Effort) -> Table:
    """An epoch of each network on the digits in batches of 200, and the optimizer's part of it."""
    pixels, digits = load_digits(return_X_y=True)
    x = pixels / 16
    rows, timings = [], {}
    for name in names:
        print(f"network {name}", file=sys.stderr, flush=True)
        models = {
            kind: build(hidden_layer_sizes=NETWORKS[name], random_state=0)
            for kind, build in KINDS.items()
        }
        for model in models.values():
            for _ in range(AGREED_EPOCHS):
                model.partial_fit(x, digits, classes=range(10))
        losses = [model.loss_ for model in models.values()]
        if abs(losses[0] - losses[1]) > TOLERANCE * losses[0]:
            raise Disagreement(f"{name}: the losses are {losses}")
        spent = {kind: _watched(model) for kind, model in models.items()}
        epochs = {kind: partial(model.partial_fit, x, digits) for kind, model in models.items()}
        timings[name] = in_turns(epochs, effort)
        theirs, ours = (
            {"epoch": timings[name][kind].median, "step": median(spent[kind])} for kind in KINDS
        )
        row = {"network": name, "parameters": sum(a.size for a in model.coefs_ + model.intercepts_)}
        for part in ("epoch", "step"):
            row |= {part: theirs[part], f"our {part}": ours[part]}
            row[f"{part} ratio"] = theirs[part] / ours[part]
        rows.append(row)
    columns = [Column("network", "hidden layers"), Column("parameters", "parameters", report.count)]
    for part in ("epoch", "step"):
        columns += [
            Column(part, f"{part}, scikit-learn", report.seconds),
            Column(f"our {part}", "fusestep", report.seconds),
            Column(f"{part} ratio", "", report.ratio),
        ]
    notes = [
        f"The losses after {AGREED_EPOCHS} epochs are within {TOLERANCE:g} of each other.",
        spread(timings),
    ]
    return Table("networks", "MLPClassifier with Adam, float64, digits", columns, rows, notes)


def run(options: argparse.Namespace) -> int:
    """Measures the networks that the options ask for; 1 where the losses differ."""
    names = selected(options, list(NETWORKS))
    if names is None:
        return 2
    effort = QUICK if options.quick else FULL
    return command.run(options, "sklearn", {"networks": partial(compare, names, effort)}, _draw)


def _draw(path: Path, tables: Sequence[Table], facts: Mapping[str, Any]) -> str:
    return "absent: the table is all there is"
