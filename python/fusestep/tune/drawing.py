"""Pictures of what trials found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .noise import NoiseScale
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


def draw_noise(found: NoiseScale, path: str | Path | None, window: int | None, ax: Any) -> Any:
    """The noise scale in a moving window and in all steps, each with its interval."""
    steps = len(found.samples)
    window = max(2, steps // 5) if window is None else window
    # NaN, which is not drawn, where |G|^2 is not above 0
    scale, low, high = np.array(found.along(window), float).T
    ax = _axes(ax)
    from matplotlib import ticker

    at = np.arange(len(scale)) + (window + 1) / 2
    whole = found.noise_scale
    # where a window tells least, its interval leaves the picture
    shown = np.array([*scale, *low, *found.samples, np.nan if whole is None else whole])
    shown = shown[np.isfinite(shown) & (shown > 0.0)]
    bottom, top = shown.min() / 2, shown.max() * 5
    ax.fill_between(
        at, np.maximum(low, bottom), np.minimum(high, top), color="C0", alpha=0.2, linewidth=0
    )
    ax.semilogy(
        at, scale, color="C0", label=f"of {window} steps, {100 * found.confidence:g} % interval"
    )
    if whole is not None:
        begin, end = found.interval
        ax.axhspan(max(begin, bottom), min(end, top), color="C1", alpha=0.2, linewidth=0)
        label = f"of all {steps}: {whole:.3g} ({begin:.3g} to {end:.3g})"
        ax.axhline(whole, color="C1", label=label)
    ax.axhline(found.samples.mean(), color="0.5", linestyle=":", label="the batch that was used")
    ax.set_ylim(bottom, top)
    ax.yaxis.set_major_formatter(ticker.LogFormatter())
    ax.yaxis.set_minor_formatter(ticker.LogFormatter(minor_thresholds=(1, 0.4)))
    ax.set(xlabel="step", ylabel="samples", title="Gradient noise scale: the critical batch size")
    return _finished(ax, path)


def _axes(ax: Any) -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError(
            "pictures need matplotlib: pip install 'fusestep[plot]'", name="matplotlib"
        ) from None
    return plt.subplots(figsize=(_WIDE, _HIGH), layout="constrained")[1] if ax is None else ax


def _finished(ax: Any, path: str | Path | None) -> Any:
    ax.grid(visible=True, alpha=0.3)
    ax.legend(fontsize="small", frameon=False)
    if path is not None:
        ax.figure.savefig(path, dpi=120)
    return ax
