"""The engine for CuPy arrays: the same rules, compiled for the GPU, one launch for a model."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import _core
from ..states import Form, new_states
from .launcher import Launcher

_ALIGNMENT = 256  # bytes: what CuPy's own allocations have


def build(
    rule: str,
    paths: Sequence[str],
    parameters: Sequence[Any],
    groups: Sequence[int],
    used: Sequence[Collection[str]],
    table: npt.NDArray[np.float64],
    kept: Sequence[Mapping[str, Any]],
    containers: Sequence[_core.Entry],
    copies: Sequence[Any | None],
) -> tuple[_core.CudaPlan, list[dict[str, Any]]]:
    """What `fusestep.engines.cpu.build` does, for arrays of the current device."""
    cupy: Any = importlib.import_module("cupy")
    device = cupy.cuda.Device().id
    kind = (cupy.ndarray, device)
    parameters = list(parameters)
    _core.check_device_parameters(*kind, list(paths), parameters)
    states = new_states(rule, parameters, groups, used, zeros, kept)
    plan = _core.CudaPlan(
        functools.partial(Launcher, cupy, device),
        *kind,
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


def zeros_like(arrays: Sequence[Any]) -> list[Any]:
    """Zeros of the same shapes and dtypes, as `zeros` makes them."""
    return zeros([(array.shape, array.dtype) for array in arrays])


def zeros(forms: Sequence[Form]) -> list[Any]:
    """Arrays of these shapes and dtypes, side by side in one allocation."""
    cupy: Any = importlib.import_module("cupy")
    starts, sizes, size = [], [], 0
    for shape, dtype in forms:
        starts.append(size)
        sizes.append(math.prod(shape) * dtype.itemsize)
        size += -(-sizes[-1] // _ALIGNMENT) * _ALIGNMENT
    memory = cupy.zeros(size, np.uint8)
    return [
        memory[start : start + nbytes].view(dtype).reshape(shape)
        for start, nbytes, (shape, dtype) in zip(starts, sizes, forms, strict=True)
    ]


def to_numpy(array: Any) -> npt.NDArray[Any]:
    """A copy, for a saved state."""
    copy: npt.NDArray[Any] = array.get()
    return copy
