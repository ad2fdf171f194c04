"""Expressions in another time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..arguments import check_choice, check_number, check_positive
from .arithmetic import Arithmetic

S = TypeVar("S", bound="Combinators")


class Combinators(Arithmetic):
    """The methods that give the same curve in another time."""

    __slots__ = ()

    def shifted(self: S, n: float) -> S:
        """The same, ``n`` later in its own time: it holds its first value until then.

        >>> import fusestep as fs
        >>> fs.schedules.linear(start=1.0, end=0.0, length=10).shifted(5)(step=10)
        0.5
        """
        check_number("n", n)
        return self._retimed(
            "shifted", {"n": n}, lambda by: self._combine("maximum", self._input(by) - n, 0)
        )

    def repeated(self: S, n: float) -> S:
        """The same, beginning anew every ``n`` of its own time; ``n`` above 0.

        >>> import fusestep as fs
        >>> fs.schedules.linear(start=1.0, end=0.0, length=10).repeated(4)(step=5)
        0.9
        """
        check_positive("n", n)
        return self._retimed("repeated", {"n": n}, lambda by: self._input(by) % n)

    def by(self: S, unit: str) -> S:
        """The same, reading "step", "samples" or "epoch" wherever it reads one of them now.

        >>> import fusestep as fs
        >>> fs.schedules.linear(start=1.0, end=0.0, length=10).by("epoch")(epoch=2.5)
        0.75
        """
        check_choice("unit", unit, ("step", "samples", "epoch"))
        return self._retimed("by", {"unit": unit}, lambda by: self._input(unit))

    def _retimed(
        self: S, name: str, arguments: Mapping[str, Any], clock: Callable[[str], Any]
    ) -> S:
        """What was typed as this method, with ``clock(by)`` for each input that is a time."""
        raise NotImplementedError

    def _input(self, name: str) -> Any:
        """The input of the clock of that name."""
        raise NotImplementedError


METHODS = {
    "shifted": Combinators.shifted,
    "repeated": Combinators.repeated,
    "by": Combinators.by,
}
