"""The form of saved state: JSON values, and arrays beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from reprlib import Repr
from typing import Any

from ..expression import Expression
from ..expression.writing import saved
from .schedule import controls_of

FORMAT = 2  # 1 did not say which class a state is of

_SHORT = Repr()
_SHORT.maxother = _SHORT.maxstring = 200
short = _SHORT.repr  # of what may be of any size, depth or class

_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}  # which JSON has no numbers for


def plain(value: Any) -> Any:
    """A setting as a JSON value, or a dict of settings; a Python function is its name."""
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, Expression):
        return saved(value)
    return number_as_json(value) if isinstance(value, float) else value


def number_as_json(number: float) -> float | str:
    """The number, or the name of what JSON has no number for."""
    return number if math.isfinite(number) else str(number)


def number_from_json(value: Any) -> Any:
    """What ``number_as_json`` was given; any other value as it is."""
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


def controls(typed: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The states of all controls, by where the setting stands that holds them."""
    found = {where: list(controls_of(value)) for where, value in typed.items()}
    return {w: [control.state_dict() for control in held] for w, held in found.items() if held}
