"""Pictures from the command line: ``python -m fusestep plot``."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .clock import Unit
from .expression import parse

# every curve as text, drawn over 120 steps
GALLERY = {
    "constant": "constant(1)",
    "linear": "linear(start=1, end=0.2, length=100)",
    "polynomial": "polynomial(start=1, length=100, power=2)",
    "cosine": "cosine(start=1, end=0.1, length=100)",
    "tanh": "tanh(start=1, end=0, length=100)",
    "rex": "rex(start=1, end=0, length=100)",
    "exponential": "exponential(start=1, rate=0.5, every=20)",
    "inverse_time": "inverse_time(start=1, timescale=20)",
    "inverse_offset": "inverse_offset(start=1, offset=0.8)",
    "inverse_sqrt": "inverse_sqrt(peak=1, timescale=20)",
    "noam": "noam(dim=1, warmup=20)",
    "power": "power(scale=4, exponent=-0.5, cap=1)",
    "step": "step(start=1, factor=0.5, every=30)",
    "multistep": "multistep(start=1, factor=0.3, at=[40, 80])",
    "staircase_linear": "staircase_linear(start=1, fraction=0.8, every=20, length=100)",
    "piecewise": "piecewise([0.2, 1.0, 0.5], at=[20, 70])",
    "interpolate": "interpolate([[0, 0.1], [30, 1], [60, 0.6], [100, 0.1]], kind='cosine')",
    "table": "table([0.2, 0.5, 0.3, 0.7, 0.4, 1]).repeated(40)",
    "sequence": "sequence([linear(0, 1, length=30), cosine(1, length=60)], at=[30])",
    "cosine_restarts": "cosine_restarts(start=1, length=15, t_mult=2, factor=0.8)",
    "one_cycle": "one_cycle(peak=1, total=100)",
    "cyclic": "cyclic(low=0.1, high=1, up=15, mode='triangular2')",
    "random": "random(low=0.2, high=1, every=5) * inverse_time(start=1, timescale=60)",
    "warmup": "warmup(20, shape='cosine') * exponential(start=1, rate=0.5, every=40)",
    "warmup_cosine": "warmup_cosine(peak=1, warmup=20, total=100)",
    "warmup_linear": "warmup_linear(peak=1, warmup=20, total=100)",
    "warmup_constant": "warmup_constant(peak=1, warmup=20)",
    "gradual_warmup": "gradual_warmup(base=0.125, factor=8, length=40)",
    "ademamix_alpha": "ademamix_alpha(alpha=5, length=100)",
    "ademamix_beta3": "ademamix_beta3(beta1=0.9, beta3=0.9999, length=100)",
    "wsd": "wsd(peak=1, warmup=15, stable=60, decay=30, shape='1-sqrt')",
}
_STEPS = 120
_COLUMNS = 5


def plot(texts: Sequence[str], steps: float, by: Unit, out: Path) -> int:
    """Draws expressions into one picture."""
    ax: Any = None
    for text in texts:
        ax = parse(text).plot(steps, by=by, ax=ax, label=text)
    return _save(ax.figure, out)


def plot_all(out: Path) -> int:
    """Draws every curve, each in a picture of its own."""
    import matplotlib.pyplot as plt

    rows = -(-len(GALLERY) // _COLUMNS)
    figure, axes = plt.subplots(
        rows, _COLUMNS, figsize=(4 * _COLUMNS, 2.6 * rows), layout="constrained"
    )
    for ax, (name, text) in zip(axes.flat, GALLERY.items(), strict=False):
        parse(text).plot(_STEPS, ax=ax, label=text)
        ax.get_legend().remove()
        ax.set_title(name, fontsize="medium", fontweight="bold")
        ax.set_xlabel(textwrap.fill(text, 50), fontsize="x-small")
        highest = ax.get_ylim()[1]
        ax.set_ylim(-0.05 * highest, highest)
    for ax in axes.flat[len(GALLERY) :]:
        ax.set_visible(False)
    return _save(figure, out)


def _save(figure: Any, out: Path) -> int:
    import matplotlib.pyplot as plt

    figure.savefig(out, dpi=120)
    plt.close(figure)
    print(f"wrote {out}")
    return 0
