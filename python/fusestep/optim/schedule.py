"""All expressions of an optimizer, as one native program that every step runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from ..arguments import range_in_words
from ..clock import Clock
from ..control import Control
from ..engines import Plan, StepInfo
from ..expression import Expression
from ..expression.cells import Function
from ..expression.program import Called, compiled
from ..expression.traversal import walk
from ..memory import claimed, memories

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

    __slots__ = ("__weakref__", "_applied", "_entries", "_plan", "controls", "functions")

    controls: tuple[Control, ...]  # what a step shows the loss to
    functions: tuple[Called, ...]  # what a step calls before it evaluates

    def __init__(self, applied: int = 0) -> None:
        self._applied = applied  # updates, until there is a plan that counts them
        self._entries: dict[Place, tuple[str, Expression, Range]] = {}
        self._plan: Plan | None = None
        self.controls = self.functions = ()

    def put(self, place: Place, name: str, value: Any, limits: Range) -> None:
        """Remembers an expression for a place, or that there is none."""
        self._entries.pop(place, None)
        if isinstance(value, Expression):
            self._entries[place] = (name, value, limits)

    def take_from(self, other: Schedule, in_limits: bool) -> None:
        """Remembers what another one has for the table or the limits, in place of its own."""
        kept = {place: e for place, e in self._entries.items() if place.in_limits != in_limits}
        taken = {p: e for p, e in other._entries.items() if p.in_limits == in_limits}
        self._entries = {**kept, **taken}

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
        with self.plan:
            draft = Schedule(self.plan.applied)
            draft._entries = dict(self._entries)
            yield draft

    def refresh(self) -> None:
        """Puts what the next update is going to use where the values of the last one stand."""
        tables = self.hyper, self.limits
        for place, (_, expression, _) in self._entries.items():
            tables[place.in_limits].flat[place.at] = self.first_value(expression)
        self.commit(self, *tables)

    def commit(
        self,
        draft: Schedule,
        hyper: Values | None = None,
        limits: Values | None = None,
        changes: Sequence[tuple[Any, str, Any]] = (),
    ) -> None:
        """Gives the plan a draft and tables, or raises with nothing changed."""
        entries = dict(sorted(draft._entries.items()))
        expressions = [expression for _, expression, _ in entries.values()]
        targets: list[_core.Target] = [
            (int(place.in_limits), place.at, name, *bounds[:4], _words(bounds))
            for place, (name, _, bounds) in entries.items()
        ]
        program, functions = compiled(expressions) if expressions else (None, ())
        controls = tuple({id(c): c for e in expressions for c in controls_of(e)}.values())
        used = [thing for expression in expressions for thing in memories(expression)]
        with claimed("optimizer", self, used):
            self.plan.set_settings(
                self.hyper if hyper is None else hyper,
                self.limits if limits is None else limits,
                program,
                targets,
                changes=[
                    *changes,
                    (self, "_entries", entries),
                    (self, "functions", functions),
                    (self, "controls", controls),
                ],
            )

    def around(
        self, step: Callable[[Clock], StepInfo], clock: Clock | None, applied: int, loss: Any
    ) -> StepInfo:
        """A step with what Python must do for it: functions before it, losses seen after it."""
        now = Clock() if clock is None else Clock(*clock)
        if now.step is None:
            now = now._replace(step=applied)
        if loss is not None:
            for control in self.controls:
                control.check(loss)
        for function in self.functions:
            function.update(now)
        info = step(now)
        if loss is not None and info.applied:
            at = int(now.step or 0)
            _core.commit([change for c in self.controls for change in c.after(loss, at)])
        return info

    def first_value(self, expression: Expression) -> float:
        """What the next update is going to use, or NaN where that takes more than its number."""
        if any(isinstance(node, Function) for node in walk(expression)):
            return math.nan
        step = self._applied if self._plan is None else self._plan.applied
        try:
            return float(expression(Clock(step=step, samples=0, epoch=0)))
        except ValueError:  # it reads the batch size
            return math.nan


def controls_of(value: Any) -> Iterator[Control]:
    """The controls of a setting, in the order they are typed."""
    for part in value if isinstance(value, tuple) else (value,):
        if isinstance(part, Expression):
            yield from (node for node in walk(part) if isinstance(node, Control))


def is_scheduled(value: Any) -> bool:
    """Whether a setting is an expression, or a pair with one."""
    return any(isinstance(v, Expression) for v in (value if isinstance(value, tuple) else (value,)))


def _words(limits: Range) -> str:
    return limits.in_words or range_in_words(*limits[:3])
