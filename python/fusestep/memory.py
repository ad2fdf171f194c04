"""What is remembered of a run, and whose it is: controls, policies of batch sizes, statistics.

What an object remembers is one frozen dataclass of numbers in one attribute, ``_memory``. What it
is going to remember is calculated first, by methods that change nothing and may raise, as changes
for ``_core.commit``, which makes those of several objects at once and leaves nothing half done::

    changes = control.after(loss, step)           # a control, after an update
    changes = statistics.after_sums(...)          # none where nothing could be learnt
    size, changes = policy.decide(clock)          # a policy, for the next batch
    changes = policy.after(loss=loss, lr=lr)
    changes = anything.restored(state)            # StateError where the state does not fit
    _core.commit([*changes, ...], result)

It belongs to the first optimizer, and the first loader, that uses it; see `claimed`.
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
Kind = Literal["optimizer", "loader"]
Owned = tuple["Remembering", str, "Owners"]


class Owners(dict[str, "weakref.ref[object]"]):
    """The optimizer and the loader that something belongs to; a copy belongs to nobody."""

    def __reduce__(self) -> tuple[type[Owners], tuple[()]]:
        return Owners, ()


class Remembering:
    """What remembers something of a run. A class with slots has these for the three below."""

    __slots__ = ()

    if TYPE_CHECKING:
        _memory: Any  # a frozen dataclass
        _first: Any  # as it begins
        _owners: Owners

    def _remember(self, first: Any) -> None:
        """Begins with this memory."""
        self._memory = self._first = first
        self._owners = Owners()  # type: ignore[misc]

    def _shown(self, memory: Any) -> Iterable[tuple[Cell, float]]:
        """The cells that expressions read, and what they show of a memory."""
        return ()

    def _forms(self) -> dict[str, Form]:
        """What the fields of the memory must be, by name."""
        return dict(_forms_of(self._first.__class__))

    def _check_memory(self, memory: Any) -> None:
        """Raises ValueError, naming a field, where no run leads to these values together."""

    def _is_owned(self, kind: Kind) -> bool:
        """Whether an optimizer or a loader that uses it has it for itself."""
        return True

    def _changes(self, memory: Any) -> Changes:
        shown = ((cell.memory, "flat", value) for cell, value in self._shown(memory))
        return [(self, "_memory", memory), *shown]

    def __copy__(self) -> Remembering:
        return copy.deepcopy(self)  # two that show their memory in one cell would be neither

    def state_dict(self) -> dict[str, Any]:
        """What it remembers: JSON values."""
        return self._state(self._memory)

    def _state(self, memory: Any) -> dict[str, Any]:
        """A memory as JSON values."""
        values = {name: getattr(memory, name) for name in _forms_of(memory.__class__)}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a ``state_dict``. StateError where it does not fit; nothing has changed."""
        _core.commit(self.restored(state))

    def anew(self) -> Changes:
        """The changes after which it remembers what it did at first."""
        return self._changes(self._first)

    def restored(self, state: Any) -> Changes:
        """The changes that ``load_state_dict`` makes."""
        with differences(repr(self)) as found:
            changes: Changes = read(state, self.restoring, found)
        return changes

    def restoring(self, value: Any, path: str, found: list[str]) -> Changes:
        """Likewise where its state is part of another: a form, as `saved_state` has them."""
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
    """A cell that shows what something remembers."""

    __slots__ = ("owner",)

    def __init__(self, value: float, owner: Remembering | None = None) -> None:
        super().__init__(value)
        self.owner = owner


@contextmanager
def claimed(kind: Kind, owner: object, things: Iterable[Remembering]) -> Iterator[None]:
    """Makes things an owner's, unless what is done inside fails; then they stay free.

    Raises StateError, and claims none, where one belongs to another owner of this kind. A thing
    stays with an owner that is gone if it has learnt anything there. Only a weak reference to the
    owner is kept. No lock: an interrupt could leave it held for ever.
    """
    before: list[Owned] = []
    after: list[Owned] = []
    for thing in {id(thing): thing for thing in things}.values():
        owners = thing._owners
        held = owners.get(kind)
        present = None if held is None else held()
        if present is owner or not thing._is_owned(kind):
            continue
        if held is not None and (present is not None or thing._memory != thing._first):
            raise _core.StateError(
                f"{thing!r} belongs to another {kind}, and remembers its run: build a new one "
                f"for each {kind} (or copy.deepcopy one that was not used yet)"
            )
        before.append((thing, "_owners", owners))
        after.append((thing, "_owners", Owners({**owners, kind: weakref.ref(owner)})))
    learnt = [thing._memory for thing, _, _ in before]
    try:
        _core.commit(after, expected=before)
        yield
    except BaseException:
        _core.commit(
            [
                old
                for old, (thing, _, owners), memory in zip(before, after, learnt, strict=True)
                # where it has learnt, an interrupt came after what was done
                if thing._owners is owners and thing._memory is memory
            ]
        )
        raise


def memories(value: Any) -> Iterator[Remembering]:
    """Something that remembers, or all that an expression reads the memory of, each once."""
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
