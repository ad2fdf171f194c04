"""The time of schedules: for one clock, inside an optimizer's step, and for many steps at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fusestep as fs
from fusestep import _core, schedules

from . import command, report
from . import contestants as who
from . import schedule_contestants as curves
from .agreement import ADAMW, Contestant, Disagreement
from .bars import draw_bars
from .command import selected
from .measure import FULL, QUICK, Effort, Timing, in_turns
from .models import MODELS, Problem
from .report import Column, Table
from .schedule_contestants import LONG, Entry
from .step import spread
from .sweeps import nanoseconds


def one(effort: Effort) -> Table:
    """One clock, from Python."""
    title = "Warm-up and cosine for one clock, from Python"
    return _compare("one", title, curves.ONE_CLOCK, effort)


def many(effort: Effort) -> Table:
    """A million steps at once."""
    entries = curves.many_steps()
    if effort is not QUICK:
        entries.append(curves.LIST_COMPREHENSION)
    threads = fs.get_num_threads()
    try:
        title = f"Warm-up and cosine for {LONG:,} steps at once"
        return _compare("many", title, entries, effort, LONG)
    finally:
        _core.use_isa("")
        fs.set_num_threads(threads)


def _compare(
    name: str, title: str, entries: Sequence[Entry], effort: Effort, steps: int = 1
) -> Table:
    print(title, file=sys.stderr, flush=True)
    reasons = {entry.name: entry.absent() for entry in entries}
    absent = {entry: reason for entry, reason in reasons.items() if reason}
    found = {entry.name: entry.build() for entry in entries if not reasons[entry.name]}
    deviations: dict[str, float] = {}
    for entry, evaluation in found.items():
        evaluation.before()
        deviations[entry] = evaluation.deviation()
        curves.assert_within(f"{title}: {entry}", deviations[entry], evaluation.tolerance)
    timings = in_turns(
        {entry: evaluation.step for entry, evaluation in found.items()},
        effort,
        {entry: evaluation.before for entry, evaluation in found.items()},
    )
    rows: list[dict[str, Any]] = [
        {
            "contestant": entry,
            "time": timing.median,
            **({"value": timing.median / steps} if steps > 1 else {}),
            "relative": timing.median / timings["fusestep"].median,
            "deviation": deviations[entry],
        }
        for entry, timing in timings.items()
    ]
    rows += [{"contestant": entry} for entry in absent]
    columns = [
        Column("contestant", "contestant"),
        Column("time", "time", report.seconds, missing="absent"),
        *([Column("value", "each", nanoseconds)] if steps > 1 else []),
        Column("relative", "/ fusestep", report.ratio),
        Column("deviation", "off by", "{:.0e}".format),
    ]
    agreement = (
        "All agree: off by the largest difference from NumPy's or Python's double, relative to the "
        f"peak; allowed {curves.DOUBLE:.0e}, and {curves.FLOAT32:.0e} for float32 (optax)."
    )
    notes = [*report.absences(absent), agreement, spread({name: timings})]
    return Table(name, title, columns, rows, notes, _detail(timings, absent))


def _detail(timings: Mapping[str, Timing], absent: Mapping[str, str]) -> dict[str, Any]:
    spelled = {name: asdict(timing) for name, timing in timings.items()}
    return {"timings": spelled, "absent": dict(absent)}


_NUMBERS, _CURVE, _CURVES = "numbers", "lr a curve", "lr, weight_decay, betas curves"
_SEQUENTIAL = "torch fused, SequentialLR"


def step(effort: Effort) -> Table:
    """What curves add to the step of an optimizer.

    On one thread: more do not help with 1,000 elements, but torch's would wait for each other.
    """
    threads = fs.get_num_threads()
    fs.set_num_threads(1)
    try:
        return _step(effort)
    finally:
        fs.set_num_threads(threads)


def _step(effort: Effort) -> Table:
    title = "AdamW, float32, 1 array of 1e3, gradients bound, 1 thread: what curves add to a step"
    print(title, file=sys.stderr, flush=True)
    problem = Problem(next(model for model in MODELS if model.name == "1e3"))
    lr = curves.warmup_cosine(LONG)
    settings: dict[str, dict[str, Any]] = {
        _CURVE: {"lr": lr},
        _CURVES: {
            "lr": lr,
            "weight_decay": schedules.cosine(start=0.1, end=0.01, length=LONG),
            "betas": (
                schedules.warmup_linear(peak=0.95, warmup=curves.WARMUP, total=LONG, start=0.85),
                schedules.linear(start=0.99, end=0.999, length=curves.FOLLOWED),
            ),
        },
    }
    usable, absent = who.usable([who.BOUND, who.TORCH_FUSED])
    constant, _ = who.build(problem, ADAMW, usable)
    contestants: dict[str, Contestant] = {_NUMBERS: constant.pop(who.BOUND.name), **constant}
    deviations: dict[str, float] = {}
    for name, given in settings.items():
        rule = replace(ADAMW, **given)
        followers: dict[str, Contestant] = {name: who.FusestepBound(problem, rule)}
        if name == _CURVE and who.TORCH_FUSED.name in constant:
            followers[_SEQUENTIAL] = curves.TorchScheduled(problem)
        deviations |= curves.follow(problem, followers, curves.ByHand(problem, given))
        contestants |= followers
    timings = in_turns({name: c.step for name, c in contestants.items()}, effort)

    torch = who.TORCH_FUSED.name
    bases = {_NUMBERS: "", _CURVE: _NUMBERS, _CURVES: _NUMBERS, torch: "", _SEQUENTIAL: torch}
    rows: list[dict[str, Any]] = []
    for name, base in bases.items():
        row: dict[str, Any] = {"contestant": name}
        if name in timings:
            row["time"] = timings[name].median
        if name in timings and base:
            row["extra"] = row["time"] - timings[base].median
            row["deviation"] = deviations[name]
        rows.append(row)
    columns = [
        Column("contestant", "settings"),
        Column("time", "time of one step", report.seconds, missing="absent"),
        Column("extra", "more than with numbers", report.seconds),
        Column("deviation", "off by", "{:.0e}".format),
    ]
    agreement = (
        "All agree: off by the largest difference from fusestep with numbers set by hand, after "
        f"{curves.FOLLOWED} steps, relative to the largest parameter; allowed 0 for fusestep and "
        f"{curves.FLOAT32:.0e} for torch."
    )
    notes = [*report.absences(absent), agreement, spread({"step": timings})]
    return Table("step", title, columns, rows, notes, _detail(timings, absent))


def _typical() -> list[fs.Expression]:
    s, long, warm, third, fifth = schedules, LONG, LONG // 100, LONG // 3, LONG // 5
    return [
        s.constant(0.1),
        s.cosine(start=0.1, length=long),
        s.cosine_restarts(start=0.1, length=fifth),
        s.cosine_restarts(start=0.1, length=warm, t_mult=2),
        s.cyclic(low=0.001, high=0.1, up=warm),
        s.exponential(start=0.1, rate=0.95, every=warm),
        s.gradual_warmup(base=0.1, factor=8, length=warm),
        s.interpolate([(0, 0.0), (warm, 0.1), (third, 0.05), (long, 0.0)]),
        s.inverse_offset(start=0.1, offset=0.05),
        s.inverse_sqrt(peak=0.1, timescale=warm),
        s.inverse_time(start=0.1, timescale=warm),
        s.linear(start=0.1, end=0.0, length=long),
        s.multistep(start=0.1, factor=0.1, at=[third, 2 * third]),
        s.noam(dim=512, warmup=warm),
        s.one_cycle(peak=0.1, total=long),
        s.piecewise([0.1, 0.01, 0.001], at=[third, 2 * third]),
        s.polynomial(start=0.1, length=long, power=0.9),
        s.power(scale=4.0, exponent=-0.51, cap=0.1),
        s.random(low=0.001, high=0.1, distribution="loguniform", every=10),
        s.rex(start=0.1, end=0.0, length=long),
        s.sequence([s.linear(0.0, 0.1, length=warm), s.cosine(0.1, length=long)], at=[warm]),
        s.staircase_linear(start=0.1, fraction=0.9, every=warm, length=long),
        s.step(start=0.1, factor=0.5, every=fifth),
        s.table([0.1, 0.05, 0.01]),
        s.tanh(start=0.1, end=0.0, length=long),
        s.warmup(warm),
        s.warmup_constant(peak=0.1, warmup=warm),
        s.warmup_cosine(peak=0.1, warmup=warm, total=long),
        s.warmup_linear(peak=0.1, warmup=warm, total=long),
        s.wsd(peak=0.1, warmup=warm, stable=3 * fifth, decay=fifth),
    ]


def each_curve(effort: Effort) -> Table:
    """Every curve, for one clock and for a million steps."""
    title = f"Every curve: one clock, and {LONG:,} steps at once"
    print(title, file=sys.stderr, flush=True)
    typical = {repr(curve): curve for curve in _typical()}
    steps, middle = np.arange(LONG), LONG // 2
    some = np.linspace(0, LONG - 1, 50).astype(np.int64)
    for name, curve in typical.items():
        if [curve(t) for t in some.tolist()] != curve(steps)[some].tolist():
            raise Disagreement(f"{name} is not the same for one clock and for many")
    one_clock = in_turns({name: partial(curve, middle) for name, curve in typical.items()}, effort)
    at_once = in_turns({name: partial(curve, steps) for name, curve in typical.items()}, effort)
    rows = [
        {"curve": name, "clock": one_clock[name].median, "value": at_once[name].median / LONG}
        for name in typical
    ]
    clock = Column("clock", "one clock", report.seconds)
    columns = [Column("curve", "curve"), clock, Column("value", "each of many", nanoseconds)]
    agreement = f"Each gives the same bits for one clock and for many, at {len(some)} steps."
    notes = [agreement, spread({"one clock": one_clock, "at once": at_once})]
    names = {name.partition("(")[0] for name in typical} | {"as_lambda", "initial_lr", "presets"}
    if missing := sorted(set(schedules.__all__) - names):
        notes.append(f"Not measured: {', '.join(missing)}.")
    detail = {"one clock": _detail(one_clock, {}), "at once": _detail(at_once, {})}
    return Table("curves", title, columns, rows, notes, detail)


PARTS: dict[str, Callable[[Effort], Table]] = {
    "one": one,
    "step": step,
    "many": many,
    "curves": each_curve,
}


def run(options: argparse.Namespace) -> int:
    """Measures what the options ask for; 1 where a contestant computed something else."""
    parts = selected(options, list(PARTS))
    if parts is None:
        return 2
    tables = {name: partial(PARTS[name], QUICK if options.quick else FULL) for name in parts}
    return command.run(options, "schedule", tables, _draw)


def _draw(path: Path, tables: Sequence[Table], facts: Mapping[str, Any]) -> str:
    compared = [table for table in tables if table.name in ("one", "many")]
    return draw_bars(path, compared, facts)
