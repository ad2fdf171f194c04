"""What stands where an array should: gradients of other libraries, taken without a copy where that
can be done, and what to do about everything else."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, MappingView, Sequence, Set
from numbers import Number
from typing import Any

import numpy as np

from .rows import Rows, rows_of

_LIKE_A_LIST = (Set, MappingView, Iterator, deque)


def check_parameters(paths: Sequence[str], leaves: Sequence[Any]) -> None:
    """Raises TypeError, with what to do, for a leaf that is no array of NumPy or CuPy."""
    for path, leaf in zip(paths, leaves, strict=True):
        if not is_array(leaf):
            raise _refusal(where("params", path) + ":", leaf, _for_parameter(leaf))


def take_gradients(paths: Sequence[str], gradients: Sequence[Any]) -> list[Any] | None:
    """The gradients with those of other libraries as NumPy arrays in the same memory, or as rows.

    None if there are no such. Raises TypeError, with what to do, where a copy would be needed.
    """
    taken = list(gradients)
    for i, gradient in enumerate(gradients):
        if gradient is None or is_array(gradient) or isinstance(gradient, Rows):
            continue
        taken[i] = _view(gradient) if (rows := rows_of(gradient)) is None else rows
        if taken[i] is None:
            raise _refusal(where("params", paths[i]) + ": gradient", gradient, _copied(gradient))
    return None if all(a is b for a, b in zip(taken, gradients, strict=True)) else taken


def where(what: str, path: str) -> str:
    """How an error names the entry of a tree at a path."""
    return f"{what}[{path!r}]" if path else what


def advice(value: Any) -> str:
    """What to do about an iterable that is no container, as the end of a message."""
    return ": pass a list" if isinstance(value, _LIKE_A_LIST) else ""


def is_array(value: Any) -> bool:
    """Whether it is an array of NumPy, without a mask, or of CuPy."""
    if isinstance(value, np.ndarray):
        return not isinstance(value, np.ma.MaskedArray)
    return _library(value) == "cupy"


def _library(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def _view(value: Any) -> np.ndarray[Any, Any] | None:
    """A NumPy array over the memory of something else, or None."""
    try:
        if isinstance(value, (np.ndarray, np.generic)):
            return None
        if _library(value) == "torch":
            value = value.detach()
            if value.is_neg():  # of which neither DLPack nor NumPy knows
                return None
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        if not hasattr(value, "__array__") and not hasattr(value, "__array_interface__"):
            return np.asarray(memoryview(value))
        first, second = np.asarray(value), np.asarray(value)
    except Exception:  # whatever another library raises where it has no such memory
        return None
    return first if np.shares_memory(first, second) else None


def _refusal(what: str, value: Any, remedy: str) -> TypeError:
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return TypeError(f"{what} must be a numpy.ndarray, not {module}{kind.__qualname__}{remedy}")


def _for_parameter(value: Any) -> str:
    if value is None:
        return ": leave out what has no array"
    if _library(value) == "torch":
        return ": pass tensor.detach().numpy(), which has the memory of the tensor"
    if isinstance(value, np.ma.MaskedArray):
        return ": pass array.filled(...), which has no mask"
    if advice(value) or isinstance(value, (str, bytes)):
        return advice(value)
    return ": pass numpy.array(...), and keep that array, which the steps change"


def _copied(value: Any) -> str:
    if _library(value) == "torch":
        return ": pass tensor.detach().cpu().numpy()"
    if isinstance(value, np.ma.MaskedArray):
        return ": pass array.filled(0.0), or what masked elements are to count as"
    if isinstance(value, (Number, list, tuple)) or hasattr(value, "__array__"):
        return ": pass numpy.asarray(...)"
    return advice(value)
