"""The limits on gradients: settings of the whole optimizer, not of groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arguments import check_number
from ..expression import Expression, function
from .schedule import Place, Range, Schedule, refuse_number

# a name, and what tells the native step that there is none: NaN to take no norm, infinity to clamp
# nothing
_NONE = {"clip_norm": math.nan, "clip_value": math.inf}
LIMITS = tuple(_NONE)
_SMALLEST = 2.0**-149  # of float32
_RANGE = Range(5e-324, math.inf, in_words="greater than 0")


class Limits:
    """``clip_norm`` and ``clip_value``, as they were typed and as the native step reads them."""

    __slots__ = ("_narrow", "_schedule", "typed", "values")

    typed: dict[str, Any]
    values: npt.NDArray[np.float64]  # as typed; the plan has those of the last step

    def __init__(self, schedule: Schedule, narrow: Mapping[int, str]) -> None:
        self._schedule = schedule
        self._narrow = narrow  # by group, a parameter that is float32
        self.typed = {}
        self.values = np.array(list(_NONE.values()))

    def for_plan(self, schedule: Schedule, narrow: Mapping[int, str]) -> Limits:
        """The same limits, for a plan to come."""
        same = Limits(schedule, narrow)
        for name, value in self.typed.items():
            same.put(name, value)
        same.values = self._schedule.limits
        return same

    def drafted(self, values: Mapping[str, Any], schedule: Schedule) -> Limits:
        """Limits that are to take the place of these; raises where a value does not fit."""
        draft = Limits(schedule, self._narrow)
        for name in LIMITS:
            draft.put(name, values[name])
        return draft

    def get(self, name: str) -> float | None:
        """The number in use, or None; also where only the step is told what that will be."""
        value = self.typed[name]
        at = LIMITS.index(name)
        return None if value is None else self._schedule.shown(value, self._schedule.limits[at])

    def put(self, name: str, value: Any) -> None:
        """Takes a number, an expression or None for a plan to come; raises what is wrong."""
        place = Place(True, LIMITS.index(name))
        value = number = _parse(name, value)
        limits = _RANGE
        if name == "clip_value" and self._narrow:
            words = f"at least {_SMALLEST:.2g}, the smallest float32"
            limits = _RANGE._replace(lower=_SMALLEST, in_words=words)
        if value is None:
            number = _NONE[name]
        elif isinstance(value, Expression):
            number = self._schedule.first_value(value)
        elif number < limits.lower:
            raise ValueError(f"{name} must be {limits.in_words}, not {number:g}")
        self.values[place.at] = number
        self.typed[name] = value
        self._schedule.put(place, name, value, limits)

    def set(self, name: str, value: Any) -> None:
        """Likewise, for the next step; nothing has changed where it raises.

        A number in place of an expression is refused with StateError.
        """
        with self._schedule.held() as draft:
            value = _parse(name, value)
            refuse_number("opt", name, self.typed[name], value)
            limits = Limits(draft, self._narrow)
            limits.typed, limits.values = dict(self.typed), self._schedule.limits
            limits.put(name, value)
            self._schedule.commit(
                draft, limits=limits.values, changes=[(self, "typed", limits.typed)]
            )


def _parse(name: str, value: Any) -> Any:
    if value is None or isinstance(value, Expression):
        return value
    if callable(value):
        return function(value)
    with suppress(ValueError):  # of NaN
        if (number := check_number(name, value, -math.inf, math.inf)) > 0.0:
            return number
    raise ValueError(f"{name} must be greater than 0, not {value}; None switches it off")
