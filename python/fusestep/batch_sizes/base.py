"""The base class of batch-size policies."""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

from .. import _core
from ..arguments import check_number, check_scalar
from ..clock import Clock
from ..control import Control
from ..control.base import tell_unseen
from ..expression import Expression
from ..expression.nodes import Cell, Named
from ..expression.vocabulary import remembering
from ..expression.writing import Call
from ..memory import Changes, MemoryCell, Remembering, Role, memories
from ..saved_state import (
    LARGEST,
    Form,
    anything,
    dict_of,
    fields,
    number,
    optional,
    text,
    whole,
)
from .rounding import Options, Rounding

if TYPE_CHECKING:
    from typing_extensions import Unpack

P = ParamSpec("P")
T = TypeVar("T", bound="Policy")


@dataclass(frozen=True)
class PolicyMemory:
    """The state of every policy: its size, the samples before its last change, its overflow."""

    size: int | None = None
    changed_at: float | None = None
    overflow: float = 1.0


class Policy(Remembering):
    """Decides the size of the next batch. `fixed`, `polynomial`, `noise_scale` and others are.

    A rule wants a real number; the options below make it a size, in this order:

    1. It is moved into [minimum, maximum].
    2. It is rounded to the nearest multiple of ``multiple_of``, up from the middle, to no multiple
       outside of the limits.
    3. The size from before stays if the new one is smaller and ``monotone`` is set, if the change
       is at most ``threshold`` times the old size, or if fewer than ``dwell`` samples have passed
       since the last change. What is left of a growth is cut to ``max_growth`` times the old size
       (but not below one multiple more, or a batch of 1 could never grow).

    Args:
        minimum: the smallest size, at least 1.
        maximum: the largest size, or None. A rule that gives infinity gets the maximum.
        multiple_of: for example micro-batch times workers; at least 1.
        threshold: at least 0; the change that is wanted must exceed it, as a part of the old size.
        monotone: True never shrinks.
        max_growth: the largest factor of one change, above 1, or None.
        dwell: in samples, at least 0; above 0 the clock must tell ``samples``.
        overflow: what the maximum cuts off is lost with "clip"; with "lr" it goes to the learning
            rate: ``policy.overflow`` is then ``maximum / wanted``.

    A loader calls ``next_size`` once for each batch, with the clock before it. Where a size depends
    on those before it (by ``threshold``, ``monotone``, ``max_growth``, ``dwell``, ``overflow="lr"``
    or the rule), a policy belongs to the first loader that uses it; another one refuses it with
    StateError. ``copy.deepcopy`` gives one that belongs to nobody, with the same state.

    Another rule is a class with ``wanted(clock)``, or a function given to `expression`.

    Raises:
        ValueError, TypeError: an option is out of its range.

    Example:
        >>> import fusestep as fs
        >>> from fusestep import batch_sizes
        >>> policy = batch_sizes.exponential(start=20, rate=2, every=10, multiple_of=8, maximum=128)
        >>> [policy.next_size(fs.Clock(step=t)) for t in (0, 10, 20, 30)]
        [24, 40, 80, 128]
        >>> policy
        batch_sizes.exponential(start=20, rate=2, every=10, multiple_of=8, maximum=128)
    """

    _constant: int | None = None  # the size of every batch, where it is always the same
    _memory: PolicyMemory
    _begins: ClassVar[PolicyMemory] = PolicyMemory()
    _start: int | None = None  # the size until the rule gives a number
    _used: tuple[Remembering, ...] = ()  # controls and statistics that its rule reads
    _controls: tuple[Control, ...] = ()  # the controls among them

    def __init__(self, **options: Unpack[Options]) -> None:
        self._rounding = Rounding.of(options)
        self._call = Call(type(self).__name__, {**options})
        self._share = MemoryCell(1.0, self)
        self._remember(self._begins)

    def wanted(self, clock: Clock) -> float | None:
        """The number that the rule wants for the batch after this clock; None keeps the size."""
        raise NotImplementedError(f"{type(self).__name__} must define wanted(clock)")

    @property
    def size(self) -> int | None:
        """The last size decided; None before the first."""
        return self._memory.size

    @property
    def _has_state(self) -> bool:
        """Whether a size depends on those before it, or on what the policy observed."""
        return True

    @property
    def overflow(self) -> Expression:
        """A factor for the learning rate at the last size: 1 unless ``overflow="lr"``."""
        return self._live("overflow", self._share)

    def next_size(self, clock: Clock) -> int:
        """The size of the next batch.

        Args:
            clock: ``step``, ``samples`` and ``epoch`` before that batch, as far as the rule reads
                them; a batch size in it is ignored. One with fewer ``samples`` than at the last
                change is of another run: the policy then begins anew.

        Raises:
            ValueError: the rule gives NaN, or more than the limit of 2^53 without a maximum; or
                the clock lacks what the rule or ``dwell`` reads. Nothing has changed.
            TypeError: the rule gives no number. Nothing has changed.
        """
        size, changes = self._deciding(clock)
        return int(_core.commit(changes, size))

    def _deciding(self, clock: Clock) -> tuple[int, Changes]:
        """What ``next_size`` returns, and the changes that it makes."""
        if not isinstance(clock, Clock):
            raise TypeError(f"clock must be a fusestep.Clock, not {clock!r}")
        now = Clock(clock.step, clock.samples, clock.epoch)
        samples = None if now.samples is None else check_number("samples", now.samples)
        if self._rounding.dwell > 0 and samples is None:
            raise ValueError(f"{self!r} has dwell in samples: its clock must tell samples")
        memory, since = self._memory, None
        if samples is not None and memory.changed_at is not None:
            since = samples - memory.changed_at
            if since < 0:
                memory, since = self._first, None
        if self._controls:
            is_count = isinstance(now.step, Real) and 0 <= now.step <= LARGEST
            tell_unseen(self._controls, now, int(now.step or 0) if is_count else 0)
        wanted, memory = self._want(now, memory)
        if wanted is None:
            wanted = self._start if memory.size is None else None
        number = self._checked(memory.size if wanted is None else wanted)
        overflow = memory.overflow if wanted is None else self._rounding.share(number)
        size = self._rounding.settled(self._rounding.nearest(number), memory.size, since)
        if size != memory.size or overflow != memory.overflow:
            changed_at = memory.changed_at if size == memory.size else samples
            memory = replace(memory, size=size, changed_at=changed_at, overflow=overflow)
        return size, [] if memory is self._memory else self._changes(memory)

    def _want(self, clock: Clock, memory: PolicyMemory) -> tuple[float | None, PolicyMemory]:
        """What the rule wants, and the memory with the rule's own part updated by the clock."""
        return self.wanted(clock), memory

    def observe(self, *, loss: Any = None, lr: Any = None) -> None:
        """Passes the policy the results of a step; most policies ignore them.

        Args:
            loss: the mean loss of the batch: a number. NaN and infinity are passed over.
            lr: the learning rate used, at least 0.

        Raises:
            TypeError, ValueError: one of them is out of its range. Nothing has changed.
        """
        _core.commit(self._observing(loss=loss, lr=lr))

    def _observing(self, *, loss: Any = None, lr: Any = None) -> Changes:
        """The changes that ``observe`` makes."""
        seen = None if loss is None else check_scalar("loss", loss)
        finite = seen if seen is not None and math.isfinite(seen) else None
        rate = None if lr is None else check_number("lr", lr)
        return self._changes(self._after(finite, rate))

    def _after(self, loss: float | None, lr: float | None) -> PolicyMemory:
        """The memory after a finite loss and a rate, each None where there is nothing new."""
        return self._memory

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a ``state_dict``. StateError where it does not fit: nothing has changed.

        The options stay those of this policy: a saved size that they exclude does not bind it.
        """
        super().load_state_dict(state)

    def _saved(self, memory: PolicyMemory | None = None) -> dict[str, Any]:
        """Its call, as text that is the same in every process, and its state.

        ``memory``: the one to save in place of the present one.
        """
        given = self._call.given()
        if "name" in given:  # of a function, by which it is known
            del given["rule"]
        return {
            "typed": Call(self._call.name, given).text(_stable_text),
            "state": self._state(self._memory if memory is None else memory),
        }

    def _resuming(self, value: Any, path: str, found: list[str]) -> Changes:
        """The changes that take over what ``_saved`` gave, perhaps of another policy.

        A form, see `saved_state`. A policy of the same name goes on from the state, one of another
        name begins anew; unless sizes depend on the clock alone, a warning names both if their
        arguments differ. Functions are compared by name.
        """
        saved = fields({"typed": text, "state": dict_of(anything)})(value, path, found)
        if len(saved) < 2:
            return []
        there = re.sub(r"^batch\.", "batch_sizes.", saved["typed"])  # the earlier name
        present = self._saved()["typed"]
        is_alike = there.partition("(")[0] == present.partition("(")[0]
        if is_alike:
            changes = self._restoring(saved["state"], f"{path}.state", found)
        else:
            changes = self._resetting()
        if there != present and self._has_state and not found:
            how = "goes on from" if is_alike else "begins anew, instead of going on from"
            warnings.warn(f"batch_size: {present} {how} the state of {there}", stacklevel=3)
        return changes

    def _owned(self) -> tuple[Remembering, ...]:
        """What belongs to the loader that uses this policy: itself, and what its rule reads."""
        return (self, *self._used)

    def _read(self, *parts: Any) -> None:
        """Declares the expressions and statistics that the rule reads."""
        self._used = tuple(thing for part in parts for thing in memories(part))
        self._controls = tuple(thing for thing in self._used if isinstance(thing, Control))

    def _shown(self, memory: PolicyMemory) -> Iterable[tuple[Cell, float]]:
        return ((self._share, memory.overflow),)

    def _is_owned(self, role: Role) -> bool:
        return role == "loader" and self._has_state  # optimizers only read a policy's expressions

    def _forms(self) -> dict[str, Form]:
        return {
            **super()._forms(),
            "size": optional(whole(1)),
            "changed_at": optional(number(0.0, LARGEST)),
            "overflow": number(0.0, 1.0),
        }

    def __repr__(self) -> str:
        return self._call.text(_text)

    def _live(self, name: str, body: Expression) -> Expression:
        """An expression that this policy changes, named so that settings with it can be saved."""
        return Named(Call(f"{self._call.name}.{name}"), body)

    def _checked(self, wanted: Any) -> float:
        if not isinstance(wanted, Real) or isinstance(wanted, bool):
            raise TypeError(f"{self!r} must give a number, not {wanted!r}")
        try:
            number = float(wanted)
        except OverflowError:
            raise ValueError(f"{self!r} must give a number that a float can hold") from None
        if math.isnan(number) or number == -math.inf:
            raise ValueError(f"{self!r} must give a finite number, not {number}")
        if number > LARGEST and self._rounding.maximum is None:
            raise ValueError(f"{self!r} gives {number:g}: it needs a maximum")
        return number


def policy(build: Callable[P, T]) -> Callable[P, T]:
    """Makes what a function builds keep the call, for ``repr`` and saved state."""

    def keep(built: T, call: Call) -> T:
        built._call = call
        return built

    options = [field.name for field in fields_of(Rounding)]
    return remembering(build, keep, f"batch_sizes.{build.__name__}", options)


def _text(value: Any) -> str:
    """An argument as one writes it, without the address that some objects have in their repr."""
    represent: Any = type(value).__repr__
    has_address = inspect.isroutine(value) or represent is object.__repr__
    return _stable_text(value) if has_address else repr(value)


def _stable_text(value: Any) -> str:
    """An argument as text that is the same in every process: functions by name."""
    if isinstance(value, (str, Real, list, tuple, dict, type(None), Expression, Remembering)):
        return repr(value)
    of = value if hasattr(value, "__qualname__") else type(value)
    return f"{of.__module__}:{of.__qualname__}"
