"""Pictures of comparisons: one bar for each contestant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import report
from .command import pyplot
from .report import Table


def draw_bars(path: Path, tables: Sequence[Table], facts: Mapping[str, Any]) -> str:
    """Draws the times relative to the first row; "written", or the reason why there is none."""
    compared = [table for table in tables if any("relative" in row for row in table.rows)]
    if not compared:
        return "absent: no comparison was measured"
    try:
        plt = pyplot()
    except ImportError as error:
        return f"absent: {error}"
    figure, panels = plt.subplots(
        len(compared), figsize=(9, 3.3 * len(compared)), layout="constrained", squeeze=False
    )
    for axes, table in zip(panels.flat, compared, strict=True):
        rows = [row for row in reversed(table.rows) if "time" in row]
        names = [row["contestant"] for row in rows]
        colours = ["#c1272d" if name.startswith("fusestep") else "#2f6db5" for name in names]
        bars = axes.barh(names, [row["relative"] for row in rows], color=colours)
        labels = [f"{report.ratio(row['relative'])}, {report.seconds(row['time'])}" for row in rows]
        axes.bar_label(bars, labels, padding=4)
        axes.set_xscale("log")
        relative = [row["relative"] for row in rows]
        axes.set_xlim(min(0.1, min(relative) / 2), 4 * max(relative))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
        axes.xaxis.set_minor_formatter(lambda *_: "")
        axes.set_xlabel(f"time relative to {table.rows[0]['contestant']}")
        axes.set_title(table.title, fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{facts['processor']}, {facts['threads']} threads", fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return "written"
