"""Adaptive gradient clipping, unit by unit: its settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..arguments import check_whole
from .fields import Column, Scalar, Setting


class Floor(Scalar):
    """A number that is used in double."""

    float32 = None


class Axis(Setting["int | None", "int | None"]):
    """One of the dimensions of arrays, or None; fixed when the optimizer is built."""

    annotation = "int | None"
    is_fixed = True
    float32 = None

    @classmethod
    def of(cls, default: int | None) -> Any:
        """To type checkers a value: an attribute that is Final takes no assignment."""
        return cls(default)

    def checked(self, value: Any, columns: Mapping[str, Column]) -> Any:
        if value is None:
            return None
        column = columns[self.columns[0]]
        return check_whole(self.name, value, int(column.lower), int(column.upper))

    def numbers(self, value: Any) -> dict[str, Any]:
        return {self.columns[0]: math.nan if value is None else float(value)}
