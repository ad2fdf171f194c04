"""Where arrays are, and how a step over them is run: `cpu` for NumPy, `cuda` for CuPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import cpu, cuda
from .protocol import Engine, Plan, StepInfo

__all__ = ["Engine", "Plan", "StepInfo", "engine_for"]


def engine_for(leaves: Sequence[Any]) -> Engine:
    """The engine for parameters; it tells which of them is in the wrong place."""
    if any(type(leaf).__module__.partition(".")[0] == "cupy" for leaf in leaves):
        return cuda
    return cpu
