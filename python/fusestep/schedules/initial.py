"""A first guess for the learning rate."""

from __future__ import annotations

from typing import Any

from .. import trees


def initial_lr(params: Any) -> float:
    """One over the square root of the number of parameters: where a search may begin.

    Args:
        params: arrays in any nesting of dict, list and tuple, or one array.

    Raises:
        ValueError: there is no element at all.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> fs.schedules.initial_lr({"w": np.zeros((30, 3)), "b": np.zeros(10)})
        0.1
    """
    _, leaves = trees.flatten(params)
    count = sum(leaf.size for leaf in leaves)
    if count == 0:
        raise ValueError("params must hold at least one element")
    return float(count**-0.5)
