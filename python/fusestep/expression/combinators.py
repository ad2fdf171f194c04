"""Expressions in another time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..arguments import check_choice, check_number, check_positive
from ..clock import Unit
from .arithmetic import Arithmetic

if TYPE_CHECKING:
    from .nodes import Expression


class Combinators(Arithmetic):
    """The methods that give the same curve in another time."""

    __slots__ = ()

    def shifted(self, n: float) -> Expression:
        """The same, ``n`` later in its own time: it holds its first value until then.

        >>> import fusestep as fs
        >>> fs.schedules.linear(start=1.0, end=0.0, length=10).shifted(5)(step=10)
        0.5
        """
        check_number("shifted: n", n)
        return self._retimed(
            "shifted", {"n": n}, lambda by: self._combine("maximum", self._input(by) - n, 0)
        )

    def repeated(self, n: float) -> Expression:
        """The same, beginning anew every ``n`` of its own time; ``n`` above 0.

        >>> import fusestep as fs
        >>> fs.schedules.linear(start=1.0, end=0.0, length=10).repeated(4)(step=5)
        0.9
        """
        check_positive("repeated: n", n)
        return self._retimed("repeated", {"n": n}, lambda by: self._input(by) % n)

    def by(self, unit: Unit) -> Expression:
        """The same, reading "step", "samples" or "epoch" wherever it reads one of them now.

        >>> import fusestep as fs
        >>> fs.schedules.linear(start=1.0, end=0.0, length=10).by("epoch")(epoch=2.5)
        0.75
        """
        check_choice("by: unit", unit, ("step", "samples", "epoch"))
        return self._retimed("by", {"unit": unit}, lambda by: self._input(unit))

    def _retimed(
        self, name: str, arguments: Mapping[str, Any], clock: Callable[[str], Any]
    ) -> Expression:
        """What was typed as this method, with ``clock(by)`` for each input that is a time."""
        raise NotImplementedError

    def _input(self, name: str) -> Any:
        """The input of the clock of that name."""
        raise NotImplementedError


METHODS: Mapping[str, Callable[..., Any]] = {
    "shifted": Combinators.shifted,
    "repeated": Combinators.repeated,
    "by": Combinators.by,
}
