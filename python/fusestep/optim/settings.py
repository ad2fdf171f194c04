"""Hyper-parameters: what a user may set, and the table of numbers that the native step reads.

This is the one seam through which values reach a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _core
from ..arguments import check_number, nearest, range_in_words
from ..expression import Expression, function
from .schedule import Place, Range, Schedule, in_parts, is_scheduled, refuse_number

# a number, an expression, or a function of the step
Number: TypeAlias = "float | Expression | Callable[[Any], float]"

_MAXIMIZE: _core.Column = ("maximize", 0.0, 1.0, False, True)  # follows the columns of every rule
_PAIRS = {"betas": ("beta1", "beta2")}
_CHOICES = {"eps_mode": ("eps_hat", ("after", "hat"))}
# the smallest size and the largest that float32 holds
_FLOAT32 = (2.0**-149, float(np.finfo(np.float32).max))
# a column that an expression may take through 0, and the flag that then keeps its state going
_BUFFERED = {"momentum": "buffered"}


class Settings:
    """The settings of all groups, checked against what the rule declares.

    ``table[group, column]`` is what the plan is built with, and then has for itself. A setting is
    one column, or stands for some: ``betas`` for two, ``eps_mode`` for a flag. Flags decide the
    arithmetic itself and are fixed when the optimizer is built. Anything else may be an expression:
    ``schedule`` has it, and the plan the value that the last step used.
    """

    def __init__(
        self,
        rule: str,
        defaults: Mapping[str, Any],
        own: Sequence[Mapping[str, Any]],
        fixed: Mapping[str, float],
        schedule: Schedule,
        narrow: Mapping[int, str],
    ) -> None:
        columns = (*_core.rules()[rule][0], _MAXIMIZE)
        self._rule = rule
        self._fixed = fixed
        self._schedule = schedule
        self._narrow = narrow  # by group, a parameter that is float32
        self._columns = {column[0]: (i, column) for i, column in enumerate(columns)}
        self.table: npt.NDArray[np.float64] = np.zeros((len(own), len(columns)))
        self.defaults: dict[str, Any] = {}
        self.own: list[dict[str, Any]] = [{} for _ in own]
        self.states = [len(_core.rules()[rule][1])] * len(own)  # arrays per parameter, by group
        for name, number in fixed.items():
            self.table[:, self._columns[name][0]] = number
        for name, value in defaults.items():
            self._put(name, value, self.defaults, range(len(own)))
        for g, values in enumerate(own):
            for name, value in values.items():
                self._put(name, value, self.own[g], [g])
        self.states = [self._states_used(row) for row in self.table]

    @property
    def schedule(self) -> Schedule:
        """Where expressions are."""
        return self._schedule

    def get(self, name: str, group: int | None = None) -> Any:
        """The value in force in a group, or the one for groups without their own.

        That of an expression is what the last step used; before the first, what it is going to, or
        None where that takes what only a step is told.
        """
        value = self.typed(name, group)
        if not is_scheduled(value):
            return value
        if group is None:
            # with a value of its own in every group, none uses this one
            group = next((g for g, own in enumerate(self.own) if name not in own), 0)
        row, parts = self._schedule.hyper[group], in_parts(value)
        columns = [self._columns[column][0] for column in _PAIRS.get(name, (name,))]
        numbers = [self._schedule.shown(p, row[c]) for p, c in zip(parts, columns, strict=True)]
        return tuple(numbers) if name in _PAIRS else numbers[0]

    def typed(self, name: str, group: int | None = None) -> Any:
        """The number or expression that was set for a group, or for groups without their own."""
        if name not in self.defaults:
            raise AttributeError(f"no setting {name!r}{nearest(name, self.defaults)}")
        own = {} if group is None else self.own[group]
        return own.get(name, self.defaults[name])

    def set(self, name: str, value: Any, group: int | None = None) -> None:
        """Sets a value for a group, or for all groups without their own.

        A number in place of an expression is refused with StateError.
        """
        self.typed(name)
        if self.is_fixed(name):
            raise _core.StateError(f"{name} is fixed when the optimizer is built")
        with self._schedule.held() as schedule:
            value, _ = self._parse(name, value)
            holder = "opt" if group is None else f"opt.groups[{group}]"
            refuse_number(holder, name, self.typed(name, group), value)
            draft = copy(self)
            draft._schedule, draft.table = schedule, self._schedule.hyper
            draft.defaults, draft.own = dict(self.defaults), [dict(own) for own in self.own]
            if group is not None:
                draft._put(name, value, draft.own[group], [group])
            else:
                rows = [g for g, own in enumerate(draft.own) if name not in own]
                draft._put(name, value, draft.defaults, rows)
            self._take(draft)

    def extended(
        self, own: Mapping[str, Any], schedule: Schedule, narrow: Mapping[int, str]
    ) -> Settings:
        """These settings with those of one more group, for a plan to come."""
        owners = [*self.own, own]
        more = Settings(self._rule, self.defaults, owners, self._fixed, schedule, narrow)
        more.states[:-1] = self.states
        more.table[:-1] = self._schedule.hyper
        return more

    def by_place(self) -> dict[str, Any]:
        """All values as they were set: under "lr" for all groups, "groups[1] lr" for one."""
        own = {
            f"groups[{g}] {n}": v for g, values in enumerate(self.own) for n, v in values.items()
        }
        return {**self.defaults, **own}

    def drafted(self, values: Mapping[str, Any], schedule: Schedule) -> Settings:
        """Settings that are to take the place of these; values are as ``by_place`` gives them.

        Raises where they do not fit; ``schedule`` remembers their expressions.
        """
        defaults = {name: values[name] for name in self.defaults}
        own: list[dict[str, Any]] = [{} for _ in self.own]
        for where, value in values.items():
            group, _, name = where.rpartition(" ")
            if group:
                own[int(group.removeprefix("groups[").removesuffix("]"))][name] = value
        draft = Settings(self._rule, defaults, own, self._fixed, schedule, self._narrow)
        for row, limit in zip(draft.table, self.states, strict=True):
            self._check_states(row, limit, "the saved settings")
        return draft

    def check(self, name: str, value: Any) -> None:
        """Raises what is wrong with a value."""
        self._parse(name, value)

    def _take(self, draft: Settings) -> None:
        self._schedule.commit(
            draft._schedule,
            hyper=draft.table,
            changes=[(self, "defaults", draft.defaults), (self, "own", draft.own)],
        )

    def is_fixed(self, name: str) -> bool:
        return name in _CHOICES or (name not in _PAIRS and self._columns[name][1][4])

    def _put(self, name: str, value: Any, target: dict[str, Any], groups: Sequence[int]) -> None:
        value, numbers = self._parse(name, value)
        for g in groups:
            self._check_held(name, numbers, g)
        rows = self.table[list(groups)]
        for column, number in numbers.items():
            scheduled = isinstance(number, Expression)
            first = self._schedule.first_value(number) if scheduled else number
            rows[:, self._columns[column][0]] = first
            if column in _BUFFERED:
                rows[:, self._columns[_BUFFERED[column]][0]] = scheduled
        for g, row in zip(groups, rows, strict=True):
            self._check_states(row, self.states[g], f"{name}={value!r}")
        self.table[list(groups)] = rows
        target[name] = value
        for g in groups:
            where = "" if target is self.defaults else f"groups[{g}] "
            for column, number in numbers.items():
                place = Place(False, g * self.table.shape[1] + self._columns[column][0])
                self._schedule.put(place, where + column, number, self._range(column, g))

    def _range(self, column: str, group: int) -> Range:
        """What a step may find in a column: also what every parameter's type holds."""
        _, lower, upper, below_upper, _ = self._columns[column][1]
        path = self._narrow.get(group)
        if path is None:
            return Range(lower, upper, below_upper)
        smallest, largest = _FLOAT32
        words = f"{range_in_words(lower, upper, below_upper)}, and {_held_in_words(path, lower)}"
        lower, upper = max(lower, -largest), min(upper, largest)
        return Range(lower, upper, below_upper, smallest, words)

    def _check_held(self, name: str, numbers: Mapping[str, Any], group: int) -> None:
        """Refuses a number that float32 makes 0 or infinite, where a parameter is float32."""
        path = self._narrow.get(group)
        smallest, largest = _FLOAT32
        for column, number in numbers.items():
            if path is None or isinstance(number, Expression) or number == 0:
                continue
            if not smallest <= abs(number) <= largest:
                label = name if name == column else f"{name} ({column})"
                words = _held_in_words(path, self._columns[column][1][1])
                raise ValueError(f"{label} must be {words}, not {number:g}")

    def _states_used(self, row: npt.NDArray[np.float64]) -> int:
        return _core.states_used(self._rule, row.tolist())

    def _check_states(self, row: npt.NDArray[np.float64], limit: int, what: str) -> None:
        if self._states_used(row) > limit:
            raise _core.StateError(
                f"{what} needs state arrays that this optimizer was built without; build it with "
                "the setting above 0"
            )

    def _parse(self, name: str, value: Any) -> tuple[Any, dict[str, Any]]:
        """A setting in its plain form, and the columns it stands for; raises what is wrong."""
        if name in _PAIRS:
            columns = _PAIRS[name]
            if not isinstance(value, (tuple, list)) or len(value) != len(columns):
                raise TypeError(f"{name} must be two numbers ({', '.join(columns)}), not {value!r}")
            numbers = {
                column: self._check(f"{name}[{i}]", column, value[i])
                for i, column in enumerate(columns)
            }
            return tuple(numbers.values()), numbers
        if name in _CHOICES:
            column, choices = _CHOICES[name]
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
            return value, {column: float(choices.index(value))}
        number = self._check(name, name, value)
        return (bool(number) if self.is_fixed(name) else number), {name: number}

    def _check(self, label: str, column: str, value: Any) -> Any:
        """A number in its range, or an expression, whose values are checked by each step."""
        _, lower, upper, upper_open, flag = self._columns[column][1]
        if not flag:
            if isinstance(value, Expression):
                return value
            if callable(value):
                return function(value)
            if column == "eps" and value == 0:
                raise ValueError(
                    f"{label} must be greater than 0, not 0, or an element whose gradients are all "
                    "0 would become 0 / 0; 1e-30 in float32, or 1e-180 in float64, is as good as 0"
                )
            return check_number(label, value, lower, upper, below_upper=upper_open)
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{label} must be True or False, not {value!r}")
        return float(value)


def _held_in_words(path: str, lower: float) -> str:
    smallest, largest = _FLOAT32
    zero = "" if lower > 0 else "0 or "
    name = f"params['{path}']" if path else "params"
    return f"{zero}between {smallest:.2g} and {largest:.2g} for {name}, which is float32"
