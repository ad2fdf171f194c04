"""What decides fusestep's time: threads, instruction sets, arrays and elements."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

import fusestep as fs
from fusestep import _core

from . import contestants as who
from . import report
from .agreement import ADAMW, assert_agreement
from .limit import Limit
from .measure import Effort, in_turns
from .models import Model, Problem
from .report import Column, Table

_BYTES = 28


def threads(models: Sequence[Model], effort: Effort) -> Table:
    """AdamW on 1, 2, 4 and so on up to all threads."""
    wanted = (who.BOUND, who.TORCH_FUSED, who.DEEPSPEED, who.LIMIT)
    entries, absent = who.usable(wanted)
    everything = fs.get_num_threads()
    counts = sorted({1 << k for k in range(everything.bit_length())} | {everything})
    rows: list[dict[str, Any]] = []
    for model in (model for model in models if model.name in ("1e5", "1e7", "gpt2")):
        print(f"threads: {model.title}", file=sys.stderr, flush=True)
        contestants, _ = who.build(Problem(model), ADAMW, entries)
        # everybody on every number of threads in turns
        steps = {
            f"{name} {count}": c.on(count) if isinstance(c, Limit) else c.step
            for name, c in contestants.items()
            for count in counts
        }
        before: dict[str, Callable[[], object]] = {
            f"{name} {count}": functools.partial(_set_threads, count)
            for name in contestants
            for count in counts
        }
        try:
            timings = in_turns(steps, replace(effort, seconds=effort.seconds * len(counts)), before)
        finally:
            _set_threads(everything)
        alone = timings[f"{who.BOUND.name} 1"].median
        for count in counts:
            times = {name: timings[f"{name} {count}"].median for name in contestants}
            own = times[who.BOUND.name]
            row = {"model": model.title, "threads": count, **times, "speed-up": alone / own}
            row["rate"] = _BYTES * model.parameters / own / 1e9
            if who.LIMIT.name in times:
                row["share"] = 100 * times[who.LIMIT.name] / own
            rows.append(row)
        del contestants, steps
    columns = [
        Column("model", "model"),
        Column("threads", "threads"),
        *report.time_columns([entry.name for entry in wanted], absent),
        Column("speed-up", "speed-up", report.ratio),
        Column("rate", "GB/s", report.gigabytes),
        Column("share", "of limit", report.percent),
    ]
    title = "AdamW, float32: threads"
    return Table("threads", title, columns, rows, report.absences(absent))


def _set_threads(count: int) -> None:
    fs.set_num_threads(count)
    if not who.TORCH_FUSED.absent():
        importlib.import_module("torch").set_num_threads(count)  # DeepSpeed's too: one OpenMP


def instruction_sets(models: Sequence[Model], effort: Effort) -> Table:
    """AdamW, gradients bound, forced to every instruction set that this processor has."""
    isas = list(fs.build_info()["isa_supported"])
    rows: list[dict[str, Any]] = []
    try:
        for model in (model for model in models if model.name in ("1e3", "1e5", "1e7")):
            print(f"instruction sets: {model.title}", file=sys.stderr, flush=True)
            problem = Problem(model)
            forced = {isa: _Forced(problem, isa) for isa in isas}
            assert_agreement(problem, ADAMW, forced)
            # the same arrays for all
            step = forced[isas[0]].optimizer.step
            before: dict[str, Callable[[], object]] = {
                isa: functools.partial(activate, isa) for isa in isas
            }
            timings = in_turns(dict.fromkeys(isas, step), effort, before)
            row: dict[str, Any] = {"model": model.title}
            for isa in isas:
                row[isa] = timings[isa].median
                row[f"{isa} speed-up"] = timings[isas[0]].median / timings[isa].median
            rows.append(row)
    finally:
        _core.use_isa("")
    columns = [Column("model", "model"), *report.time_columns(isas[:1], {})]
    for isa in isas[1:]:
        columns += report.time_columns([isa], {})
        columns.append(Column(f"{isa} speed-up", "speed-up", report.ratio))
    return Table("isa", "AdamW, float32, gradients bound: instruction sets", columns, rows)


class _Forced(who.FusestepBound):
    def __init__(self, problem: Problem, isa: str) -> None:
        super().__init__(problem, ADAMW)
        self.step = functools.partial(self._step, isa)

    def _step(self, isa: str) -> None:
        activate(isa)
        self.optimizer.step()


def activate(isa: str) -> None:
    _core.use_isa(isa)
    active = fs.build_info()["isa_active"]
    if active != isa:
        raise RuntimeError(f"asked for {isa}, but {active} is active")


def cost(models: Sequence[Model], effort: Effort) -> Table:
    """A line through the times on one thread: what a call costs, each array and each element."""
    del models  # a grid of its own, small enough for the cache
    grid = [(arrays, size) for arrays in (1, 10, 100, 1000) for size in (16, 100, 600)]
    entries = (who.FUSESTEP, who.BOUND)
    points: list[dict[str, Any]] = []
    everything = fs.get_num_threads()
    fs.set_num_threads(1)
    try:
        for arrays, size in (point for point in grid if point[0] * point[1] <= 60_000):
            print(f"cost: {arrays} x {size}", file=sys.stderr, flush=True)
            model = Model("", f"{arrays} x {size}", ((size,),) * arrays)
            contestants, _ = who.build(Problem(model), ADAMW, entries)
            timings = in_turns({name: c.step for name, c in contestants.items()}, effort)
            times = {name: asdict(timing) for name, timing in timings.items()}
            points.append({"arrays": arrays, "elements": model.parameters, "times": times})
    finally:
        fs.set_num_threads(everything)
    columns = [
        Column("contestant", "gradients"),
        Column("call", "a call", report.seconds),
        Column("array", "each array", nanoseconds),
        Column("element", "each element", nanoseconds),
        Column("misfit", "largest misfit", report.percent),
    ]
    return Table(
        "cost",
        "AdamW, float32, one thread: a line through the times",
        columns,
        [_line("passed", who.FUSESTEP.name, points), _line("bound", who.BOUND.name, points)],
        [
            "Least squares of relative errors over 1, 10, 100 and 1000 arrays of 16, 100 and 600 "
            "elements, up to 60,000 elements."
        ],
        {"points": points},
    )


def _line(title: str, name: str, points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    times = np.array([point["times"][name]["median"] for point in points])
    terms = np.array([[1.0, point["arrays"], point["elements"]] for point in points])
    relative = terms / times[:, None]
    line, *_ = np.linalg.lstsq(relative, np.ones(len(points)), rcond=None)
    call, array, element = (float(coefficient) for coefficient in line)
    misfit = 100 * float(np.max(np.abs(relative @ line - 1)))
    return {"contestant": title, "call": call, "array": array, "element": element, "misfit": misfit}


def nanoseconds(value: float) -> str:
    return f"{value * 1e9:.2f} ns"
