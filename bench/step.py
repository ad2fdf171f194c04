"""The time of one optimizer step: fusestep, its peers and the streaming limit of the machine."""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from . import command, every_rule, picture, report, sweeps
from . import contestants as who
from .agreement import ADAMW, ADAMW_CLIPPED, SGD, Rule
from .command import selected
from .contestants import Entry
from .measure import FULL, QUICK, Effort, Timing, in_turns
from .models import MODELS, Model, Problem
from .models import QUICK as QUICK_MODELS
from .report import Column, Table

# Beyond this many parameters not all contestants fit into memory together. Then the fast ones run
# side by side, and the others beside another fusestep.
_LARGE = 100_000_000


@dataclass(frozen=True)
class Comparison:
    """One rule and who computes it; bytes are those that a step must move for each parameter."""

    name: str
    rule: Rule
    entries: Sequence[Entry]
    bytes_moved: int

    def __call__(self, models: Sequence[Model], effort: Effort) -> Table:
        entries, absent = who.usable(self.entries)
        rows: list[dict[str, Any]] = []
        timings: dict[str, dict[str, Timing]] = {}
        worst: dict[str, float] = {}
        for model in models:
            print(f"{self.rule.title}: {model.title}", file=sys.stderr, flush=True)
            times: dict[str, Timing] = {}
            relative: dict[str, float] = {}
            for group in _groups(entries, model):
                contestants, deviations = who.build(Problem(model), self.rule, group)
                measured = in_turns({name: c.step for name, c in contestants.items()}, effort)
                del contestants
                for name, timing in measured.items():
                    times.setdefault(name, timing)
                    relative.setdefault(name, timing.median / measured["fusestep"].median)
                for name, deviation in deviations.items():
                    worst[name] = max(worst.get(name, 0.0), deviation)
            rows.append(self._row(model, times, relative))
            timings[model.title] = times
        return Table(
            self.name,
            f"{self.rule.title}, float32: time of one step",
            self._columns(absent),
            rows,
            [*report.absences(absent), self._agreement(worst), spread(timings)],
            {
                "timings": {
                    title: {name: asdict(timing) for name, timing in times.items()}
                    for title, times in timings.items()
                },
                "absent": absent,
                "largest deviations": worst,
            },
        )

    def _row(
        self, model: Model, times: Mapping[str, Timing], relative: Mapping[str, float]
    ) -> dict[str, Any]:
        own = times["fusestep"].median
        peers = {entry.name for entry in self.entries if entry.peer}
        best = min(peers & relative.keys(), key=lambda name: relative[name])
        row: dict[str, Any] = {
            "model": model.title,
            "arrays": model.arrays,
            "parameters": model.parameters,
            **{name: timing.median for name, timing in times.items()},
            "relative": dict(relative),
            "best peer": best,
            "ratio": relative[best],
            "ratio bound": relative[best] / relative["fusestep bound"],
            "rate": self.bytes_moved * model.parameters / own / 1e9,
        }
        if who.LIMIT.name in times:
            row["share"] = 100 * times[who.LIMIT.name].median / own
        return row

    def _columns(self, absent: Mapping[str, str]) -> list[Column]:
        columns = [
            Column("model", "model"),
            Column("arrays", "arrays", report.count),
            Column("parameters", "parameters", report.count),
            *report.time_columns([entry.name for entry in self.entries], absent),
            Column("best peer", "best peer"),
            Column("ratio", "best peer / fusestep", report.ratio),
            Column("ratio bound", "/ bound", report.ratio),
            Column("rate", "GB/s", report.gigabytes),
        ]
        if who.LIMIT in self.entries:
            columns.append(Column("share", "of limit", report.percent))
        return columns

    def _agreement(self, worst: Mapping[str, float]) -> str:
        largest = max(worst, key=lambda name: worst[name])
        return (
            f"All agree with float64 NumPy after 3 steps: largest deviation {worst[largest]:.0e} "
            f"({largest}), allowed {self.rule.tolerance:.0e}. GB/s are fusestep's, at "
            f"{self.bytes_moved} bytes for each parameter."
        )


def spread(timings: Mapping[str, Mapping[str, Timing]]) -> str:
    spreads = {
        f"{name}, {title}": 100 * (timing.upper - timing.lower) / timing.median
        for title, times in timings.items()
        for name, timing in times.items()
    }
    widest = max(spreads, key=lambda name: spreads[name])
    rounds = {timing.rounds for times in timings.values() for timing in times.values()}
    return (
        f"Medians of {' to '.join(map(str, sorted({min(rounds), max(rounds)})))} rounds. "
        "The quartiles are apart by "
        f"{statistics.median(spreads.values()):.0f} % of the median, mostly; by "
        f"{spreads[widest]:.0f} % at most ({widest})."
    )


def _groups(entries: Sequence[Entry], model: Model) -> list[list[Entry]]:
    if model.parameters < _LARGE:
        return [list(entries)]
    fast = [entry for entry in entries if entry.fast]
    return [fast, [who.FUSESTEP, *(entry for entry in entries if not entry.fast)]]


_OWN = (who.FUSESTEP, who.BOUND)
_NUMPY = (who.NUMPY, who.NUMPY_OUT)
_TORCH = (who.TORCH_FOREACH, who.TORCH_FUSED)
_ALL = (*_OWN, *_NUMPY, *_TORCH, who.DEEPSPEED, who.OPTAX, who.LIMIT)
_CLIPPING = (*_OWN, *_NUMPY, who.TORCH_FUSED, who.OPTAX)

# Clipping reads the gradients once more.
PARTS: dict[str, Callable[[Sequence[Model], Effort], Table]] = {
    "adamw": Comparison("adamw", ADAMW, _ALL, bytes_moved=28),
    "sgd": Comparison("sgd", SGD, (*_OWN, *_NUMPY, *_TORCH), bytes_moved=20),
    "clip": Comparison("clip", ADAMW_CLIPPED, _CLIPPING, bytes_moved=32),
    "threads": sweeps.threads,
    "isa": sweeps.instruction_sets,
    "cost": sweeps.cost,
    "rules": every_rule.times,
}


def run(options: argparse.Namespace) -> int:
    """Measures what the options ask for; 1 where a contestant computed something else."""
    models = QUICK_MODELS if options.quick else MODELS
    parts = selected(options, list(PARTS), [model.name for model in models])
    if parts is None:
        return 2
    chosen = [model for model in models if model.name in options.only] or list(models)
    effort = QUICK if options.quick else FULL
    tables = {name: functools.partial(PARTS[name], chosen, effort) for name in parts}
    return command.run(options, "step", tables, picture.draw)
