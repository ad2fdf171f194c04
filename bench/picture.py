"""One picture of a comparison: everybody's time relative to fusestep's, model by model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import report
from .command import pyplot
from .report import Table

_RED, _BLUE, _ORANGE, _GREEN, _PURPLE = "#c1272d", "#2f6db5", "#e08214", "#2a9d5c", "#8e5bb5"

# marker, colour, size, by contestant
_LOOKS: dict[str, tuple[str, str, float]] = {
    "fusestep": ("o", _RED, 9),
    "fusestep bound": ("D", _RED, 6),
    "NumPy": ("s", _BLUE, 6.5),
    "NumPy out=": ("v", _BLUE, 7.5),
    "torch foreach": ("^", _ORANGE, 7.5),
    "torch fused": ("P", _ORANGE, 8.5),
    "DeepSpeed": ("X", _GREEN, 8),
    "optax": ("p", _PURPLE, 8),
    "limit": ("|", "black", 17),
}


def draw(path: Path, tables: Sequence[Table], facts: Mapping[str, Any]) -> str:
    """Draws the first comparison; returns "written", or the reason why there is no picture."""
    compared = [table for table in tables if any("relative" in row for row in table.rows)]
    if not compared:
        return "absent: no comparison was measured"
    try:
        plt = pyplot()
    except ImportError as error:
        return f"absent: {error}"

    table = compared[0]
    figure, axes = plt.subplots(figsize=(10, 1.9 + 0.5 * len(table.rows)), layout="constrained")
    for name, (marker, colour, size) in _LOOKS.items():
        points = [
            (row["relative"][name], y)
            for y, row in enumerate(table.rows)
            if name in row["relative"]
        ]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                linestyle="none",
                marker=marker,
                color=colour,
                markersize=size,
                markeredgecolor="black" if name == "limit" else "white",
                markeredgewidth=2 if name == "limit" else 0.7,
                label="streaming limit" if name == "limit" else name,
                zorder=3,
            )
    axes.axvline(1, color=_RED, linewidth=1, zorder=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.set_xlabel("time of one step relative to fusestep with gradients passed")
    axes.set_yticks(
        range(len(table.rows)),
        [f"{row['model']}\nfusestep: {report.seconds(row['fusestep'])}" for row in table.rows],
    )
    for y, row in enumerate(table.rows):
        best = f"{report.ratio(row['ratio'])} {row['best peer']}"
        axes.annotate(best, (1.01, y), xycoords=("axes fraction", "data"), va="center")
    axes.annotate("best peer", (1.01, -0.9), xycoords=("axes fraction", "data"), va="center")
    axes.set_ylim(len(table.rows) - 0.5, -0.5)
    axes.grid(axis="x", which="major", color="#cccccc", linewidth=0.8)
    axes.grid(axis="x", which="minor", color="#ececec", linewidth=0.5)
    axes.grid(axis="y", color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside upper center", ncols=5, frameon=False)
    axes.set_title(f"{table.title}\n{facts['processor']}, {facts['threads']} threads", fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return "written"
