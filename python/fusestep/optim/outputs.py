"""What an update writes besides a parameter and its state, as settings: an average, and a copy."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, overload

from ..arguments import check_whole, nearest
from .fields import Argument, Column, Declared, Limit, Setting


class Decay(Limit):
    """How much the average of a parameter keeps, a number or an expression; None: no average."""

    def __init__(self) -> None:
        super().__init__(unset=0.0, is_global=False)

    def numbers(self, value: Any) -> dict[str, Any]:
        return {**super().numbers(value), "averages": float(value is not None)}


class Every(Setting[int, int]):
    """A whole number of updates, fixed when the optimizer is built."""

    annotation = "int"
    is_fixed = True
    is_global = True
    float32 = None

    @classmethod
    def of(cls, default: int) -> Any:
        """To type checkers a value: an attribute that is Final takes no assignment."""
        return cls(default)

    def checked(self, value: Any, columns: Mapping[str, Column]) -> Any:
        return check_whole(self.name, value, 1, int(columns[self.columns[0]].upper))

    def numbers(self, value: Any) -> dict[str, Any]:
        return {self.columns[0]: float(value)}


class Copies(Argument):
    """Arrays by the path of a parameter that updates write out to them."""

    annotation = "Mapping[str, Any]"
    default = None

    @overload
    def __get__(self, holder: None, owner: type) -> Copies: ...
    @overload
    def __get__(self, holder: Declared, owner: type) -> dict[str, Any]: ...
    def __get__(self, holder: Any, owner: type) -> Any:
        return self if holder is None else dict(holder._copied)

    def __set__(self, holder: Declared, value: Mapping[str, Any]) -> None:
        raise AttributeError("copies can't be assigned: they are fixed when the optimizer is built")


def checked_copies(copies: Any, paths: Collection[str]) -> dict[str, Any]:
    """The arrays by path; raises where there is no such parameter."""
    if copies is None:
        return {}
    if not isinstance(copies, Mapping):
        raise TypeError(f"copies must be a dict of arrays by path, not {type(copies).__name__}")
    for path in copies:
        if path not in paths:
            raise ValueError(f"copies: no parameter {path!r}{nearest(str(path), paths)}")
    return dict(copies)
