"""The engine for NumPy arrays: checks and plans natively, holds the state arrays."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .states import Form, new_states

Array = npt.NDArray[Any]

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector


def build(
    rule: str,
    paths: Sequence[str],
    parameters: Sequence[Array],
    groups: Sequence[int],
    used: Sequence[Collection[str]],
    table: npt.NDArray[np.float64],
    kept: Sequence[Mapping[str, Any]],
    containers: Sequence[_core.Entry],
    copies: Sequence[Array | None],
) -> tuple[_core.CpuPlan, list[dict[str, Array]]]:
    """A plan over the parameters, and for each of them its state arrays by name.

    ``groups`` holds the row of ``table`` that each parameter follows, ``used`` the names of the
    state arrays that each row asks for, ``kept`` the arrays that each parameter has already,
    ``containers`` the dicts and lists that have the parameters, ``copies`` an array or None for
    each parameter, or nothing. Raises TypeError or ValueError
    naming a parameter that cannot be updated in place.
    """
    parameters = list(parameters)
    _core.check_parameters(list(paths), parameters)
    states = new_states(rule, parameters, groups, used, zeros, kept)
    plan = _core.CpuPlan(
        rule,
        list(paths),
        parameters,
        states,
        list(groups),
        table,
        list(containers),
        list(copies),
    )
    return plan, states


def zeros_like(arrays: Sequence[Array]) -> list[Array]:
    """Zeros of the same shapes and dtypes, as `zeros` makes them."""
    return zeros([(array.shape, array.dtype) for array in arrays])


def zeros(forms: Sequence[Form]) -> list[Array]:
    """Arrays of these shapes and dtypes, side by side in one allocation, each on a cache line."""
    starts, sizes, size = [], [], 0
    for shape, dtype in forms:
        starts.append(size)
        sizes.append(math.prod(shape) * dtype.itemsize)
        size += -(-sizes[-1] // _ALIGNMENT) * _ALIGNMENT
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % _ALIGNMENT
    return [
        memory[offset + start :][:nbytes].view(dtype).reshape(shape)
        for start, nbytes, (shape, dtype) in zip(starts, sizes, forms, strict=True)
    ]


def to_numpy(array: Array) -> Array:
    """A copy, for a saved state."""
    return array.copy()
