"""The engine for NumPy arrays: checks and plans natively, holds the state arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .states import new_states

Array = npt.NDArray[Any]

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector


def build(
    rule: str,
    paths: Sequence[str],
    parameters: Sequence[Array],
    groups: Sequence[int],
    used: Sequence[int],
    table: npt.NDArray[np.float64],
    kept: Sequence[Mapping[str, Any]],
    containers: Sequence[_core.Entry],
) -> tuple[_core.CpuPlan, list[dict[str, Array]]]:
    """A plan over the parameters, and for each of them its state arrays by name.

    ``groups`` holds the row of ``table`` that each parameter follows, ``used`` how many state
    arrays each row asks for, ``kept`` those that each parameter has already, ``containers`` the
    dicts and lists that have the parameters. Raises TypeError or ValueError naming a parameter that
    cannot be updated in place.
    """
    parameters = list(parameters)
    _core.check_parameters(list(paths), parameters)
    states = new_states(rule, parameters, groups, used, zeros_like, kept)
    arrays = [list(state.values()) for state in states]
    plan = _core.CpuPlan(
        rule, list(paths), parameters, arrays, list(groups), table, list(containers)
    )
    return plan, states


def zeros_like(arrays: Sequence[Array]) -> list[Array]:
    """Zeros of the same shapes and dtypes, side by side in one allocation, each on a cache line."""
    starts, size = [], 0
    for array in arrays:
        starts.append(size)
        size += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % _ALIGNMENT
    return [
        memory[offset + start :][: array.nbytes].view(array.dtype).reshape(array.shape)
        for start, array in zip(starts, arrays, strict=True)
    ]


def to_numpy(array: Array) -> Array:
    """A copy, for a saved state."""
    return array.copy()


def assign(array: Array, values: Array) -> None:
    """Takes over values of a saved state."""
    array[...] = values
