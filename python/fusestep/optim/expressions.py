"""All expressions of an optimizer, as one native program that every step runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _core
from ..clock import Clock
from ..control import Control
from ..engines import Plan
from ..expression import Expression
from ..expression.program import Callback, program_of
from ..expression.traversal import walk
from ..memory import Changes, Remembering, claimed, memories
from .fields import components

# an expression, and where its values go
Scheduled: TypeAlias = tuple[Expression, _core.Target]


class Expressions:
    """What a plan evaluates in each step, and what it needs of Python for it."""

    __slots__ = ("__weakref__", "_first", "_plan", "controls", "functions")

    controls: tuple[Control, ...]  # what a step shows the loss to
    functions: tuple[Callback, ...]  # what a step calls before it evaluates

    def __init__(self, before: Expressions | None = None) -> None:
        self._first = before and before.owner  # of the same optimizer, if this is not
        self._plan: Plan | None = None
        self.controls = self.functions = ()

    @property
    def owner(self) -> Expressions:
        """To whom the controls belong: the first of these that the optimizer had."""
        return self._first or self

    @property
    def plan(self) -> Plan:
        """Whose settings these are."""
        assert self._plan is not None
        return self._plan

    def attach(
        self,
        plan: Plan,
        scheduled: Sequence[Scheduled],
        table: npt.NDArray[np.float64],
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Compiles for this plan, which has not stepped yet; ``state`` is as in ``commit``."""
        self._plan = plan
        self.commit(scheduled, table, [], state)

    def commit(
        self,
        scheduled: Sequence[Scheduled],
        table: npt.NDArray[np.float64],
        changes: Changes,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Gives the plan settings, and with them a saved state, in one call: all or nothing.

        ``state`` is what `_core.CpuPlan.load` takes beside; the changes are made in any case.
        """
        given, used = self._given(scheduled, table, changes)
        with claimed("optimizer", self.owner, used):
            if state is None:
                self.plan.set_settings(*given.values())
            else:
                self.plan.load(**given, **state)

    def returning(
        self, scheduled: Sequence[Scheduled], changes: Changes, state: Mapping[str, Any]
    ) -> Callable[[], None]:
        """One native call that makes all as it is now; ``state`` is as in ``commit``."""
        given, used = self._given(scheduled, self.plan.settings, changes)
        for thing in used:
            given["changes"] += thing._changes(thing._memory)
        return partial(self.plan.load, **given, **state)

    def _given(
        self, scheduled: Sequence[Scheduled], table: npt.NDArray[np.float64], changes: Changes
    ) -> tuple[dict[str, Any], list[Remembering]]:
        """What the plan takes, in its order, and what has a memory that the expressions read."""
        expressions = [expression for expression, _ in scheduled]
        program, functions = program_of(expressions) if expressions else (None, ())
        controls = tuple({id(c): c for e in expressions for c in controls_of(e)}.values())
        given = {
            "settings": table,
            "program": program,
            "targets": [target for _, target in scheduled],
            "changes": [
                *changes,
                (self, "functions", functions),
                (self, "controls", controls),
            ],
        }
        return given, [thing for expression in expressions for thing in memories(expression)]

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
            changes = [
                change for control in self.controls for change in control._observing(loss, step)
            ]
        for function in self.functions:
            function.update(now)
        return now, changes

    def shown(self, value: Any, number: float) -> float | None:
        """What a user sees of a number or an expression, given what stands where steps read.

        NaN stands for an expression that no step has used yet: then what the next update is going
        to use, or None where only the step is told that. Python functions are called for it.
        """
        if not isinstance(value, Expression):
            return float(value)
        if not math.isnan(number):
            return float(number)
        step = self.plan.applied
        clock = Clock(step=step, samples=0, epoch=0) if step == 0 else Clock(step=step)
        try:
            upcoming = float(value(clock))
        except ValueError:  # it reads what is missing
            return None
        return None if math.isnan(upcoming) else upcoming


def controls_of(value: Any) -> Iterator[Control]:
    """The controls of a setting, in the order they are written."""
    for number in components(value):
        if isinstance(number, Expression):
            yield from (node for node in walk(number) if isinstance(node, Control))


def refuse_number(holder: str, name: str, present: Any, value: Any) -> None:
    """Raises StateError, with what to do, where a number would take the place of an expression.

    ``holder`` is what has the setting, as users write it.
    """
    before, after = components(present), components(value)
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
    """What a user writes to set one number of a value to something else."""
    texts = [text if j == i else repr(number) for j, number in enumerate(value)]
    return f"{holder}.{name} = {texts[0] if len(texts) == 1 else '(' + ', '.join(texts) + ')'}"
