"""Pictures of what trials found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any, TypeAlias

import numpy as np

from ..expression.drawing import pyplot

Path: TypeAlias = "str | PathLike[str] | None"


@contextmanager
def _picture(ax: Any, path: Path) -> Iterator[Any]:
    """Axes to draw into, given or new, which are then finished and written."""
    plt = pyplot()
    is_new = ax is None
    if is_new:
        _, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    yield ax
    ax.grid(visible=True, alpha=0.3)
    ax.legend(fontsize="small", frameon=False)
    if path is not None:
        ax.figure.savefig(path, dpi=120)
        if is_new:
            plt.close(ax.figure)


def draw_rates(found: Any, path: Path, ax: Any) -> Any:
    """Of a `RateRange`: the losses over the rates, as dots and smoothed, and the rates found."""
    with _picture(ax, path) as ax:
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
    return ax


def draw_noise(found: Any, path: Path, window: int | None, ax: Any) -> Any:
    """Of a `NoiseScale`: it in a moving window and in all steps, each with its interval."""
    steps, whole = len(found.samples), found.noise_scale
    window = max(2, steps // 5) if window is None else window
    # NaN, which is not drawn, where |G|^2 is not above 0
    scale, low, high = np.array(found.along(window), float).T
    at = np.arange(len(scale)) + (window + 1) / 2
    # where a window tells least, its interval leaves the picture
    shown = np.array([*scale, *low, *found.samples, np.nan if whole is None else whole])
    shown = shown[np.isfinite(shown) & (shown > 0.0)]
    bottom, top = shown.min() / 2, shown.max() * 5
    with _picture(ax, path) as ax:
        from matplotlib import ticker

        ax.fill_between(
            at, np.maximum(low, bottom), np.minimum(high, top), color="C0", alpha=0.2, linewidth=0
        )
        label = f"of {window} steps, {100 * found.confidence:g} % interval"
        ax.semilogy(at, scale, color="C0", label=label)
        if whole is not None:
            begin, end = found.interval
            ax.axhspan(max(begin, bottom), min(end, top), color="C1", alpha=0.2, linewidth=0)
            label = f"of all {steps}: {whole:.3g} ({begin:.3g} to {end:.3g})"
            ax.axhline(whole, color="C1", label=label)
        used = found.samples.mean()
        ax.axhline(used, color="0.5", linestyle=":", label="the batch that was used")
        ax.set_ylim(bottom, top)
        ax.yaxis.set_major_formatter(ticker.LogFormatter())
        ax.yaxis.set_minor_formatter(ticker.LogFormatter(minor_thresholds=(1, 0.4)))
        title = "Gradient noise scale: the critical batch size"
        ax.set(xlabel="step", ylabel="samples", title=title)
    return ax
