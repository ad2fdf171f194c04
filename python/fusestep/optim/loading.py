"""Saved state from anywhere, read whole before anything is written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._core import StateError
from .restoring import Present, Restored, differing, is_same
from .saved import FORMAT, number_from_json, short

_MOST = 2**53 - 1  # updates: a clock's whole numbers are exact below 2^53
_LEAST_WEIGHT, _MOST_WEIGHT = 2.0**-53, 2.0**53  # of a micro-batch, in samples

_ACCUMULATED = ("samples", "micro_batches", "weighted_squared_norms", "gradients")


class Loaded(NamedTuple):
    """What a load did about parameters that are not the same here and in the state.

    Args:
        new: paths that the state does not have: their state begins anew.
        renamed: pairs of the saved path and the path here.
        unused: saved paths that are not here.
    """

    new: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    unused: tuple[str, ...]


class Reading:
    """A saved state in the form that an optimizer takes it over."""

    restored: Restored
    attempted: int
    applied: int
    updates: list[int]
    arrays: dict[tuple[str, str], Any]  # by path and name; where there is none, it begins anew
    totals: tuple[float, int, float]  # samples, micro-batches, weighted squared norms
    sums: dict[str, Any]  # accumulated gradients, by path
    loaded: Loaded

    def __init__(
        self,
        state: Any,
        form: Mapping[str, Any],
        settings: Present,
        parameters: Mapping[str, Any],
        *,
        written: Sequence[Any],
        keep: Collection[str],
        strict: bool,
        rename: Mapping[str, str],
    ) -> None:
        """Reads a state for an optimizer whose own has the given form.

        ``written`` is memory that its arrays must keep off. Raises StateError that names every
        difference.
        """
        self._form = form
        self._written = written
        self._parameters = parameters
        self._rename = rename
        self._found: list[str] = []
        try:
            if self._is_of_this_class(state):
                self.restored = Restored(state, settings, keep, strict, self._found)
                self._read_parameters(state["parameters"], strict)
                self._read_accumulated(state["accumulated"], strict)
                self._read_counts(state["attempted"], state["applied"])
        except MemoryError:
            raise
        except Exception as error:  # mappings and arrays of other classes may raise anything
            text = short(str(error))
            raise StateError(f"the state can't be read: {type(error).__name__}: {text}") from error
        if self._found:
            lines = ["the state does not fit this optimizer:", *self._found]
            raise StateError("\n  ".join(lines))

    def _is_of_this_class(self, state: Any) -> bool:
        if not isinstance(state, Mapping):
            given = type(state).__name__
            self._found.append(f"it must be a dict as state_dict() gives, not {given}")
            return False
        if not is_same(state.get("format", FORMAT), FORMAT):
            self._found.append(
                f"format: saved {short(state['format'])}, present {FORMAT}; load it with the "
                "version of fusestep that saved it"
            )
            return False
        self._found += [f"{name}: not saved" for name in self._form if name not in state]
        self._found += [f"{short(name)}: unknown" for name in state if name not in self._form]
        for name in ("class", "rule"):
            if name in state and not is_same(state[name], self._form[name]):
                self._found.append(
                    f"{name}: saved {short(state[name])}, present {self._form[name]!r}"
                )
        return not self._found

    def _read_parameters(self, saved: Any, strict: bool) -> None:
        if not isinstance(saved, Mapping):
            self._found.append(f"parameters: must be a dict, not {type(saved).__name__}")
            saved = {}
        self._saved_paths = set(saved)
        here = self._form["parameters"]
        self._found += [f"rename: {old!r} is not saved" for old in self._rename if old not in saved]
        self._found += [
            f"rename: {new!r} is not present" for new in self._rename.values() if new not in here
        ]
        counts = Counter(self._renamed(path) for path in saved)
        self._found += [
            f"rename: {count} saved parameters would be {path!r}"
            for path, count in counts.items()
            if count > 1
        ]
        there = {self._renamed(path): entry for path, entry in saved.items()}
        new = tuple(path for path in here if path not in there)
        unused = tuple(path for path in there if path not in here)
        self.loaded = Loaded(new, tuple(self._rename.items()), unused)
        self._updates: dict[str, Any] = {}
        self.arrays = {}
        for path in [*here, *unused]:
            where = _where(path)
            if path in there and not _is_entry(there[path]):
                self._found.append(
                    f"{where}: must be a dict with updates and state, not {short(there[path])}"
                )
            elif path in unused or path in new:
                if strict:
                    self._found.append(f"{where}: not {'saved' if path in new else 'present'}")
            else:
                self._updates[path] = there[path]["updates"]
                self._read_arrays(path, there[path]["state"], here[path]["state"])

    def _read_arrays(self, path: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
        if set(there) != set(here):
            names = (sorted(map(str, state)) for state in (there, here))
            self._found.append(differing(f"{_where(path)} state arrays", *names))
        for name, array in here.items():
            if name in there:
                what = f"{_where(path)} {name}"
                self.arrays[path, name] = self._read_array(what, there[name], array)

    def _read_array(self, what: str, there: Any, here: Any) -> Any:
        """A saved array as it can be copied from."""
        if type(there) not in (np.ndarray, np.memmap):
            given = type(there).__name__
            self._found.append(f"{what}: must be an array of NumPy, not {given}")
            return None
        for name in ("shape", "dtype"):
            a, b = getattr(there, name), getattr(here, name)
            if a != b:
                self._found.append(f"{what} {name}: saved {a}, present {b}")
        if any(np.may_share_memory(there, memory) for memory in self._written):
            self._found.append(f"{what}: is memory of this optimizer itself; pass a copy")
        return np.require(there, requirements=("C", "A"))

    def _read_counts(self, attempted: Any, applied: Any) -> None:
        counts = {"attempted": attempted, "applied": applied}
        counts.update({f"{_where(path)} updates": n for path, n in self._updates.items()})
        bad = [
            f"{name}: must be a whole number from 0 to 2^53 - 1, not {short(count)}"
            for name, count in counts.items()
            if not _is_count(count)
        ]
        self._found += bad
        if bad:
            return
        self.attempted, self.applied = attempted, applied
        self.updates = [self._updates.get(path, 0) for path in self._form["parameters"]]
        if applied > attempted:
            self._found.append(f"applied: {applied} is more than attempted, {attempted}")
        self._found += [
            f"{_where(path)} updates: {count} is more than applied, {applied}"
            for path, count in self._updates.items()
            if count > applied
        ]

    def _read_accumulated(self, saved: Any, strict: bool) -> None:
        if not isinstance(saved, Mapping) or set(saved) != set(_ACCUMULATED):
            names = ", ".join(_ACCUMULATED)
            self._found.append(f"accumulated: must be a dict of {names}, not {short(saved)}")
            return
        samples, count, squares, gradients = (saved[name] for name in _ACCUMULATED)
        squares = number_from_json(squares)  # not finite where a gradient was not
        bad = []
        if not _is_count(count):
            bad.append(
                f"micro_batches: must be a whole number from 0 to 2^53 - 1, not {short(count)}"
            )
        if not _is_number(samples) or not 0.0 <= samples < math.inf:
            bad.append(f"samples: must be finite and at least 0, not {short(samples)}")
        if (
            not _is_number(squares)
            or squares < 0.0
            or not (math.isfinite(squares) or isinstance(saved["weighted_squared_norms"], str))
        ):
            bad.append(f"weighted_squared_norms: must be at least 0, not {short(squares)}")
        if not isinstance(gradients, Mapping) or (strict and set(gradients) != self._saved_paths):
            bad.append("gradients: must be a dict with the paths of parameters")
        self._found += [f"accumulated {text}" for text in bad]
        if bad:
            return
        begun = {self._renamed(p): sum for p, sum in gradients.items() if sum is not None}
        few, many = count * _LEAST_WEIGHT, count * _MOST_WEIGHT
        if not few <= samples <= many or (not begun and squares != 0.0) or (begun and not count):
            self._found.append(
                f"accumulated: {count} micro-batches can't have {samples!r} samples, "
                f"{'' if begun else 'no '}gradients and weighted_squared_norms {squares!r}"
            )
        self.totals = float(samples), count, float(squares)
        self.sums = {
            path: self._read_array(f"{_where(path)} accumulated gradient", begun[path], parameter)
            for path, parameter in self._parameters.items()
            if path in begun
        }

    def _renamed(self, path: Any) -> Any:
        return self._rename.get(path, path)


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, Mapping)
        and set(entry) == {"updates", "state"}
        and isinstance(entry["state"], Mapping)
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST


def _is_number(value: Any) -> bool:
    # JSON may have written a float as a whole number
    return type(value) is float or (type(value) is int and abs(value) <= _MOST)


def _where(path: Any) -> str:
    return f"params[{path!r}]" if path != "" else "params"
