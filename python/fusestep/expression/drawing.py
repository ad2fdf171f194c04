"""Pictures of expressions."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments import check_choice, check_positive
from ..clock import Clock, Unit
from .traversal import walk

_POINTS = 2000
_LONGEST_LABEL = 200


def pyplot() -> Any:
    """That of matplotlib; ImportError names the extra."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError(
            "pictures need matplotlib: pip install 'fusestep[plot]'", name="matplotlib"
        ) from None
    return plt


def draw(expression: Any, stop: float, *, by: Unit, ax: Any, label: str) -> Any:
    """Draws an expression over [0, stop] in the unit of ``by``; returns the axes."""
    plt = pyplot()
    stop = check_positive("stop", stop)
    check_choice("by", by, Clock._fields[:3])
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    # whole steps among them where there are few, and only those for a Python function
    pieces = int(stop) * max(1, _POINTS // int(stop)) if 1 <= stop <= _POINTS else _POINTS
    times = np.linspace(0.0, stop, pieces + 1)
    if by == "step" and any(node._kind == "function" for node in walk(expression)):
        times = np.floor(times)
    inputs = {**dict.fromkeys(Clock._fields, 1.0), by: times}
    values = np.broadcast_to(expression(**inputs), times.shape)
    if len(label) > _LONGEST_LABEL:
        label = label[:_LONGEST_LABEL] + "..."
    ax.plot(times, values, label=label)
    ax.set_xlabel(by)
    ax.set_xlim(0.0, stop)
    ax.grid(visible=True, alpha=0.3)
    ax.legend(fontsize="small")
    return ax
