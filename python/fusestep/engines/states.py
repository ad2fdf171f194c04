"""The state arrays of parameters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from .. import _core

Form: TypeAlias = tuple[tuple[int, ...], np.dtype[Any]]  # shape and dtype of an array

_RULES = _core.rules()  # which builds it anew in each call


def new_states(
    rule: str,
    parameters: Sequence[Any],
    groups: Sequence[int],
    used: Sequence[Collection[str]],
    zeros: Callable[[Sequence[Form]], Sequence[Any]],
    kept: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """For each parameter its state arrays by name; those of one name side by side.

    ``groups`` holds the group of each parameter, ``used`` the names of the state arrays that each
    group asks for, ``kept`` the arrays that each parameter has already.
    """
    states = [dict(arrays) for arrays in kept]
    for name, _, in_double, extent in _RULES[rule].states:
        owners = [
            i for i, group in enumerate(groups) if name in used[group] and name not in states[i]
        ]
        forms = [
            (_shape(extent, p.shape), np.dtype(np.float64) if in_double else p.dtype)
            for p in (parameters[i] for i in owners)
        ]
        first = first_value(rule, name)
        for i, array in zip(owners, zeros(forms), strict=True):
            if first != 0:
                array[...] = parameters[i] if first is None else first
            states[i][name] = array
    return states


def first_value(rule: str, name: str) -> float | None:
    """What a state array holds before the first update; None for the parameter's own elements."""
    return next(state[1] for state in _RULES[rule].states if state[0] == name)


def _shape(extent: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a state array for a parameter of that shape; with fewer than two axes each element is a
    row of its own, and all are one column."""
    has_rows = len(shape) >= 2
    if extent == "tensor" or (extent == "column" and not has_rows):
        return ()
    if extent == "row" and has_rows:
        return shape[:-1]
    return (*shape[:-2], shape[-1]) if extent == "column" else shape
