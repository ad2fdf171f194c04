"""Tables as text and Markdown, and everything measured as JSON."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fusestep as fs


@dataclass(frozen=True)
class Column:
    """A key of the rows, with its heading and how its values are written."""

    key: str
    heading: str
    write: Callable[[Any], str] = str
    missing: str = "-"


@dataclass(frozen=True)
class Table:
    """Rows of plain values by the keys of the columns; a row may lack some."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)  # further detail, for JSON only

    def cells(self) -> list[list[str]]:
        return [
            [c.write(row[c.key]) if c.key in row else c.missing for c in self.columns]
            for row in self.rows
        ]


def seconds(value: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{_three_digits(value / size)} {unit}"
    return f"{_three_digits(value / 1e-6)} µs"


def _three_digits(value: float) -> str:
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def count(value: int) -> str:
    return f"{value:,}"


def ratio(value: float) -> str:
    return f"{_three_digits(value)}x"


def gigabytes(value: float) -> str:
    return f"{value:.1f}"


def percent(value: float) -> str:
    return f"{value:.0f} %"


def time_columns(contestants: Sequence[str], absent: Mapping[str, str]) -> list[Column]:
    return [
        Column(name, name, seconds, missing="absent" if name in absent else "-")
        for name in contestants
    ]


def absences(absent: Mapping[str, str]) -> list[str]:
    return [f"{name}: absent: {reason}" for name, reason in absent.items()]


def as_text(table: Table) -> str:
    headings = [column.heading for column in table.columns]
    rows = table.cells()
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    lines = [table.title, "", line(headings), rule, *map(line, rows)]
    return "\n".join([*lines, *("", *table.notes)] if table.notes else lines)


def as_markdown(table: Table) -> str:
    lines = [
        f"### {table.title}",
        "",
        "| " + " | ".join(column.heading for column in table.columns) + " |",
        "|---|" + "---:|" * (len(table.columns) - 1),
        *("| " + " | ".join(cells) + " |" for cells in table.cells()),
    ]
    for note in table.notes:
        lines += ["", note]
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    packages = ("numpy", "cupy-cuda12x", "torch", "deepspeed", "jax", "optax")
    info = fs.build_info()
    return {
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "fusestep": info["version"],
        "compiler": info["compiler"],
        "isa": info["isa_active"],
        "threads": info["threads"],
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "gpu": _gpu(),
        "versions": {name: version for name in packages if (version := _version(name))},
    }


def _gpu() -> str:
    """The GPU that CuPy uses, or nothing."""
    try:
        cupy: Any = importlib.import_module("cupy")
        return str(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())
    except Exception:  # no CuPy, or whatever it raises without a GPU
        return ""


def machine_line(facts: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    load = "" if facts["load"] is None else f", load before the run {facts['load']:.1f}"
    gpu = f", {facts['gpu']}" if facts["gpu"] else ""
    return (
        f"{facts['processor']}, {facts['processors']} processors{gpu}, {facts['system']}{load}; "
        f"fusestep {facts['fusestep']} ({facts['isa']}, {facts['threads']} threads, "
        f"{facts['compiler']}), Python {facts['python']}, {versions}"
    )


def write_json(path: Path, facts: Mapping[str, Any], tables: Sequence[Table]) -> None:
    document = {
        "machine": facts,
        "tables": {
            table.name: {
                "title": table.title,
                "rows": list(table.rows),
                "notes": list(table.notes),
                **table.measured,
            }
            for table in tables
        },
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
