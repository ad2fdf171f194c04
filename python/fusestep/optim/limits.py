"""The limits on gradients: settings of the whole optimizer, not of groups."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arguments import check_number
from ..expression import Expression
from .schedule import Place, Range, Schedule

# a name, and what tells the native step that there is none: NaN to take no norm, infinity to clamp
# nothing
_NONE = {"clip_norm": math.nan, "clip_value": math.inf}
LIMITS = tuple(_NONE)
_RANGE = Range(5e-324, math.inf, in_words="greater than 0")


class Limits:
    """``clip_norm`` and ``clip_value``, as they were typed and as the native step reads them."""

    __slots__ = ("_schedule", "_smallest", "typed", "values")

    typed: dict[str, Any]
    values: npt.NDArray[np.float64]  # as typed; the plan has those of the last step

    def __init__(self, schedule: Schedule, smallest: float) -> None:
        self._schedule = schedule
        self._smallest = smallest  # for elements: what the parameters' types hold
        self.typed = {}
        self.values = np.array(list(_NONE.values()))

    def get(self, name: str) -> float | None:
        """The number in use, or None."""
        number = float(self._schedule.limits[LIMITS.index(name)])
        return None if self.typed[name] is None else number

    def put(self, name: str, value: Any) -> None:
        """Takes a number, an expression or None for a plan to come; raises what is wrong."""
        place = Place(True, LIMITS.index(name))
        limits = _RANGE
        if name == "clip_value" and self._smallest > _RANGE.lower:
            words = f"at least {self._smallest:.2g}, the smallest float32"
            limits = _RANGE._replace(lower=self._smallest, in_words=words)
        if value is None:
            number = _NONE[name]
        elif isinstance(value, Expression):
            number = self._schedule.first_value(value)
        else:
            value = number = _positive(name, value)
            if number < limits.lower:
                raise ValueError(f"{name} must be {limits.in_words}, not {number:g}")
        self.values[place.at] = number
        self.typed[name] = value
        self._schedule.put(place, name, value, limits)

    def set(self, name: str, value: Any) -> None:
        """Likewise, for the next step; nothing has changed where it raises."""
        with self._schedule.held() as draft:
            limits = Limits(draft, self._smallest)
            limits.typed, limits.values = dict(self.typed), self._schedule.limits
            limits.put(name, value)
            self._schedule.commit(
                draft, limits=limits.values, changes=[(self, "typed", limits.typed)]
            )


def _positive(name: str, value: Any) -> float:
    number = math.inf if value == math.inf else check_number(name, value)
    if number == 0.0:
        raise ValueError(f"{name} must be greater than 0, not 0; None switches it off")
    return number
