"""Saved settings and the memory of their controls, as an optimizer takes them over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._core import StateError
from ..expression import Expression, from_json
from ..expression.writing import is_saved
from ..memory import Changes, Remembering
from .limits import LIMITS
from .saved import number_from_json, plain, short
from .schedule import controls_of, is_scheduled

_NONFINITE = ("propagate", "skip", "raise")


@dataclass(frozen=True)
class Present:
    """The settings of the optimizer that a state is for."""

    settings: Mapping[str, Any]  # as saved
    groups: Sequence[Mapping[str, Any]]  # as saved
    typed: Mapping[str, Any]  # by where they stand, as they were set
    fixed: Collection[str]  # those that decide the arithmetic
    nonfinite: str
    check: Callable[[str, Any], Any]  # of a name and a value; raises what is wrong with it


class Restored:
    """What a state makes of settings: all of them, changed or not. ``found`` takes differences."""

    settings: dict[str, Any]  # by where they stand
    nonfinite: str
    changes: Changes  # of controls
    replaced: list[str]  # what the user should be told of

    def __init__(
        self,
        state: Mapping[str, Any],
        present: Present,
        keep: Collection[str],
        strict: bool,
        found: list[str],
    ) -> None:
        self._present = present
        self._keep = keep
        self._found = found
        self.settings, self.changes, self.replaced = {}, [], []
        self._saved_at: dict[str, str] = {}  # for settings of groups, which may be others there
        self._memories: dict[int, tuple[str, Any]] = {}  # by control: where it stands, and its own
        values = self._values(state, strict)
        control = state["control"]
        if not isinstance(control, Mapping) or not all(
            isinstance(states, (list, tuple)) for states in control.values()
        ):
            found.append(f"control: must be a dict of lists, not {short(control)}")
        elif values is not None:
            self._restore(values, dict(control), strict)
        self.nonfinite = present.nonfinite if "nonfinite" in keep else state["nonfinite"]
        if self.nonfinite not in _NONFINITE:
            found.append(
                f"nonfinite: must be one of {', '.join(_NONFINITE)}, not {short(self.nonfinite)}"
            )

    def _values(self, state: Mapping[str, Any], strict: bool) -> dict[str, Any] | None:
        """Saved values by where they stand here; None where they have no such form."""
        settings, groups, known = state["settings"], state["groups"], self._present.settings.keys()
        good = True
        if not isinstance(settings, Mapping) or set(settings) != set(known):
            self._found.append(
                f"settings: must be a dict of {', '.join(known)}, not {short(settings)}"
            )
            good = False
        if not isinstance(groups, (list, tuple)) or not all(_is_group(g, known) for g in groups):
            self._found.append(
                f"groups: must be a list of dicts with match and settings, not {short(groups)}"
            )
            good = False
        if not good:
            return None
        matched = self._matched(groups, strict)
        own = [None if at is None else groups[at]["settings"] for at in matched]
        self._compare_fixed(settings, own)
        values = {**settings, **{name: number_from_json(state[name]) for name in LIMITS}}
        for g, at in enumerate(matched):
            for name, value in (own[g] or {}).items():
                values[f"groups[{g}] {name}"] = value
                self._saved_at[f"groups[{g}] {name}"] = f"groups[{at}] {name}"
        for where, value in self._present.typed.items():
            group_is_new = where.startswith("groups[") and own[_group_of(where)] is None
            if group_is_new or self._is_kept(where):
                self.settings[where] = value
        return values

    def _matched(self, groups: Sequence[Mapping[str, Any]], strict: bool) -> list[int | None]:
        """The saved group of each group here; None for one that was not saved."""
        there, here = _patterns(groups), _patterns(self._present.groups)
        if strict and there != here:
            saved, present = ([match and list(match) for match, _ in k] for k in (there, here))
            self._found.append(f"groups: saved {short(saved)}, present {short(present)}")
        return [there.index(key) if key in there else None for key in here]

    def _compare_fixed(
        self, settings: Mapping[str, Any], own: Sequence[Mapping[str, Any] | None]
    ) -> None:
        for name in self._present.fixed:
            there, here = settings[name], self._present.settings[name]
            if not is_same(there, here):
                self._found.append(differing(name, there, here))
                continue
            for g, (saved, group) in enumerate(zip(own, self._present.groups, strict=True)):
                if saved is None:
                    continue
                there, present = saved.get(name, here), group["settings"].get(name, here)
                if not is_same(there, present):
                    self._found.append(differing(f"groups[{g}] {name}", there, present))

    def _restore(self, values: Mapping[str, Any], control: dict[str, Any], strict: bool) -> None:
        typed = self._present.typed
        kept = {id(c) for value in self.settings.values() for c in controls_of(value)}
        for where, value in values.items():
            states = control.pop(self._saved_at.get(where, where), [])
            if self._is_kept(where):
                continue
            present = typed.get(where)
            try:
                restored = restored_value(value, present)
                self._present.check(where.split()[-1], restored)
            except MemoryError:
                raise
            except Exception as error:
                hint = f"; keep=({where.split()[-1]!r},) keeps the present one"
                self._found.append(_blamed(where, error) + hint)
                continue
            self.settings[where] = restored
            self._note_replaced(where, value, restored)
            held = list(controls_of(restored))
            if len(states) != len(held):
                self._found.append(
                    f"{where}: has {len(held)} controls, and {len(states)} states are saved"
                )
                continue
            for one, memory in zip(held, states, strict=True):
                if id(one) not in kept:
                    self._remember(where, one, memory)
        self._found += [
            f"control: nothing follows the loss in {short(where)}"
            for where in control
            if strict and not (isinstance(where, str) and self._is_kept(where))
        ]

    def _note_replaced(self, where: str, value: Any, restored: Any) -> None:
        present = self._present.typed.get(where)
        if is_scheduled(present) and plain(present) != value:
            name = where.split()[-1]
            self.replaced.append(
                f"{where}: the saved {short(restored)} takes the place of {short(present)}; "
                f"load_state_dict(state, keep=({name!r},)) keeps the present one"
            )

    def _remember(self, where: str, control: Remembering, memory: Any) -> None:
        if id(control) in self._memories:
            other, known = self._memories[id(control)]
            if known != memory:
                self._found.append(f"{other} and {where} share a control, which is saved twice")
            return
        self._memories[id(control)] = where, memory
        try:
            self.changes += control.restored(memory)
        except StateError as error:
            self._found.append(_blamed(where, error))

    def _is_kept(self, where: str) -> bool:
        return where.split()[-1] in self._keep


def restored_value(value: Any, present: Any) -> Any:
    """A setting from its JSON value: the present expression itself if it is the same one."""
    if isinstance(value, (list, tuple)):
        others = present if isinstance(present, tuple) and len(present) == len(value) else ()
        others = others or (None,) * len(value)
        return tuple(restored_value(*pair) for pair in zip(value, others, strict=True))
    if not isinstance(value, Mapping):
        return value
    if isinstance(present, Expression) and plain(present) == value:
        return present
    if is_saved(value):
        return from_json(value, like=present if isinstance(present, Expression) else None)
    raise ValueError(f"must be a number or a saved expression, not {short(value)}")


def is_same(there: Any, here: Any) -> bool:
    """Whether two values are equal and of one type: True is not 1."""
    return type(there) is type(here) and there == here


def differing(what: str, there: Any, here: Any) -> str:
    return f"{what}: saved {there!r}, present {here!r}"


def _is_group(group: Any, known: Collection[str]) -> bool:
    return (
        isinstance(group, Mapping)
        and set(group) == {"match", "settings"}
        and (group["match"] is None or _is_patterns(group["match"]))
        and isinstance(group["settings"], Mapping)
        and all(name in known for name in group["settings"])
    )


def _is_patterns(match: Any) -> bool:
    return isinstance(match, (list, tuple)) and all(type(pattern) is str for pattern in match)


def _patterns(groups: Sequence[Mapping[str, Any]]) -> list[tuple[Any, int]]:
    """What tells groups apart: their patterns, and how many before have the same."""
    keys: list[tuple[Any, int]] = []
    for group in groups:
        match = None if group["match"] is None else tuple(group["match"])
        keys.append((match, sum(match == other for other, _ in keys)))
    return keys


def _group_of(where: str) -> int:
    return int(where.partition("]")[0].removeprefix("groups["))


def _blamed(where: str, error: Exception) -> str:
    """What is wrong with a saved value, and where it stands."""
    known = isinstance(error, (TypeError, ValueError, StateError))
    text = str(error) if known else f"{type(error).__name__}: {error}"
    return text if text.startswith(where) else f"{where}: {text}"
