"""The time of a step that touches some rows of a table, as an embedding's does.

The rows of a batch are all different, in no order, and drawn from Zipf's law. The batches come
round, in turn.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fusestep as fs

from . import command, report
from .agreement import SMALL, TOLERANCE, Disagreement
from .command import pyplot, selected
from .distributed import free_memory
from .measure import FULL, QUICK, Effort, Timing, in_turns
from .peers import torch_absent
from .report import Column, Table
from .sparse_contestants import (
    ADAM,
    BETAS,
    EPS,
    LR,
    SGD,
    WIDTH,
    Array,
    Builds,
    Contestant,
    Problem,
    zipf,
)
from .step import spread

AGREED = 3  # steps
VOCABULARY = 1_000_000  # rows of the table that ids name


@dataclass(frozen=True)
class Sizes:
    rows: Sequence[int]
    touched: Sequence[int]
    batches: int


SIZES = Sizes((100_000, 1_000_000, 10_000_000), (256, 4096, 65_536), 100)
QUICK_SIZES = Sizes((10_000, 100_000), (256, 4096), 20)


def _adam_reference(p: Array, gradients: Sequence[Array], exact: bool) -> Array:
    """In float64; a row without a gradient has zeros."""
    (beta1, beta2), m, v = BETAS, np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gradients, start=1):
        moved = np.full(len(p), exact) | g.any(axis=1)
        m[moved] = (beta1 * m + (1 - beta1) * g)[moved]
        v[moved] = (beta2 * v + (1 - beta2) * g * g)[moved]
        rate = LR * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
        p = np.where(moved[:, None], p - rate * m / (np.sqrt(v) + EPS), p)
    return p


def _sgd_reference(p: Array, gradients: Sequence[Array], exact: bool) -> Array:
    return p - LR * np.sum(gradients, axis=0)


def _assert_agreement(
    name: str, contestant: Contestant, reference: Callable[..., Array], first: Mapping[str, Array]
) -> float:
    """The largest deviation after some steps; `first` has rows that they touch, and others."""
    problem = contestant.problem
    for _ in range(AGREED):
        contestant.step()
    contestant.finish()
    rows = first["touched"]
    gradients = []
    for batch in problem.batches[:AGREED]:
        gradients.append(np.zeros((len(rows), WIDTH)))
        gradients[-1][np.searchsorted(rows, batch)] = problem.values
    before = first["their values"].astype(np.float64)
    expected = reference(before, gradients, contestant.exact)
    scale = np.maximum(np.abs(expected), SMALL)
    worst = float(np.max(np.abs(contestant.table[rows] - expected) / scale))
    if not worst <= TOLERANCE:
        raise Disagreement(f"{name} is off by {worst:.1e} after {AGREED} steps")
    if not np.array_equal(contestant.table[first["others"]], first["values of the others"]):
        raise Disagreement(f"{name} has changed rows that have no gradient yet")
    return worst


def _first_values(problem: Problem) -> dict[str, Array]:
    table = problem.fresh_table()
    touched = np.unique(np.concatenate(problem.batches[:AGREED]))
    others = np.setdiff1d(np.arange(0, len(table), 97), touched)
    return {
        "touched": touched,
        "their values": table[touched],
        "others": others,
        "values of the others": table[others],
    }


def _groups(builds: Builds, rows: int) -> Iterator[list[str]]:
    """Who fits into memory together; nobody who does not fit alone."""
    room, group = 0.8 * free_memory(), list[str]()
    for name, build in builds.items():
        kind: Any = getattr(build, "func", build)
        need = 4 * WIDTH * rows * kind.tables
        if need > 0.8 * free_memory():
            continue
        if need > room:
            yield group
            group, room = [], 0.8 * free_memory()
        group.append(name)
        room -= need
    yield group


def compare(
    name: str, builds: Builds, reference: Callable[..., Array], sizes: Sizes, effort: Effort
) -> Table:
    """The step of every contestant, for tables and batches of these sizes."""
    absent = {n: torch_absent() for n in builds if n.startswith("torch") and torch_absent()}
    present = {n: build for n, build in builds.items() if n not in absent}
    rows: list[dict[str, Any]] = []
    timings: dict[str, dict[str, Timing]] = {}
    notes, worst = report.absences(absent), 0.0
    for size in sizes.rows:
        for touched in sizes.touched:
            title = f"{touched:,} of {size:,}"
            print(f"{name}: {title} rows", file=sys.stderr, flush=True)
            problem = Problem(size, touched, sizes.batches)
            first = _first_values(problem)
            times: dict[str, Timing] = {}
            groups = list(_groups(present, size))
            for group in groups:
                made = {n: present[n](problem) for n in group}
                for n, one in made.items():
                    worst = max(worst, _assert_agreement(n, one, reference, first))
                    for _ in range(len(problem.batches) if n != "dense" else 0):
                        one.step()  # until every row has been touched that ever is
                times |= in_turns({n: one.step for n, one in made.items()}, effort)
                del made, one
                gc.collect()
            notes += [f"{title}: {n}: not run, memory" for n in present if n not in times]
            if len(groups) > 1:
                parts = "; ".join(", ".join(group) for group in groups)
                notes.append(f"{title}: in turns as far as memory allows: {parts}.")
            row: dict[str, Any] = {"rows": size, "touched": touched, "missed": problem.missed}
            row |= {n: timing.median for n, timing in times.items()}
            if "skip" in times:
                row["of skip"] = row["exact"] / row["skip"]
            if peer := next((n for n in times if n.startswith("torch")), None):
                row["of torch"] = row[peer] / row["exact"]
            rows.append(row)
            timings[title] = times
    columns = [
        Column("rows", "rows", report.count),
        Column("touched", "touched", report.count),
        Column("missed", "missed", report.gigabytes),
        *report.time_columns(list(builds), absent),
        *([Column("of skip", "exact / skip", report.ratio)] if "skip" in builds else []),
        Column("of torch", "torch / exact", report.ratio),
    ]
    notes += [*_growth(rows), f"All are within {worst:.0e} of float64 NumPy after {AGREED} steps."]
    detail = {n: {k: asdict(t) for k, t in times.items()} for n, times in timings.items()}
    heading = f"{name}, tables of {WIDTH} float32 in a row: time of one step"
    return Table(
        name.lower(), heading, columns, rows, [*notes, spread(timings)], {"timings": detail}
    )


def _growth(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How much longer a step takes in the largest table than in the smallest."""
    notes = []
    for touched in {row["touched"]: None for row in rows}:
        alike = [row for row in rows if row["touched"] == touched]
        few, many = alike[0], alike[-1]
        if few is many:
            continue
        own = [n for n in ("exact", "skip") if n in few and n in many]
        times = ", ".join(f"{n} {report.ratio(many[n] / few[n])}" for n in own)
        notes.append(
            f"{touched:,} rows of {many['rows']:,} take longer than of {few['rows']:,}: {times}."
        )
    return notes


