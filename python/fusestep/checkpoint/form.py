"""The form of a file: safetensors, with what is no array as JSON in its metadata.

A file is 8 bytes with the length of the header, the header, and the arrays one after the other. The
header is JSON: under ``__metadata__`` a checksum and the contents, then for each array its name,
dtype, shape and place. The contents are::

    {"format": 1, "fusestep": "0.1.0", "step": 300,
     "params": [{"path": "w", "dtype": "F32", "shape": [3, 4]}, ...], "begin": 0, "end": 12,
     "parts": {"optimizer": ..., "loader": ..., "extra": ...}}

``params`` lists all parameters of the model in their order, which makes one index space of their
elements; the file holds those from ``begin`` to before ``end``, which are all of them where one
process works alone; `ranges` says how several files go together. A parameter that is partly in this
range has its part without its shape.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from .. import _core
from .._core import StateError

FORMAT = 1
# the header begins with the checksum, which stands for itself as zeros
PREFIX = b'{"__metadata__":{"xxh3_128":"'
DIGITS = 32
DIGEST = slice(8 + len(PREFIX), 8 + len(PREFIX) + DIGITS)  # its place in the file

LARGEST_HEADER = 100_000_000  # bytes, as in safetensors

_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    # of ml_dtypes
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
}
_NAMES = {code: name for name, code in _DTYPES.items()}


class CheckpointError(StateError):
    """A file that is no whole checkpoint: cut off, damaged, of something else."""


def needed(module: str) -> Any:
    """A module of the extra ``checkpoint``."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"checkpoints need {module}: pip install 'fusestep[checkpoint]'"
        ) from error


@cache
def code_of(dtype: np.dtype[Any]) -> str | None:
    """What safetensors calls a dtype; None for one that it does not have."""
    is_little = dtype == dtype.newbyteorder("<")
    return _DTYPES.get(dtype.name) if is_little else None


def dtype_of(code: str) -> np.dtype[Any]:
    """Raises CheckpointError for a dtype that NumPy does not have."""
    name = _NAMES.get(code)
    if name is None:
        raise CheckpointError(f"an array has the dtype {code}, which NumPy does not have")
    try:
        return np.dtype(name)
    except TypeError:
        dtype: np.dtype[Any] = np.dtype(getattr(needed("ml_dtypes"), name))
        return dtype


def name_of(path: str) -> str:
    """The name of a parameter's array in a file."""
    return f"params/{path}" if path else "params"


def header(contents: Mapping[str, Any], arrays: Mapping[str, Any]) -> bytes:
    """Length and header of a file with these arrays, in this order; the checksum is zeros."""
    whole = {
        "format": FORMAT,
        "fusestep": str(_core.build_info()["version"]),
        **contents,
    }
    metadata = {"xxh3_128": "0" * DIGITS, "fusestep": _to_json(whole)}
    entries: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        entries[name] = {
            "dtype": code_of(array.dtype),
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = _to_json(entries).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LARGEST_HEADER:
        raise ValueError(
            f"what is no array takes {len(text):,} bytes as JSON, and may take {LARGEST_HEADER:,}: "
            "save long lists of numbers as arrays"
        )
    return len(text).to_bytes(8, "little") + text


def _to_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def from_json(text: str | bytes) -> Any:
    """Raises CheckpointError for what is no JSON, and for names twice, NaN and infinities."""
    try:
        return json.loads(
            text, object_pairs_hook=_entries, parse_float=_finite, parse_constant=_finite
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"it holds no JSON: {error}") from None


def _entries(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a name stands twice in it")
    return entries


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text} is no finite number")
    return float(text)
