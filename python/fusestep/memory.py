"""State that depends on a run, and its owner: controls, batch-size policies, gradient statistics.

An object keeps its state in one attribute, ``_memory``: a frozen dataclass of numbers. An update is
calculated first, by methods that change nothing and may raise, as a list of changes for
``_core.commit``, which makes the changes of several objects in one native call. Each such method is
named after what it is doing::

    changes = control._observing(loss, step)        # after an update
    changes = statistics._adding(...)               # none where nothing could be learnt
    size, changes = policy._deciding(clock)         # for the next batch
    changes = policy._observing(loss=loss, lr=lr)
    changes = anything._restoring(state, path, found)
    changes = anything._resetting()
    _core.commit([*changes, ...], result)

An object belongs to the first optimizer, and the first loader, that uses it; see `claimed`.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import types
import typing
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from . import _core
from .expression import Expression
from .expression.nodes import Cell
from .expression.traversal import computed_from
from .saved_state import (
    Form,
    differences,
    fields,
    flag,
    list_of,
    number,
    optional,
    read,
    reported,
    whole,
)

Changes = list[tuple[Any, str, Any]]  # object, attribute, value: for _core.commit
Role = Literal["optimizer", "loader"]
Owned = tuple["Remembering", str, "Owners"]


class Owners(dict[str, "weakref.ref[object]"]):
    """The optimizer and the loader that something belongs to; copying gives an empty one."""

    def __reduce__(self) -> tuple[type[Owners], tuple[()]]:
        return Owners, ()


class Remembering:
    """A class whose state depends on a run. With ``__slots__``, it has the three names below."""

    __slots__ = ()

    if TYPE_CHECKING:
        _memory: Any  # a frozen dataclass
        _first: Any  # as it begins
        _owners: Owners

    def _remember(self, first: Any) -> None:
        """Sets the initial memory."""
        self._memory = self._first = first
        self._owners = Owners()  # type: ignore[misc]

    def _shown(self, memory: Any) -> Iterable[tuple[Cell, float]]:
        """The cells that expressions read, and their values for a memory."""
        return ()

    def _forms(self) -> dict[str, Form]:
        """What the fields of the memory must be, by name."""
        return dict(_forms_of(self._first.__class__))

    def _check_memory(self, memory: Any) -> None:
        """Raises ValueError, naming a field, where no run leads to these values together."""

    def _is_owned(self, role: Role) -> bool:
        """Whether it belongs to one optimizer, or one loader, alone."""
        return True

    def _changes(self, memory: Any) -> Changes:
        shown = ((cell.memory, "flat", value) for cell, value in self._shown(memory))
        return [(self, "_memory", memory), *shown]

    def __copy__(self) -> Remembering:
        return copy.deepcopy(self)  # two copies must not share a cell

    def state_dict(self) -> dict[str, Any]:
        """Its state, as a dict of JSON values."""
        return self._state(self._memory)

    def _state(self, memory: Any) -> dict[str, Any]:
        """A memory as JSON values."""
        values = {name: getattr(memory, name) for name in _forms_of(memory.__class__)}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a ``state_dict``. StateError where it does not fit: nothing has changed."""
        with differences(repr(self)) as found:
            changes: Changes = read(state, self._restoring, found)
        _core.commit(changes)

    def _resetting(self) -> Changes:
        """The changes that reset it to its initial state."""
        return self._changes(self._first)

    def _restoring(self, value: Any, path: str, found: list[str]) -> Changes:
        """The changes that ``load_state_dict`` makes: a form, see `saved_state`."""
        before = len(found)
        values = fields(self._forms())(value, path, found)
        if len(found) > before:
            return []
        lists = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
        memory = type(self._first)(**{**values, **lists})
        with reported(found, path):
            self._check_memory(memory)
        return self._changes(memory)


class MemoryCell(Cell):
    """A cell whose value is part of something's state."""

    __slots__ = ("owner",)

    def __init__(self, value: float, owner: Remembering | None = None) -> None:
        super().__init__(value)
        self.owner = owner


@contextmanager
def claimed(role: Role, owner: object, things: Iterable[Remembering]) -> Iterator[None]:
    """Makes an optimizer or a loader the owner of things, unless the body raises.

    Raises StateError, and claims none, where one belongs to another owner of this role. A thing
    whose owner was deleted is free again if its state is still the initial one. The owner is
    referenced weakly. There is no lock, which an interrupt could leave locked for ever.
    """
    before: list[Owned] = []
    after: list[Owned] = []
    for thing in {id(thing): thing for thing in things}.values():
        owners = thing._owners
        held = owners.get(role)
        present = None if held is None else held()
        if present is owner or not thing._is_owned(role):
            continue
        if held is not None and (present is not None or thing._memory != thing._first):
            raise _core.StateError(
                f"{thing!r} belongs to another {role}, and has the state of its run: build a "
                f"new one for each {role} (or copy.deepcopy one that was not used yet)"
            )
        before.append((thing, "_owners", owners))
        after.append((thing, "_owners", Owners({**owners, role: weakref.ref(owner)})))
    learnt = [thing._memory for thing, _, _ in before]
    try:
        _core.commit(after, expected=before)
        yield
    except BaseException:
        _core.commit(
            [
                old
                for old, (thing, _, owners), memory in zip(before, after, learnt, strict=True)
                # where the memory changed, the interrupt came after the body had its effect
                if thing._owners is owners and thing._memory is memory
            ]
        )
        raise


def memories(value: Any) -> Iterator[Remembering]:
    """The thing itself, or all that an expression reads the state of, each once."""
    if isinstance(value, Remembering) and not isinstance(value, Expression):
        yield value
    seen: set[int] = set()
    found: set[int] = set()
    pending = [value]
    while pending:
        node = pending.pop()
        if not isinstance(node, Expression) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, MemoryCell) and node.owner is not None and id(node.owner) not in found:
            found.add(id(node.owner))
            yield node.owner
        pending += computed_from(node)


@functools.cache
def _forms_of(memory: Any) -> dict[str, Form]:
    hints = typing.get_type_hints(memory)
    return {field.name: _form_of(hints[field.name]) for field in dataclasses.fields(memory)}


def _form_of(kind: Any) -> Form:
    """What a field may be that is annotated like this."""
    if isinstance(kind, types.UnionType):  # X | None
        return optional(_form_of(typing.get_args(kind)[0]))
    if typing.get_origin(kind) is tuple:
        return list_of(_form_of(typing.get_args(kind)[0]))
    return {bool: flag, int: whole(), float: number()}[kind]
