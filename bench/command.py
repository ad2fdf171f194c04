"""What every command does with its parts: measure, print, write."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import report
from .agreement import Disagreement
from .report import Table

Draw = Callable[[Path, Sequence[Table], Mapping[str, Any]], str]


def run(
    options: argparse.Namespace, name: str, parts: Mapping[str, Callable[[], Table]], draw: Draw
) -> int:
    """Runs the parts, and writes NAME.json and NAME.png; 1 where a contestant disagrees."""
    write = report.as_markdown if options.markdown else report.as_text
    facts = report.machine()
    print(report.machine_line(facts), flush=True)
    tables: list[Table] = []
    for part in parts.values():
        try:
            table = part()
        except Disagreement as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        if table.rows:
            print(f"\n{write(table)}", flush=True)
            tables.append(table)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        report.write_json(options.out / f"{name}.json", facts, tables)
        drawn = draw(options.out / f"{name}.png", tables, facts)
        print(f"\n{name}.json: written; {name}.png: {drawn}")
    return 0


def selected(options: argparse.Namespace, parts: Sequence[str], others: Sequence[str] = ()) -> Any:
    """The parts that ``--only`` names, all if it names none; None, with a message, if unknown."""
    known = [*parts, *others]
    if unknown := [name for name in options.only if name not in known]:
        print(f"--only: no {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return None
    return [name for name in parts if name in options.only] or list(parts)


def pyplot() -> Any:
    """Matplotlib without a window; raises ImportError where it is absent."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("agg")
    return importlib.import_module("matplotlib.pyplot")
