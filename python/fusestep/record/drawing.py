"""Pictures of records."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arguments import check_choice
from ..clock import Clock, Unit
from .writing import Columns

Array = npt.NDArray[Any]

_TITLES = {
    "lr": "learning rate",
    "batch_size": "batch size",
    "grad_norm": "gradient norm",
    "noise_scale": "noise scale",
}
_EXACT = ("lr", "batch_size")  # not smoothed
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
    import matplotlib.pyplot as plt

    check_choice("by", by, Clock._fields[:3])
    panels = _panels(record)
    if by not in record or not panels:
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
            _draw_column(
                ax, record[by], record[name], f"{label} {shown}".strip(), panel not in _EXACT
            )
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


def _panels(record: Columns) -> dict[str, list[str]]:
    """The columns with values by panel: "loss/validation" is drawn where "loss" is."""
    panels: dict[str, list[str]] = {}
    for name in record:
        drawn = name not in (*Clock._fields[:3], "applied")
        if drawn and np.isfinite(record[name]).any():
            panels.setdefault(name.partition("/")[0], []).append(name)
    return panels


def _draw_column(ax: Any, at: Array, values: Array, label: str, is_noisy: bool) -> None:
    is_drawn = np.isfinite(at) & np.isfinite(values)
    x, y = at[is_drawn], values[is_drawn]
    window = len(y) // 50 if is_noisy else 0
    is_sparse = 2 * len(y) < len(values) or len(y) == 1
    marker = "." if is_sparse else ""
    if window < 2:
        ax.plot(x, y, marker=marker, label=label or None)
        return
    (line,) = ax.plot(x, y, alpha=0.3, linewidth=0.8, zorder=1)
    ax.plot(x, _mean_around(y, window), color=line.get_color(), label=label or None)


def _mean_around(values: Array, window: int) -> Array:
    """The mean of as many values around each; of fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    first, last = np.maximum(at - window // 2, 0), np.minimum(at + window // 2 + 1, len(values))
    means: Array = (sums[last] - sums[first]) / (last - first)
    return means


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
