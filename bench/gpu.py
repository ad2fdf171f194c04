"""The time of one optimizer step on the GPU: fusestep, its peers, and a copy of as many bytes."""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from . import command, report
from .agreement import ADAMW, ADAMW_CLIPPED, Rule, assert_agreement
from .command import pyplot, selected
from .gpu_contestants import COPY, ENTRIES, DeviceContestant, gpu_absent, torch_absent
from .measure import FULL, QUICK, Effort, Timing, in_turns
from .models import MODELS, Model, Problem
from .report import Column, Table
from .step import spread

_BYTES = 28  # for each parameter: four arrays of float32 read, three written
_TOGETHER = 20  # steps that are launched before the GPU is waited for,
_LONG = 0.005  # unless one takes more seconds than this: the wait is then nothing beside it
_LARGEST_CHECKED = 200_000_000  # parameters; comparing more with NumPy takes minutes

GPU_MODELS = (
    Model("1e8", "1 array of 1e8", ((100_000_000,),)),
    Model("1e9", "1 array of 1e9", ((1_000_000_000,),)),
    *(model for model in MODELS if model.name in ("gpt2", "resnet50", "mlp", "1000x100")),
)
QUICK_MODELS = tuple(model for model in MODELS if model.name in ("1e5", "mlp"))


def _together(contestant: DeviceContestant, count: int) -> None:
    for _ in range(count):
        contestant.step()
    contestant.wait()


def _count(contestant: DeviceContestant) -> int:
    """How many steps are launched together, once the first of all has made what it needs."""
    _together(contestant, 2)
    begin = time.perf_counter()
    _together(contestant, 1)
    return 1 if time.perf_counter() - begin > _LONG else _TOGETHER


def _launches(contestant: DeviceContestant) -> int | None:
    """The kernels of one step, as torch's profiler sees them; None where it is absent."""
    if torch_absent():
        return None
    profiler: Any = importlib.import_module("torch.profiler")
    contestant.step()
    contestant.wait()
    with profiler.profile(activities=[profiler.ProfilerActivity.CUDA]) as profile:
        contestant.step()
        contestant.wait()
    names = [event.name for event in profile.events() if str(event.device_type).endswith("CUDA")]
    return sum(not name.startswith(("Memcpy", "Memset")) for name in names) or None


def compare(name: str, rule: Rule, models: Sequence[Model], effort: Effort) -> Table:
    """One rule, all models and contestants."""
    absent = {entry.name: reason for entry in ENTRIES if (reason := entry.absent())}
    entries = [entry for entry in ENTRIES if entry.name not in absent]
    rows: list[dict[str, Any]] = []
    timings: dict[str, dict[str, Timing]] = {}
    for model in models:
        print(f"{rule.title}: {model.title} ...", file=sys.stderr, flush=True)
        gc.collect()
        problem = Problem(model)
        contestants = {entry.name: entry.build(problem, rule) for entry in entries}
        computing = {e.name: contestants[e.name] for e in entries if e.computes}
        if model.parameters <= _LARGEST_CHECKED:
            assert_agreement(problem, rule, computing)
        launches = {n: found for n, c in computing.items() if (found := _launches(c))}
        counts = {n: _count(c) for n, c in contestants.items()}
        steps = {n: partial(_together, c, counts[n]) for n, c in contestants.items()}
        timings[model.title] = {
            n: replace(
                timing,
                median=timing.median / counts[n],
                lower=timing.lower / counts[n],
                upper=timing.upper / counts[n],
            )
            for n, timing in in_turns(steps, effort).items()
        }
        rows.append(_row(model, timings[model.title], launches))
        print(_line(model, timings[model.title]), file=sys.stderr, flush=True)
        del contestants, computing, steps
    columns = [
        Column("model", "model"),
        *report.time_columns([entry.name for entry in ENTRIES], absent),
        Column("best peer", "best peer"),
        Column("ratio", "best peer / fusestep bound", report.ratio),
        Column("share", "of copy", report.percent),
        Column("rate", "TB/s", "{:.2f}".format),
        Column("launches", "launches"),
    ]
    notes = [
        *report.absences(absent),
        f"{_TOGETHER} steps are launched before the GPU is waited for, or one where it takes more "
        f"than {1000 * _LONG:.0f} ms. TB/s and the share of the "
        f"copy's rate are those of fusestep bound, at {_BYTES} bytes for each parameter.",
        spread(timings),
    ]
    measured = {
        "timings": {t: {n: asdict(x) for n, x in of.items()} for t, of in timings.items()},
        "absent": absent,
    }
    return Table(name, f"{rule.title} on the GPU, float32", columns, rows, notes, measured)


