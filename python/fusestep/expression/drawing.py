"""Pictures of expressions."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments import check_choice, check_positive
from ..clock import Clock

_POINTS = 2000


def draw(expression: Any, stop: float, *, by: str, ax: Any, label: str) -> Any:
    """Draws an expression over [0, stop] in the unit of ``by``; returns the axes."""
    import matplotlib.pyplot as plt

    stop = check_positive("stop", stop)
    check_choice("by", by, Clock._fields[:3])
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    # every step where there are few; otherwise points close enough for the eye
    if by == "step" and stop <= _POINTS:
        times = np.arange(int(stop) + 1, dtype=np.float64)
    else:
        times = np.linspace(0.0, stop, _POINTS + 1)
        times = np.floor(times) if by != "epoch" else times
    inputs = {**dict.fromkeys(Clock._fields, 1.0), by: times}
    values = np.broadcast_to(expression(**inputs), times.shape)
    ax.plot(times, values, label=label)
    ax.set_xlabel(by)
    ax.set_xlim(0.0, stop)
    ax.grid(visible=True, alpha=0.3)
    ax.legend(fontsize="small")
    return ax
