"""Settings as users set them, and the table of numbers that the native step reads.

This is the one seam through which values reach a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from ..arguments import range_in_words
from ..expression import Expression
from ..memory import Changes
from .expressions import Expressions, Scheduled, refuse_number
from .fields import Argument, Column, Setting, is_scheduled

Table = npt.NDArray[np.float64]


class Place(NamedTuple):
    """Where a value was set: for a group, or for all that have none of their own."""

    name: str
    group: int | None = None

    def __str__(self) -> str:
        return self.name if self.group is None else f"groups[{self.group}] {self.name}"


class Rule:
    """What a class of optimizers sets of a native rule.

    ``fields`` are the settings among its arguments, ``fixed`` has columns that the class decides
    for its users. Then, as the rule declares them, ``columns`` by name in the order of the table,
    with those that all rules have at the end, and ``states``, the names of all state arrays that a
    parameter may need. ``check_together`` raises ValueError for settings that are good one by one.
    """

    def __init__(
        self,
        name: str,
        arguments: Mapping[str, Argument],
        fixed: Mapping[str, float],
        check_together: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self.name = name
        self.check_together = check_together
        self.fields = {n: field for n, field in arguments.items() if isinstance(field, Setting)}
        self.fixed = fixed
        rule = _core.rules()[name]
        self.columns = {column[0]: Column(*column) for column in rule.columns}
        self.states = tuple(state[0] for state in rule.states)
        self.group_names = [name for name, field in self.fields.items() if not field.is_global]


class Settings:
    """The settings of an optimizer and its groups, checked against what the rule declares.

    ``values`` has them as they were set, by place. ``table[group, column]`` is what the plan is
    built with, and then has for itself; what holds for the whole optimizer is in row 0. Anything
    that is not fixed may be an expression: ``expressions`` has it evaluated, and the plan has the
    value that the last step used.
    """

    def __init__(
        self,
        rule: Rule,
        values: Mapping[Place, Any],
        narrow: Sequence[str | None],
        expressions: Expressions,
        states: Sequence[Collection[str]] | None = None,
    ) -> None:
        """For a plan to come, or to take the place of others; raises what is wrong.

        ``narrow`` has for each group the path of a parameter that is float32, ``states`` the names
        of the state arrays that each may use; None: those that the values need.
        """
        self.rule = rule
        self.expressions = expressions
        self._narrow = narrow
        self._columns = rule.columns
        self._at = {name: at for at, name in enumerate(self._columns)}
        self.table: Table = np.zeros((len(narrow), len(self._columns)))
        self.states: list[Collection[str]] = (
            [rule.states] * len(narrow) if states is None else list(states)
        )
        for name, number in rule.fixed.items():
            self.table[:, self._at[name]] = number
        self.values: dict[Place, Any] = {}
        for place, value in values.items():
            self.values[place] = self.checked(place.name, value)
        for name, field in rule.fields.items():
            self._fill(name, [0] if field.is_global else range(len(narrow)))
        if states is None:
            self.states = [self._states_used(row) for row in self.table]

    def get(self, name: str, group: int | None = None) -> Any:
        """The value in force in a group, or the one for groups without their own.

        That of an expression is what the last step used; before the first, what it is going to, or
        None where that takes what only a step is told.
        """
        value = self.as_set(name, group)
        if not is_scheduled(value):
            return value
        if group is None:
            # with a value of its own in every group, none uses this one
            group = next(iter(self._rows(name)), 0)
        field, row = self.rule.fields[name], self.expressions.plan.settings[group]
        numbers = field.numbers(value)
        shown = [self.expressions.shown(numbers[c], row[self._at[c]]) for c in field.columns]
        return tuple(shown) if isinstance(value, tuple) else shown[0]

    def as_set(self, name: str, group: int | None = None) -> Any:
        """The number or expression that was set for a group, or for groups without their own."""
        if group is not None and (own := Place(name, group)) in self.values:
            return self.values[own]
        return self.values[Place(name)]

    def of(self, group: int | None) -> dict[str, Any]:
        """All that is in force in a group, or for groups without their own, as it was set."""
        names = self.rule.fields if group is None else self.rule.group_names
        return {name: self.as_set(name, group) for name in names}

    def own(self, group: int | None) -> dict[str, Any]:
        """What was set for a group alone."""
        return {place.name: v for place, v in self.values.items() if place.group == group}

    def checked(self, name: str, value: Any) -> Any:
        """A value as it is kept; raises what is wrong with it."""
        return self.rule.fields[name].checked(value, self._columns)

    def check_together(self) -> None:
        """Raises ValueError for settings of a group that are good one by one, but not together."""
        for group in range(len(self.table)):
            self.rule.check_together({**self.of(None), **self.of(group)})

    def is_fixed(self, name: str) -> bool:
        """Whether it decides the arithmetic itself, and is fixed when the optimizer is built."""
        return self.rule.fields[name].is_fixed

    def set(self, name: str, value: Any, group: int | None = None) -> None:
        """Sets a value for a group, or for all groups without their own.

        A number in place of an expression is refused with StateError.
        """
        if self.is_fixed(name):
            raise _core.StateError(f"{name} is fixed when the optimizer is built")
        plan = self.expressions.plan
        with plan.held():
            value = self.checked(name, value)
            holder = "opt" if group is None else f"opt.groups[{group}]"
            refuse_number(holder, name, self.as_set(name, group), value)
            draft = copy(self)
            draft.values = {**self.values, Place(name, group): value}
            draft.check_together()
            draft.table = plan.settings
            draft._fill(name, draft._rows(name) if group is None else [group])
            self.take(draft)

    def take(
        self,
        draft: Settings,
        changes: Changes | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Goes on with another's values, and with what comes with them: all at once, or nothing."""
        taken: Changes = [(self, "values", draft.values), *(changes or ())]
        self.expressions.commit(draft.scheduled(), draft.table, taken, state)

    def extended(
        self, own: Mapping[str, Any], narrow: Sequence[str | None], expressions: Expressions
    ) -> Settings:
        """These settings with those of one more group, for a plan to come."""
        added = {Place(name, len(self.states)): value for name, value in own.items()}
        more = Settings(self.rule, {**self.values, **added}, narrow, expressions)
        more.states[:-1] = self.states
        more.table[:-1] = self.expressions.plan.settings
        return more

    def replaced(self, values: Mapping[Place, Any]) -> Settings:
        """Settings that are to take the place of these; raises where they do not fit."""
        return Settings(self.rule, values, self._narrow, self.expressions, self.states)

    def scheduled(self) -> list[Scheduled]:
        """The expressions, and where their values go."""
        found = []
        for name in {place.name: None for place, v in self.values.items() if is_scheduled(v)}:
            field = self.rule.fields[name]
            for group in [0] if field.is_global else range(len(self.table)):
                place = Place(name, group) if Place(name, group) in self.values else Place(name)
                for column, number in field.numbers(self.values[place]).items():
                    if isinstance(number, Expression):
                        label = str(place._replace(name=column))
                        found.append((number, self.target(field, column, group, label)))
        return found

    def _rows(self, name: str) -> Sequence[int]:
        """The groups that follow the value for all."""
        if self.rule.fields[name].is_global:
            return [0]
        return [g for g in range(len(self.table)) if Place(name, g) not in self.values]

    def _fill(self, name: str, groups: Sequence[int]) -> None:
        """Writes what is in force in groups into the table; an expression has no number yet."""
        field = self.rule.fields[name]
        for group in groups:
            value = self.as_set(name, group)
            row = self.table[group].copy()
            for column, number in field.numbers(value).items():
                scheduled = isinstance(number, Expression)
                if not scheduled:
                    self._check_float32(field, column, number, group)
                row[self._at[column]] = math.nan if scheduled else number
            for state in self._states_used(row):
                if state not in self.states[group]:
                    raise _core.StateError(
                        f"{name}={value!r}: built without {_an(state)} buffer; build with "
                        f"{name} > 0"
                    )
            self.table[group] = row

    def _states_used(self, row: Table) -> tuple[str, ...]:
        return _core.states_used(self.rule.name, row.tolist())

    def _path_of_float32(self, field: Setting[Any, Any], group: int) -> str | None:
        """A parameter whose type limits the field's numbers in a group."""
        if field.float32 is None:
            return None
        paths = self._narrow if field.is_global else [self._narrow[group]]
        return next((path for path in paths if path is not None), None)

    def _check_float32(
        self, field: Setting[Any, Any], column: str, number: float, group: int
    ) -> None:
        """Refuses a number that float32 makes 0 or infinite, where a parameter is float32."""
        path = self._path_of_float32(field, group)
        if path is None or field.float32 is None or number == 0 or column not in field.columns:
            return
        smallest, largest = field.float32
        if not smallest <= abs(number) <= largest:
            label = field.name if field.name == column else f"{field.name} ({column})"
            expected = _float32_in_words(path, self._columns[column], field.float32)
            raise ValueError(f"{label} must be {expected}, not {number:g}")

    def target(self, field: Setting[Any, Any], name: str, group: int, label: str) -> _core.Target:
        """Where the values of an expression go, and what a step may find there."""
        column = self._columns[name]
        lower, upper, smallest = column.lower, column.upper, 0.0
        expected = range_in_words(lower, upper, column.below_upper)
        path = self._path_of_float32(field, group)
        if path is not None and field.float32 is not None:
            smallest, largest = field.float32
            lower, upper = max(lower, -largest), min(upper, largest)
            expected += f", and {_float32_in_words(path, column, field.float32)}"
        return _core.Target(
            group=group,
            column=self._at[name],
            name=label,
            lower=lower,
            upper=upper,
            below_upper=column.below_upper,
            smallest=smallest,
            expected=expected,
        )


def _an(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _float32_in_words(path: str, column: Column, sizes: tuple[float, float]) -> str:
    smallest, largest = sizes
    zero = "" if column.lower > 0 else "0 or "
    size = f"between {smallest:.2g} and {largest:.2g}"
    if largest == math.inf:
        size = f"at least {smallest:.2g}"
    return f"{zero}{size} for {f'params[{path!r}]' if path else 'params'}, which is float32"
