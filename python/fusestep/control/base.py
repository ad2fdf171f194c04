"""What all values that follow the loss share."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from copy import copy
from numbers import Real
from typing import Any, ClassVar

from .._core import StateError
from ..arguments import check_finite
from ..expression import Expression, clip
from ..expression.cells import Cell
from ..expression.nodes import Named
from ..expression.vocabulary import plain


class Control(Named):
    """An expression whose value follows the loss. Not used by itself: `Plateau` and others are.

    An optimizer that finds one in its expressions shows it the loss of every ``step(loss=...)``,
    after the update and only if it was applied, and saves its state in ``state_dict()``. Outside
    of an optimizer call ``observe``. In arrays and pictures it has its present value throughout.

    It remembers what it has seen, so two optimizers that share one both show it their losses.
    """

    __slots__ = ("_cell", "_seen")

    # attributes that are its state beside the value, as they begin; None becomes a number later
    _remembers: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, arguments: Mapping[str, Any], cell: Cell, body: Expression | None = None
    ) -> None:
        self._cell = cell
        self._seen = 0
        for name, first in self._remembers.items():
            setattr(self, name, copy(first))
        signature = inspect.signature(type(self))
        defaults = {name: p.default for name, p in signature.parameters.items()}
        plain_arguments = {name: plain(value) for name, value in arguments.items()}
        body = cell if body is None else body
        super().__init__(type(self).__name__, plain_arguments, body, defaults)

    @property
    def _known(self) -> Mapping[str, Any]:
        assert self.arguments is not None
        return self.arguments

    @property
    def value(self) -> float:
        """The value now."""
        return float(self(step=self._seen))

    def check(self, loss: Any) -> float:
        """The loss as a float; raises TypeError or ValueError where it can't be observed."""
        if isinstance(loss, (str, bytes, bool)):
            raise TypeError(f"loss must be a number, not {loss!r}")
        try:
            return float(loss)
        except (TypeError, ValueError):
            raise TypeError(f"loss must be a number, not {loss!r}") from None

    def observe(self, loss: Any, *, step: int | None = None) -> None:
        """Takes in the loss of an update.

        Args:
            loss: a number, or an array of one. See each class for NaN and for losses below 0.
            step: of that update. None: one more than the last.

        Raises:
            TypeError, ValueError: the loss is none that can be observed. Nothing has changed.
        """
        number = self.check(loss)
        self._seen = (self._seen if step is None else step) + 1
        self._observe(number)

    def _observe(self, loss: float) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What it remembers: JSON values."""
        state = {name.lstrip("_"): getattr(self, name) for name in self._remembers}
        return {"seen": self._seen, "value": float(self._cell.memory[0]), **state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a ``state_dict``. StateError where it does not fit; nothing has changed."""
        self.check_state(state)
        self._seen = state["seen"]
        self._cell.memory[0] = state["value"]
        for name in self._remembers:
            saved = state[name.lstrip("_")]
            setattr(self, name, list(saved) if isinstance(saved, (list, tuple)) else saved)

    def check_state(self, state: Any) -> None:
        """Raises StateError unless ``load_state_dict`` would take the state."""
        first = {name.lstrip("_"): value for name, value in self._remembers.items()}
        first = {"seen": 0, "value": 0.0, **first}
        if not isinstance(state, Mapping) or state.keys() != first.keys():
            raise StateError(
                f"the state of {self!r} must be a dict of {', '.join(first)}, not {state!r}"
            )
        for name, value in first.items():
            if not _is_alike(state[name], value):
                raise StateError(f"the state of {self!r} can't have {name}={state[name]!r}")


def bounded(value: float, lower: float, upper: float) -> float:
    """The value, moved into the bounds."""
    return min(max(value, lower), upper)


def check_bounds(lower: Any, upper: Any, start: float | None = None) -> None:
    """Raises ValueError unless 0 <= lower <= start <= upper."""
    if not 0 <= check_finite("lower", lower) <= check_finite("upper", upper):
        raise ValueError(f"bounds must be 0 <= lower <= upper, not {lower!r} and {upper!r}")
    if start is not None and not lower <= start <= upper:
        raise ValueError(f"the value begins at {start!r}, outside of [{lower!r}, {upper!r}]")


def clipped(curve: Expression, lower: float, upper: float | None) -> Expression:
    """A curve within bounds."""
    highest = 1e300 if upper is None else upper
    check_bounds(lower, highest)
    return clip(curve, lower, highest)


def _is_alike(saved: Any, first: Any) -> bool:
    """Whether a saved value is of the kind that it began as."""
    if isinstance(first, list):
        return isinstance(saved, (list, tuple)) and all(_is_alike(entry, None) for entry in saved)
    if isinstance(first, bool) or isinstance(saved, bool):
        return isinstance(saved, bool) and isinstance(first, bool)
    if isinstance(first, int):
        return isinstance(saved, int) and saved >= 0
    return isinstance(saved, Real) or (saved is None and first is None)
