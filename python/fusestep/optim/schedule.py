"""All expressions of an optimizer, as one native program that every step runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from ..arguments import range_in_words
from ..clock import Clock
from ..control import Control
from ..engines import Plan
from ..expression import Expression
from ..expression.nodes import Function
from ..expression.program import Callback, program_of
from ..expression.traversal import walk
from ..memory import Changes, claimed, memories

Values = npt.NDArray[np.float64]


class Place(NamedTuple):
    """Where the native step reads a value: the table of hyper-parameters, or the limits."""

    in_limits: bool
    at: int


class Range(NamedTuple):
    """What a value may be."""

    lower: float
    upper: float
    below_upper: bool = False
    smallest: float = 0.0  # of a size that is not 0
    in_words: str | None = None


class Schedule:
    """What is an expression, and where its value goes."""

    __slots__ = ("__weakref__", "_applied", "_before", "_entries", "_plan", "controls", "functions")

    controls: tuple[Control, ...]  # what a step shows the loss to
    functions: tuple[Callback, ...]  # what a step calls before it evaluates

    def __init__(self, applied: int = 0, before: Schedule | None = None) -> None:
        self._applied = applied  # updates, until there is a plan that counts them
        self._before = before and before.owner  # of the same optimizer
        self._entries: dict[Place, tuple[str, Expression, Range]] = {}
        self._plan: Plan | None = None
        self.controls = self.functions = ()

    def put(self, place: Place, name: str, value: Any, limits: Range) -> None:
        """Remembers an expression for a place, or that there is none."""
        self._entries.pop(place, None)
        if isinstance(value, Expression):
            self._entries[place] = (name, value, limits)

    @property
    def owner(self) -> Schedule:
        """Whose are the controls: the optimizer's first schedule."""
        return self._before or self

    @property
    def plan(self) -> Plan:
        """Whose settings these are."""
        assert self._plan is not None
        return self._plan

    @property
    def hyper(self) -> Values:
        """The hyper-parameters of the last step, or of the first: a copy."""
        return self.plan.hyper

    @property
    def limits(self) -> Values:
        """The limits likewise."""
        return self.plan.limits

    def attach(self, plan: Plan) -> None:
        """Compiles for this plan."""
        self._plan = plan
        self.commit(self)

    @contextmanager
    def held(self) -> Iterator[Schedule]:
        """A draft to change and commit, while no other thread steps."""
        with self.plan.held():
            draft = Schedule(self.plan.applied)
            draft._entries = dict(self._entries)
            yield draft

    def commit(
        self,
        draft: Schedule,
        hyper: Values | None = None,
        limits: Values | None = None,
        changes: Changes | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Gives the plan a draft, tables and a saved state, in one call that writes all or nothing.

        ``state`` is what `_core.CpuPlan.load` takes beside.
        """
        entries = dict(sorted(draft._entries.items()))
        expressions = [expression for _, expression, _ in entries.values()]
        targets: list[_core.Target] = [
            (int(place.in_limits), place.at, name, *bounds[:4], _words(bounds))
            for place, (name, _, bounds) in entries.items()
        ]
        program, functions = program_of(expressions) if expressions else (None, ())
        controls = tuple({id(c): c for e in expressions for c in controls_of(e)}.values())
        tables = self.hyper if hyper is None else hyper, self.limits if limits is None else limits
        changes = [
            *(changes or ()),
            (self, "_entries", entries),
            (self, "functions", functions),
            (self, "controls", controls),
        ]
        used = [thing for expression in expressions for thing in memories(expression)]
        with claimed("optimizer", self.owner, used):
            if state is None:
                self.plan.set_settings(*tables, program, targets, changes=changes)
                return
            for place in entries:  # no step has used a value of theirs yet
                tables[place.in_limits].flat[place.at] = math.nan
            self.plan.load(
                hyper=tables[0],
                limits=tables[1],
                program=program,
                targets=targets,
                changes=changes,
                **state,
            )

    def before(self, clock: Clock | None, loss: Any) -> tuple[Clock, Changes]:
        """What a step needs of Python: functions called, and what controls are to remember."""
        now = Clock() if clock is None else Clock(*clock)
        if now.step is None:
            now = now._replace(step=self.plan.applied)
        changes: Changes = []
        if loss is not None:
            given: Any = now.step
            is_step = isinstance(given, Real) and 0 <= float(given) < 2**53  # or the plan refuses
            step = int(given) if is_step else 0
            changes = [change for control in self.controls for change in control.after(loss, step)]
        for function in self.functions:
            function.update(now)
        return now, changes

    def first_value(self, expression: Expression) -> float:
        """What the next update is going to use, or NaN where that takes more than its number.

        Python functions are called when someone asks.
        """
        if any(isinstance(node, Function) for node in walk(expression)):
            return math.nan
        upcoming = self._upcoming(expression)
        return math.nan if upcoming is None else upcoming

    def shown(self, value: Any, number: float) -> float | None:
        """What a user sees of a number or an expression, given what stands where steps read."""
        if not isinstance(value, Expression):
            return float(value)
        return self._upcoming(value) if math.isnan(number) else float(number)

    def _upcoming(self, expression: Expression) -> float | None:
        """What the next update is going to use, or None where only the step is told that."""
        step = self._applied if self._plan is None else self._plan.applied
        clock = Clock(step=step, samples=0, epoch=0) if step == 0 else Clock(step=step)
        try:
            value = float(expression(clock))
        except ValueError:  # it reads what is missing
            return None
        return None if math.isnan(value) else value


def controls_of(value: Any) -> Iterator[Control]:
    """The controls of a setting, in the order they are typed."""
    for part in in_parts(value):
        if isinstance(part, Expression):
            yield from (node for node in walk(part) if isinstance(node, Control))


def in_parts(value: Any) -> tuple[Any, ...]:
    """A pair, or one number or expression alone."""
    return value if isinstance(value, tuple) else (value,)


def is_scheduled(value: Any) -> bool:
    """Whether a setting is an expression, or a pair with one."""
    return any(isinstance(part, Expression) for part in in_parts(value))


def refuse_number(holder: str, name: str, present: Any, value: Any) -> None:
    """Raises StateError, with what to do, where a number would take the place of an expression.

    ``holder`` is what has the setting, as users write it.
    """
    before, after = in_parts(present), in_parts(value)
    for i, (old, new) in enumerate(zip(before, after, strict=False)):
        if not isinstance(old, Expression) or isinstance(new, Expression) or new is None:
            continue
        place = "" if len(after) == 1 else f"[{i}]"
        constant = f"fusestep.schedules.constant({new!r})"
        raise _core.StateError(
            f"{name}{place} follows a schedule, which a number would end; nothing has changed. "
            f"{_assignment(holder, name, after, i, f'{holder}.schedules[{name!r}]{place} * 0.5')} "
            f"goes on with another one, {_assignment(holder, name, after, i, constant)} ends it"
        )


def _assignment(holder: str, name: str, value: tuple[Any, ...], i: int, text: str) -> str:
    """What a user types to set one part of a value to something else."""
    parts = [text if j == i else repr(part) for j, part in enumerate(value)]
    return f"{holder}.{name} = {parts[0] if len(parts) == 1 else '(' + ', '.join(parts) + ')'}"


def _words(limits: Range) -> str:
    return limits.in_words or range_in_words(*limits[:3])
