"""Pictures of what trials found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .rates import RateRange

_WIDE, _HIGH = 7, 4


def draw_rates(found: RateRange, path: str | Path | None, ax: Any) -> Any:
    """The losses over the rates, as dots and smoothed, and the rates that were found."""
    ax = _axes(ax)
    ax.semilogx(found.rates, found.losses, ".", color="0.7", label="loss after the update")
    ax.semilogx(found.rates, found.smoothed, color="C0", label="smoothed")
    for name, rate, style in (
        ("suggestion", found.suggestion, "C3-"),
        ("steepest", found.steepest, "C2--"),
        ("minimum", found.minimum, "C1--"),
        ("a tenth of the minimum", found.a_tenth_of_minimum, "C1:"),
    ):
        if rate is not None:
            ax.plot([rate, rate], [0, 1], style, transform=ax.get_xaxis_transform())
            ax.lines[-1].set_label(f"{name}: {rate:.2g}")
    # what diverges would press all else flat
    shown = found.losses[: int(found.smoothed.argmin()) + 1]
    margin = 0.1 * (shown.max() - shown.min()) or 1.0
    ax.set_ylim(shown.min() - margin, shown.max() + margin)
    ax.set(xlabel="learning rate", ylabel="loss", title="Learning-rate range test")
    return _finished(ax, path)


def _axes(ax: Any) -> Any:
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(_WIDE, _HIGH), layout="constrained")[1] if ax is None else ax


def _finished(ax: Any, path: str | Path | None) -> Any:
    ax.grid(visible=True, alpha=0.3)
    ax.legend(fontsize="small", frameon=False)
    if path is not None:
        ax.figure.savefig(path, dpi=120)
    return ax
