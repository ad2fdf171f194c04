"""Pictures of records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arguments import check_choice
from ..clock import Clock, Unit
from ..expression.drawing import pyplot
from .writing import Columns

Array = npt.NDArray[Any]

_TITLES = {
    "lr": "learning rate",
    "batch_size": "batch size",
    "grad_norm": "gradient norm",
    "noise_scale": "noise scale",
}
_EXACT = ("lr", "batch_size")  # not smoothed, and on a linear scale
_SMOOTHED = 100  # values, at least
_CROWDED = 1000  # values, more than there are columns of pixels
_PLACES = 500  # where a smoothed line is calculated
_DECADES = 100.0  # the ratio from which on a scale is logarithmic


def draw(
    record: Columns,
    *,
    by: Unit,
    axes: Mapping[str, Any] | None,
    path: str | PathLike[str] | None,
    label: str,
) -> dict[str, Any]:
    """What `Record.plot` does."""
    plt = pyplot()
    check_choice("by", by, Clock._fields[:3])
    panels = _panels(record, by) if by in record else {}
    if not panels:
        raise ValueError(f"there is nothing to draw by {by}: the record has no values for it")
    is_new = axes is None
    if axes is None:
        rows, columns = -(-len(panels) // 2), min(2, len(panels))
        _, grid = plt.subplots(
            rows,
            columns,
            figsize=(5.5 * columns, 2.8 * rows),
            sharex=True,
            squeeze=False,
            layout="constrained",
        )
        for ax in grid.flat[len(panels) :]:
            ax.set_visible(False)
        axes = dict(zip(panels, grid.flat, strict=False))
    for panel, ax in axes.items():
        names = panels.get(panel, ())
        for name in names:
            # the only line of a panel needs no name
            shown = name if len(names) > 1 else ""
            shown = f"{label} {shown}".strip()
            _draw_column(ax, record[by], record[name], panel, shown)
        ax.tick_params(labelbottom=True)
        ax.set_title(_TITLES.get(panel, panel), fontsize="medium")
        ax.set_xlabel(by)
        ax.grid(visible=True, alpha=0.3)
        if panel not in _EXACT:
            _set_scale(ax)
    first = next(iter(axes.values()))
    if "applied" in record:
        _mark_skipped(first, record[by][record["applied"] == 0.0], f"{label} skipped".strip())
    for ax in axes.values():
        if any(ax.get_legend_handles_labels()):
            ax.legend(fontsize="small")
    if path is not None:
        first.figure.savefig(path, dpi=120)
        if is_new:
            plt.close(first.figure)
    return dict(axes)


def _panels(record: Columns, by: Unit) -> dict[str, list[str]]:
    """The columns with values by panel: "loss/validation" is drawn where "loss" is."""
    panels: dict[str, list[str]] = {}
    for name in record:
        is_drawn = name not in (*Clock._fields[:3], "applied")
        if is_drawn and np.isfinite(record[name] + record[by]).any():
            panels.setdefault(name.partition("/")[0], []).append(name)
    return panels


def _draw_column(ax: Any, at: Array, values: Array, panel: str, label: str) -> None:
    rows = np.flatnonzero(np.isfinite(at) & np.isfinite(values))
    x, y = at[rows], values[rows]
    is_sparse = len(rows) == 1 or 2 * len(rows) < np.ptp(rows)
    if panel == "batch_size" and len(y) > _CROWDED:  # with a short batch in each epoch
        x, y = _around(x, y, np.median)
    if panel in _EXACT or is_sparse or len(y) < _SMOOTHED:
        ax.plot(x, y, marker="." if is_sparse else "", label=label or None)
        return
    (line,) = ax.plot(x, y, alpha=0.3, linewidth=0.8, zorder=1)
    ax.plot(*_around(x, y, np.mean), color=line.get_color(), label=label or None)


def _around(x: Array, y: Array, take: Callable[[Array], Any]) -> tuple[Array, Array]:
    """At some places what is taken of the fiftieth of all values around each."""
    half = len(y) // 100
    places = np.unique(np.linspace(0, len(y) - 1, _PLACES).astype(int))
    return x[places], np.array([take(y[max(0, i - half) : i + half + 1]) for i in places])


def _set_scale(ax: Any) -> None:
    if not ax.lines:
        return
    values = np.concatenate([np.ravel(line.get_ydata()) for line in ax.lines])
    if values.min() > 0.0 and values.max() > _DECADES * values.min():
        ax.set_yscale("log")


def _mark_skipped(ax: Any, at: Array, label: str) -> None:
    if len(at):
        place = ax.get_xaxis_transform()  # at the lower edge, whatever the scale
        ax.plot(at, np.zeros(len(at)), "|", color="red", transform=place, label=label)