def unique(sizes: Sizes, effort: Effort) -> Table:
    """The different rows of a batch, and their places."""
    random = np.random.default_rng(0)
    absent = {"torch": torch_absent()} if torch_absent() else {}
    rows: list[dict[str, Any]] = []
    timings: dict[str, dict[str, Timing]] = {}
    for count in sizes.touched:
        ids = zipf(random, VOCABULARY, count)
        steps: dict[str, Callable[[], Any]] = {
            "fusestep": partial(fs.data.unique_rows, ids),
            "NumPy": partial(np.unique, ids, return_inverse=True),
        }
        if not absent:
            torch: Any = importlib.import_module("torch")
            steps["torch"] = partial(torch.unique, torch.from_numpy(ids), return_inverse=True)
        expected, places = steps["NumPy"]()
        for name, step in steps.items():
            found, inverse = map(np.asarray, step())
            if not (np.array_equal(found, expected) and np.array_equal(inverse, places)):
                raise Disagreement(f"{name} finds other rows than NumPy")
        title = f"{count:,} ids"
        timings[title] = in_turns(steps, effort)
        times = {name: timing.median for name, timing in timings[title].items()}
        best = min(time for name, time in times.items() if name != "fusestep")
        rows.append(
            {"ids": count, "different": len(expected), **times, "ratio": best / times["fusestep"]}
        )
    columns = [
        Column("ids", "ids", report.count),
        Column("different", "different", report.count),
        *report.time_columns(["fusestep", "NumPy", "torch"], absent),
        Column("ratio", "best peer / fusestep", report.ratio),
    ]
    title = f"The different ids of a batch, and their places: int64, Zipf, {VOCABULARY:,} rows"
    detail = {n: {k: asdict(t) for k, t in times.items()} for n, times in timings.items()}
    notes = [*report.absences(absent), spread(timings)]
    return Table("unique", title, columns, rows, notes, {"timings": detail})


def _draw(path: Path, tables: Sequence[Table], facts: Mapping[str, Any]) -> str:
    """Times over the sizes of tables, a panel for each rule and number of rows."""
    compared = [table for table in tables if table.name != "unique"]
    if not compared:
        return "absent: no step was measured"
    try:
        plt = pyplot()
    except ImportError as error:
        return f"absent: {error}"
    panels = [(t, n) for t in compared for n in {row["touched"]: None for row in t.rows}]
    figure, all_axes = plt.subplots(
        1, len(panels), figsize=(3.6 * len(panels), 4), layout="constrained", squeeze=False
    )
    for axes, (table, touched) in zip(all_axes.flat, panels, strict=True):
        rows = [row for row in table.rows if row["touched"] == touched]
        for name in (column.key for column in table.columns if column.write is report.seconds):
            points = [(row["rows"], row[name]) for row in rows if name in row]
            if points:
                axes.loglog(*zip(*points, strict=True), marker="o", label=name)
        axes.set_title(f"{table.name}, {touched:,} rows", fontsize=11)
        axes.set_xlabel("rows of the table")
    all_axes[0, 0].set_ylabel("seconds")
    all_axes[0, 0].legend()
    figure.suptitle(f"{facts['processor']}, {facts['threads']} threads", fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return "written"


PARTS: dict[str, Callable[[Sizes, Effort], Table]] = {
    "adam": partial(compare, "Adam", ADAM, _adam_reference),
    "sgd": partial(compare, "SGD", SGD, _sgd_reference),
    "unique": unique,
}


def run(options: argparse.Namespace) -> int:
    """Measures what the options ask for; 1 where a contestant disagrees."""
    sizes, effort = (QUICK_SIZES, QUICK) if options.quick else (SIZES, FULL)
    named = {f"{rows:.0e}".replace("+0", ""): rows for rows in sizes.rows}
    parts = selected(options, list(PARTS), list(named))
    if parts is None:
        return 2
    chosen = [rows for name, rows in named.items() if name in options.only] or sizes.rows
    sizes = replace(sizes, rows=chosen)
    tables = {name: partial(PARTS[name], sizes, effort) for name in parts}
    return command.run(options, "sparse", tables, _draw)
