"""Hyper-parameters: what a user may set, and the table of numbers that the native step reads.

This is the one seam through which values reach a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt

from .. import _core
from ..arguments import check_number

T = TypeVar("T")

_MAXIMIZE: _core.Column = ("maximize", 0.0, 1.0, False, True)  # follows the columns of every rule
_PAIRS = {"betas": ("beta1", "beta2")}
_CHOICES = {"eps_mode": ("eps_hat", ("after", "hat"))}


class _Owner(Protocol):
    _settings: Settings


class Setting(Generic[T]):
    """A hyper-parameter as an attribute of an optimizer: the value for groups without their own."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, optimizer: _Owner, owner: type) -> T:
        return cast("T", optimizer._settings.get(self._name))

    def __set__(self, optimizer: _Owner, value: T) -> None:
        optimizer._settings.set(self._name, value)


class Settings:
    """The settings of all groups, checked against what the rule declares.

    ``table[group, column]`` is what the native step reads. A setting is one column, or stands for
    some: ``betas`` for two, ``eps_mode`` for a flag. Flags decide the arithmetic itself and are
    fixed when the optimizer is built.
    """

    def __init__(
        self,
        rule: str,
        defaults: Mapping[str, Any],
        own: Sequence[Mapping[str, Any]],
        fixed: Mapping[str, float],
    ) -> None:
        columns = (*_core.rules()[rule][0], _MAXIMIZE)
        self._rule = rule
        self._fixed = fixed
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

    def get(self, name: str, group: int | None = None) -> Any:
        """The value in force in a group, or the one for groups without their own."""
        if name not in self.defaults:
            raise AttributeError(f"no setting {name!r}; known are {', '.join(self.defaults)}")
        own = {} if group is None else self.own[group]
        return own.get(name, self.defaults[name])

    def set(self, name: str, value: Any, group: int | None = None) -> None:
        """Sets a value for a group, or for all groups without their own."""
        self.get(name)
        if self.is_fixed(name):
            raise _core.StateError(f"{name} is fixed when the optimizer is built")
        if group is not None:
            self._put(name, value, self.own[group], [group])
        else:
            rows = [g for g, own in enumerate(self.own) if name not in own]
            self._put(name, value, self.defaults, rows)

    def restore(
        self, defaults: Mapping[str, Any], own: Sequence[Mapping[str, Any]], keep: Sequence[str]
    ) -> None:
        """Takes saved settings, except those to keep; checks all of them before it writes any."""

        def merged(saved: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, Any]:
            taken = {name: value for name, value in saved.items() if name not in keep}
            return {**taken, **{name: present[name] for name in keep if name in present}}

        candidate = Settings(
            self._rule,
            merged(defaults, self.defaults),
            [merged(*pair) for pair in zip(own, self.own, strict=True)],
            self._fixed,
        )
        for row, limit in zip(candidate.table, self.states, strict=True):
            self._check_states(row, limit, "the saved settings")
        self.table[:] = candidate.table
        self.defaults, self.own = candidate.defaults, candidate.own

    def is_fixed(self, name: str) -> bool:
        return name in _CHOICES or (name not in _PAIRS and self._columns[name][1][4])

    def _put(self, name: str, value: Any, target: dict[str, Any], groups: Sequence[int]) -> None:
        value, numbers = self._parse(name, value)
        rows = self.table[list(groups)]
        for column, number in numbers.items():
            rows[:, self._columns[column][0]] = number
        for g, row in zip(groups, rows, strict=True):
            self._check_states(row, self.states[g], f"{name}={value!r}")
        self.table[list(groups)] = rows
        target[name] = value

    def _states_used(self, row: npt.NDArray[np.float64]) -> int:
        return _core.states_used(self._rule, row.tolist())

    def _check_states(self, row: npt.NDArray[np.float64], limit: int, what: str) -> None:
        if self._states_used(row) > limit:
            raise _core.StateError(
                f"{what} needs state arrays that this optimizer was built without; build it with "
                "the setting above 0"
            )

    def _parse(self, name: str, value: Any) -> tuple[Any, dict[str, float]]:
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

    def _check(self, label: str, column: str, value: Any) -> float:
        _, lower, upper, upper_open, flag = self._columns[column][1]
        if not flag:
            return check_number(label, value, lower, upper, below_upper=upper_open)
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{label} must be True or False, not {value!r}")
        return float(value)
