"""A nesting of dicts and lists as a plain dict of its arrays and one JSON value, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import ExitStack
from numbers import Integral, Real
from typing import Any

import numpy as np

from .. import foreign
from ..optim.saved import Saved
from ..saved_state import differences, short
from .form import CheckpointError, code_of, from_json

# keys of what stands in JSON for an array, with its name, and for an object, with its state
ARRAY, STATE = "fusestep.array", "fusestep.state"
_LARGEST = 10**4300  # Python reads no longer number
_DEEPEST = 40  # and reading goes a little deeper


def flatten(state: Any) -> tuple[dict[str, Any], str]:
    """The arrays of a state as a plain dict, and the rest of it as JSON: for formats of one's own.

    Args:
        state: what a ``state_dict`` gave, or any nesting of dicts and lists of arrays and JSON
            values. Tuples come back as lists.

    Returns:
        ``arrays``, the arrays themselves by their paths, as in "parameters/w/state/m"; and
        ``text``, JSON in ASCII, where each array is its path.

    Raises:
        StateError: names all that is neither an array nor a JSON value, and numbers that are not
            finite, by their paths.

    Examples:
        NumPy's npz, with nothing that must be unpickled:

        >>> import io, numpy as np, fusestep as fs
        >>> opt = fs.AdamW({"w": np.ones(2)}, lr=0.1)
        >>> file = io.BytesIO()
        >>> arrays, text = fs.checkpoint.flatten(opt.state_dict())
        >>> np.savez(file, **arrays, json=np.array(text))
        >>> sorted(arrays)
        ['parameters/w/state/m', 'parameters/w/state/v']
        >>> _ = file.seek(0)
        >>> with np.load(file, allow_pickle=False) as saved:
        ...     arrays = {name: saved[name] for name in saved.files if name != "json"}
        ...     state = fs.checkpoint.unflatten(arrays, saved["json"].item())
        >>> opt.load_state_dict(state)
        Loaded(new=(), renamed=(), unused=())

        HDF5, where paths become groups::

            with h5py.File("run.h5", "w") as file:
                file["json"] = text
                for name, array in arrays.items():
                    file["arrays/" + name] = array
            with h5py.File("run.h5") as file:
                text, entries = file["json"].asstr()[()], {}
                file["arrays"].visititems(lambda name, entry: entries.update({name: entry}))
                arrays = {n: e[()] for n, e in entries.items() if isinstance(e, h5py.Dataset)}
            state = fs.checkpoint.unflatten(arrays, text)

        Zarr 3::

            group = zarr.open_group("run.zarr", mode="w", attributes={"json": text})
            for name, array in arrays.items():
                group.create_array(name, data=array)
            group = zarr.open_group("run.zarr", mode="r")
            arrays = {name: entry[...] for name, entry in group.members(max_depth=None)
                      if isinstance(entry, zarr.Array)}
            state = fs.checkpoint.unflatten(arrays, group.attrs["json"])
    """
    with differences("JSON and arrays") as found:
        flattened = Flattened(found)
        value = flattened.of(state, "")
    return flattened.arrays, json.dumps(value, allow_nan=False)


def unflatten(arrays: Mapping[str, Any], text: str) -> Any:
    """The state that `flatten` took apart, with the arrays that are given here.

    Raises:
        CheckpointError: the text is no such JSON, or an array is missing. It is a StateError.
    """
    return nested(from_json(text), arrays)


class Flattened:
    """Takes nestings apart: the arrays by name, and what does not fit in a list.

    Objects with ``state_dict`` and ``load_state_dict`` may stand in a nesting where there is
    ``held``, which keeps the state of an optimizer as it is without copying it.
    """

    def __init__(self, found: list[str], held: ExitStack | None = None) -> None:
        self.arrays: dict[str, Any] = {}
        self._found = found
        self._held = held

    def of(self, value: Any, path: str, depth: int = 0) -> Any:
        """The JSON value for a value; its arrays are added."""
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, np.bool_):
            return bool(value)
        if foreign.is_array(value):
            return {ARRAY: self.add(path, value)}
        if depth > _DEEPEST:
            return self._refuse(path, "is nested too deeply")
        if self._held is not None and has_state(value):
            return {STATE: self.of(state_of(value, self._held), path, depth + 1)}
        if isinstance(value, Mapping):
            return self._of_entries(value, path, depth)
        if isinstance(value, (list, tuple)):
            return [self.of(v, _within(path, i), depth + 1) for i, v in enumerate(value)]
        if isinstance(value, Integral):
            if abs(int(value)) < _LARGEST:
                return int(value)
            return self._refuse(path, "has more digits than are read again")
        if isinstance(value, Real):
            if math.isfinite(value):
                return float(value)
            return self._refuse(path, f'must be finite: save "{value}" as text, or None')
        return self._refuse(path, f"must be an array or a JSON value, not {short(value)}")

    def add(self, name: str, array: Any) -> str:
        """Adds an array under a name, if it can be saved under it."""
        if code_of(array.dtype) is None:
            self._refuse(name, f"arrays of {array.dtype} can't be saved: {_instead(array.dtype)}")
        if name in self.arrays:
            self._refuse(name, "is the path of two arrays; rename one of the keys")
        try:
            name.encode()
        except UnicodeEncodeError:
            self._refuse(ascii(name), "has a name that is no text")
        self.arrays[name] = array
        return name

    def _of_entries(self, value: Mapping[Any, Any], path: str, depth: int) -> Any:
        entries = {}
        for key, entry in value.items():
            if not isinstance(key, str):
                self._refuse(path, f"names must be text, not {short(key)}")
            elif key in (ARRAY, STATE):
                self._refuse(path, f"the name {key!r} has a meaning of its own; use another")
            else:
                entries[key] = self.of(entry, _within(path, key), depth + 1)
        return entries

    def _refuse(self, path: str, text: str) -> None:
        self._found.append(f"{path}: {text}" if path else f"it {text}")


def nested(value: Any, arrays: Mapping[str, Any]) -> Any:
    """The nesting that a JSON value stands for, with the states of objects in their place."""
    if isinstance(value, list):
        return [nested(entry, arrays) for entry in value]
    if not isinstance(value, dict):
        return value
    if len(value) > 1 and (ARRAY in value or STATE in value):
        raise CheckpointError(f"an array or a state has names beside it: {short(list(value))}")
    if ARRAY in value:
        return array_of(value, arrays)
    if STATE in value:
        return nested(value[STATE], arrays)
    return {key: nested(entry, arrays) for key, entry in value.items()}


def array_of(value: Any, arrays: Mapping[str, Any]) -> Any:
    """The array that a JSON value stands for."""
    name = value[ARRAY]
    if not isinstance(name, str) or name not in arrays:
        raise CheckpointError(f"there is no array {short(name)}")
    found = arrays[name]
    return np.asarray(found) if isinstance(found, np.generic) else found  # HDF5 has no shape ()


def has_state(value: Any) -> bool:
    """Whether it is an object that can save its state and go on from it."""
    return not isinstance(value, type) and all(
        callable(getattr(value, name, None)) for name in ("state_dict", "load_state_dict")
    )


def state_of(value: Any, held: ExitStack) -> Any:
    """The state of an object; of an optimizer without copies, and no step is taken meanwhile."""
    if isinstance(value, Saved) and type(value).state_dict is Saved.state_dict:
        return held.enter_context(value._state_in_place())
    return value.state_dict()


def _within(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)


def _instead(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "c":
        return "save their real and imaginary parts"
    if not dtype.isnative:
        return "save array.astype(array.dtype.newbyteorder())"
    return "numbers of at most 64 bits and truth values can"