def _row(model: Model, times: Mapping[str, Timing], launches: Mapping[str, int]) -> dict[str, Any]:
    own = times["fusestep bound"].median
    row: dict[str, Any] = {
        "model": model.title,
        **{name: timing.median for name, timing in times.items()},
        "rate": _BYTES * model.parameters / own / 1e12,
        "share": 100 * times[COPY].median / own,
        "launches": ", ".join(f"{name} {count}" for name, count in launches.items()) or "-",
    }
    peers = [entry.name for entry in ENTRIES if entry.peer and entry.name in times]
    if peers:
        best = min(peers, key=lambda name: times[name].median)
        row |= {"best peer": best, "ratio": times[best].median / own}
    return row


def _line(model: Model, times: Mapping[str, Timing]) -> str:
    """A row as soon as it is there: what is cut off later has told this much."""
    parts = (f"{name} {report.seconds(timing.median)}" for name, timing in times.items())
    return f"{model.title}: {', '.join(parts)}"


def _draw(path: Path, tables: Sequence[Table], facts: Mapping[str, Any]) -> str:
    """Draws the times of every model relative to the copy."""
    try:
        plt = pyplot()
    except ImportError as error:
        return f"absent: {error}"
    figure, panels = plt.subplots(
        len(tables), figsize=(11, 4 * len(tables)), layout="constrained", squeeze=False
    )
    for axes, table in zip(panels.flat, tables, strict=True):
        names = [e.name for e in ENTRIES if e.name != COPY and e.name in table.rows[0]]
        width = 0.8 / len(names)
        for k, name in enumerate(names):
            heights = [row[name] / row[COPY] for row in table.rows]
            axes.bar([i + k * width for i in range(len(heights))], heights, width, label=name)
        axes.axhline(1.0, color="black", linewidth=0.8)
        axes.set_xticks(
            [i + 0.4 - width / 2 for i in range(len(table.rows))],
            [row["model"] for row in table.rows],
        )
        axes.set_yscale("log")
        axes.set_ylabel("time relative to a copy")
        axes.set_title(table.title, fontsize=11)
        axes.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.1))
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(str(facts.get("gpu", "GPU")), fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return "written"


PARTS: dict[str, Callable[[Sequence[Model], Effort], Table]] = {
    "adamw": partial(compare, "adamw", ADAMW),
    "clip": partial(compare, "clip", ADAMW_CLIPPED),
}


def run(options: argparse.Namespace) -> int:
    """Measures what the options ask for; 1 where there is no GPU or a contestant disagrees."""
    models = QUICK_MODELS if options.quick else GPU_MODELS
    parts = selected(options, list(PARTS), [model.name for model in models])
    if parts is None:
        return 2
    if reason := gpu_absent():
        print(f"nothing was measured: {reason}", file=sys.stderr)
        return 1
    chosen = [model for model in models if model.name in options.only] or list(models)
    effort = QUICK if options.quick else replace(FULL, seconds=4.0)
    tables = {name: partial(PARTS[name], chosen, effort) for name in parts}
    return command.run(options, "gpu", tables, _draw)
