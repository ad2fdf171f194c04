"""Saved state of an optimizer from anywhere, read whole before anything is written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from .. import _core
from .._core import StateError
from ..expression import Expression, from_json
from ..expression.writing import is_saved, saved
from ..memory import Changes
from ..saved_state import (
    anything,
    array,
    choice,
    dict_of,
    differences,
    fields,
    list_of,
    number,
    optional,
    read,
    same,
    short,
    text,
    whole,
    within,
)
from .expressions import controls_of
from .fields import is_scheduled
from .formats import FORMAT, older
from .settings import Place, Settings

_NONFINITE = ("propagate", "skip", "raise")
_WEIGHTS = 2.0**-53, 2.0**53  # of a micro-batch, in samples: the least and the most
_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}  # which JSON has no numbers for


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


class Request(NamedTuple):
    """What ``load_state_dict`` was asked for, and the optimizer's own state in the saved form."""

    present: Mapping[str, Any]
    settings: Settings
    parameters: Mapping[str, Any]
    written: Sequence[Any]  # memory that saved arrays must keep off
    keep: Collection[str]
    strict: bool
    rename: Mapping[str, str]


class Reading:
    """A saved state in the form that an optimizer takes it over.

    Raises StateError that names every difference.
    """

    settings: dict[Place, Any]  # all of them, changed or not
    nonfinite: str
    changes: Changes  # of controls
    replaced: list[str]  # what the user should be told of
    attempted: int
    applied: int
    updates: list[int]
    values: list[list[float]]  # that updates hand on
    arrays: dict[tuple[str, str], Any]  # by path and name; where there is none, it begins anew
    totals: tuple[float, int, float]  # samples, micro-batches, weighted squared norms
    sums: dict[str, Any]  # accumulated gradients, by path
    loaded: Loaded

    def __init__(self, state: Any, request: Request) -> None:
        self._request = request
        self.settings, self.changes, self.replaced, self.arrays = {}, [], [], {}
        self._counts: dict[str, int] = {}  # updates, by path
        self._memories: dict[int, tuple[Place, Any]] = {}  # by control: where it stands, its own
        present = request.present
        forms = {
            **dict.fromkeys(present, anything),
            "parameters": dict_of(anything),
            "class": same(present["class"]),
            "rule": same(present["rule"]),
            "nonfinite": anything if "nonfinite" in request.keep else choice(_NONFINITE),
            "control": dict_of(list_of(anything)),
            "attempted": whole(),
            "applied": whole(),
        }
        del forms["format"]
        with differences("this optimizer") as found:
            self._found = found
            earlier = older(request.settings.rule.fields)
            values = read(state, fields(forms), found, version=FORMAT, older=earlier)
            if not {"class", "rule"} <= values.keys():
                return
            if {"settings", "groups", "control"} <= values.keys():
                self._read_settings(values["settings"], values["groups"], values["control"])
            kept = present if "nonfinite" in request.keep else values
            self.nonfinite = kept.get("nonfinite", "")
            if {"parameters", "accumulated"} <= values.keys():
                self._read_parameters(values["parameters"])
                self._read_accumulated(values["accumulated"], values["parameters"])
            if {"attempted", "applied"} <= values.keys():
                self._read_counts(values["attempted"], values["applied"])

    # settings

    def _read_settings(self, there: Any, groups: Any, control: dict[str, list[Any]]) -> None:
        """Takes over saved settings and what their controls remember."""
        settings, found = self._request.settings, self._found
        one = fields({"match": optional(list_of(text)), "settings": dict_of(anything)})
        before = len(found)
        there = fields(dict.fromkeys(settings.rule.fields, anything))(there, "settings", found)
        groups = list_of(one)(groups, "groups", found)
        if len(found) > before:
            return
        known = settings.rule.group_names
        found += [
            f"{within(f'groups[{g}].settings', name)}: unknown"
            for g, group in enumerate(groups)
            for name in group["settings"]
            if name not in known
        ]
        if len(found) > before:
            return
        matched = self._matched(groups)
        saved_at = {Place(name): Place(name) for name in there}
        for g, at in enumerate(matched):
            if at is not None:
                for name in groups[at]["settings"]:
                    saved_at[Place(name, g)] = Place(name, at)
        self._compare_fixed(there, groups, matched)
        kept = self._kept_settings(matched)
        shared = {id(c) for value in kept.values() for c in controls_of(value)}
        for place, origin in saved_at.items():
            own = there if origin.group is None else groups[origin.group]["settings"]
            memories = control.pop(str(origin), [])
            if place.name not in self._request.keep and not settings.is_fixed(place.name):
                self._restore(place, own[place.name], memories, shared)
        self.settings.update(kept)
        passed_over = {
            str(Place(name, g)) for name in self._request.keep for g in range(len(groups))
        }
        found += [
            f"control: nothing follows the loss in {short(where)}"
            for where in control
            if self._request.strict and where not in passed_over
        ]

    def _matched(self, groups: Sequence[Mapping[str, Any]]) -> list[int | None]:
        """The saved group of each group here; None for one that was not saved."""
        there, here = _patterns(groups), _patterns(self._request.present["groups"])
        if self._request.strict and there != here:
            names = ([match and list(match) for match, _ in keys] for keys in (there, here))
            saved, present = map(short, names)
            self._found.append(f"groups: saved {saved}, present {present}")
        return [there.index(key) if key in there else None for key in here]

    def _kept_settings(self, matched: Sequence[int | None]) -> dict[Place, Any]:
        """Present values that stay: fixed ones, those to keep, those of new groups."""
        settings = self._request.settings
        return {
            place: value
            for place, value in settings.values.items()
            if place.name in self._request.keep
            or settings.is_fixed(place.name)
            or (place.group is not None and matched[place.group] is None)
        }

    def _restore(
        self, place: Place, value: Any, memories: list[Any], shared: Collection[int]
    ) -> None:
        """Takes over one saved value, and what its controls remember unless they are kept."""
        settings, found = self._request.settings, self._found
        present = settings.values.get(place)
        try:
            restored = settings.checked(place.name, restored_value(value, present))
        except MemoryError:
            raise
        except Exception as error:  # a saved expression may be anything
            message = _blamed(str(place), error)
            found.append(f"{message}; keep=({place.name!r},) keeps the present one")
            return
        self.settings[place] = restored
        if is_scheduled(present) and as_json(present) != value:
            self.replaced.append(
                f"{place}: the saved {short(restored)} takes the place of {short(present)}; "
                f"load_state_dict(state, keep=({place.name!r},)) keeps the present one"
            )
        held = list(controls_of(restored))
        if len(memories) != len(held):
            found.append(f"{place}: has {len(held)} controls, and {len(memories)} states are saved")
            return
        for one, memory in zip(held, memories, strict=True):
            if id(one) in shared:
                continue
            if id(one) in self._memories:
                other, known = self._memories[id(one)]
                if known != memory:
                    found.append(f"{other} and {place} share a control, which is saved twice")
                continue
            self._memories[id(one)] = place, memory
            self.changes += one._restoring(memory, str(place), found)

    def _compare_fixed(
        self,
        there: Mapping[str, Any],
        groups: Sequence[Mapping[str, Any]],
        matched: Sequence[int | None],
    ) -> None:
        """Names what decides the arithmetic and is not the same."""
        settings, found = self._request.settings, self._found
        for name in filter(settings.is_fixed, there):
            before = len(found)
            same(settings.as_set(name))(there[name], name, found)
            for g, at in enumerate(matched):
                if at is not None and len(found) == before:
                    value = groups[at]["settings"].get(name, there[name])
                    same(settings.as_set(name, g))(value, str(Place(name, g)), found)

    # parameters

    def _read_parameters(self, saved: Mapping[str, Any]) -> None:
        found, here = self._found, self._request.present["parameters"]
        rename = self._request.rename
        found += [f"rename: {old!r} is not saved" for old in rename if old not in saved]
        found += [f"rename: {new!r} is not present" for new in rename.values() if new not in here]
        counts = Counter(rename.get(path, path) for path in saved)
        found += [
            f"rename: {count} saved parameters would be {path!r}"
            for path, count in counts.items()
            if count > 1
        ]
        there = {rename.get(path, path): entry for path, entry in saved.items()}
        new = tuple(path for path in here if path not in there)
        unused = tuple(path for path in there if path not in here)
        self.loaded = Loaded(new, tuple(rename.items()), unused)
        declared = _core.rules()[self._request.present["rule"]].values
        first = {name: start for name, start, _, _ in declared}
        handed_on = {name: number(lower, upper) for name, _, lower, upper in declared}
        forms = {"updates": anything, "state": dict_of(anything)}
        if declared:
            forms["values"] = fields(handed_on)
        one = fields(forms)
        self.values = []
        for path in [*here, *unused]:
            where = _where(path)
            entry = one(there[path], where, found) if path in there else {}
            if path in here:
                self.values.append([*{**first, **entry.get("values", {})}.values()])
            if path in new or path in unused:
                if self._request.strict:
                    found.append(f"{where}: not {'saved' if path in new else 'present'}")
            elif len(entry) == len(forms):
                self._counts[path] = whole()(entry["updates"], f"{where} updates", found)
                self._read_arrays(path, entry["state"], here[path]["state"])

    def _read_arrays(self, path: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
        if set(there) != set(here):
            names = (sorted(state) for state in (there, here))
            self._found.append(differing(f"{_where(path)} state arrays", *names))
        for name in here:
            if name in there:
                where = f"{_where(path)} {name}"
                self.arrays[path, name] = self._read_array(where, there[name], here[name])

    def _read_array(self, where: str, there: Any, here: Any) -> Any:
        """A saved array as it can be copied from."""
        return array(here.shape, here.dtype, self._request.written)(there, where, self._found)

    def _read_counts(self, attempted: int, applied: int) -> None:
        self.attempted, self.applied = attempted, applied
        self.updates = [self._counts.get(path, 0) for path in self._request.present["parameters"]]
        if applied > attempted:
            self._found.append(f"applied: {applied} is more than attempted, {attempted}")
        self._found += [
            f"{_where(path)} updates: {count} is more than applied, {applied}"
            for path, count in self._counts.items()
            if count is not None and count > applied
        ]

    def _read_accumulated(self, saved: Any, parameters: Collection[str]) -> None:
        found, rename = self._found, self._request.rename
        form = fields(
            {
                "samples": number(0.0),
                "micro_batches": whole(),
                "weighted_squared_norms": _squares,
                "gradients": dict_of(anything),
            }
        )
        values = form(saved, "accumulated", found)
        if len(values) < 4:
            return
        samples, count, squares, gradients = values.values()
        if self._request.strict and gradients.keys() != set(parameters):
            found.append("accumulated.gradients: must be a dict with the paths of parameters")
            return
        begun = {rename.get(path, path): sum for path, sum in gradients.items() if sum is not None}
        few, many = (count * weight for weight in _WEIGHTS)
        if not few <= samples <= many or (not begun and squares != 0.0) or (begun and not count):
            found.append(
                f"accumulated: {count} micro-batches can't have {samples!r} samples, "
                f"{'' if begun else 'no '}gradients and weighted_squared_norms {squares!r}"
            )
        self.totals = samples, count, squares
        self.sums = {
            path: self._read_array(f"{_where(path)} accumulated gradient", begun[path], parameter)
            for path, parameter in self._request.parameters.items()
            if path in begun
        }


def as_json(value: Any) -> Any:
    """A setting as a JSON value; a Python function is its name."""
    if isinstance(value, tuple):
        return [as_json(entry) for entry in value]
    if isinstance(value, Expression):
        return saved(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def restored_value(value: Any, present: Any) -> Any:
    """A setting from its JSON value: the present expression itself if it is the same one."""
    if isinstance(value, (list, tuple)):
        others = present if isinstance(present, tuple) and len(present) == len(value) else ()
        others = others or (None,) * len(value)
        return tuple(restored_value(*pair) for pair in zip(value, others, strict=True))
    if not isinstance(value, Mapping):
        return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
    if isinstance(present, Expression) and as_json(present) == value:
        return present
    if is_saved(value):
        return from_json(value, like=present if isinstance(present, Expression) else None)
    raise ValueError(f"must be a number or a saved expression, not {short(value)}")


def differing(what: str, there: Any, here: Any) -> str:
    return f"{what}: saved {there!r}, present {here!r}"


def _patterns(groups: Sequence[Mapping[str, Any]]) -> list[tuple[Any, int]]:
    """What tells groups apart: their patterns, and how many before have the same."""
    keys: list[tuple[Any, int]] = []
    for group in groups:
        match = None if group["match"] is None else tuple(group["match"])
        keys.append((match, sum(match == other for other, _ in keys)))
    return keys


def _squares(value: Any, path: str, found: list[str]) -> Any:
    """Not finite where a gradient was not."""
    if isinstance(value, str) and value in ("inf", "nan"):
        return float(value)
    return number(0.0)(value, path, found)


def _where(path: str) -> str:
    return f"params[{path!r}]" if path != "" else "params"


def _blamed(where: str, error: Exception) -> str:
    """What is wrong with a saved value, and where it stands."""
    known = isinstance(error, (TypeError, ValueError, StateError))
    message = str(error) if known else f"{type(error).__name__}: {error}"
    return message if message.startswith(where) else f"{where}: {message}"
