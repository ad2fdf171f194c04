"""The state arrays of parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import _core


def new_states(
    rule: str,
    parameters: Sequence[Any],
    groups: Sequence[int],
    used: Sequence[int],
    zeros_like: Callable[[Sequence[Any]], Sequence[Any]],
    kept: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """For each parameter its state arrays by name; those of one name side by side.

    ``groups`` holds the group of each parameter, ``used`` how many state arrays each group asks
    for, ``kept`` those that each parameter has already.
    """
    _, names = _core.rules()[rule]
    states = [dict(arrays) for arrays in kept]
    for k, name in enumerate(names):
        owners = [i for i, group in enumerate(groups) if k < used[group] and name not in states[i]]
        for i, array in zip(owners, zeros_like([parameters[i] for i in owners]), strict=True):
            states[i][name] = array
    return states
