"""The base class of values that follow the loss, and checks that they share."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from .. import _core
from ..arguments import check_finite, check_scalar, check_whole, named_arguments
from ..clock import Clock
from ..expression import Expression, clip
from ..expression.nodes import Cell, Named, expression
from ..expression.vocabulary import RENAMED_ARGUMENTS, as_python, defaults_of
from ..expression.writing import Call
from ..memory import Changes, MemoryCell, Remembering
from ..saved_state import LARGEST

_PATIENCE = 1000  # updates without a loss, where no clock tells the epoch
_TOLD = (math.inf, LARGEST)


@dataclass(frozen=True)
class ControlMemory:
    """The state of every control: updates seen so far, and its value."""

    seen: int = 0
    value: float = 1.0


class Control(Remembering, Named):
    """An expression whose value follows the loss: the base class of `Plateau` and others.

    An optimizer with one in its expressions passes it the loss of every ``step(loss=...)``, after
    the update and only if that was applied, and saves its state in ``state_dict()``. Outside of an
    optimizer call ``observe``. Evaluated for many clocks at once, as in pictures, it has its
    present value for all of them.

    Its state depends on the run, so it belongs to the first optimizer, and the first loader, whose
    settings it is in; another one refuses it with StateError. ``copy.deepcopy`` gives one that
    belongs to nobody, with the same state.
    """

    __slots__ = ("_cell", "_first", "_memory", "_owners", "_waits")
    _remembers = True
    _room = ""  # what goes before its name in text

    _memory: ControlMemory
    _first: ControlMemory
    _waits: tuple[float, int] | None  # epoch and updates at the first step without a loss

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            earlier = RENAMED_ARGUMENTS.get(cls.__name__, {})
            hints = {name: repr(now) for name, now in earlier.items()}
            cls.__init__ = named_arguments(hints=hints)(cls.__init__)  # type: ignore[method-assign]

    def __init__(
        self,
        arguments: Mapping[str, Any],
        first: ControlMemory,
        cell: MemoryCell | None = None,
        body: Expression | None = None,
    ) -> None:
        self._cell = MemoryCell(first.value) if cell is None else cell
        self._cell.owner = self
        self._remember(first)
        self._waits = None
        given = {name: as_python(value) for name, value in arguments.items()}
        name = f"{self._room}{type(self).__name__}"
        call = Call(name, given, defaults_of(type(self)))
        super().__init__(call, self._cell if body is None else body)

    @property
    def _known(self) -> Mapping[str, Any]:
        assert self._call.arguments is not None
        return self._call.arguments

    @property
    def value(self) -> float:
        """The value now."""
        return float(self(step=self._memory.seen))

    def _check_loss(self, loss: Any) -> float:
        """The loss as a float; TypeError or ValueError where the control can't follow it."""
        return check_scalar("loss", loss)

    def observe(self, loss: Any, *, step: int | None = None) -> None:
        """Changes the value for the loss of an update.

        Args:
            loss: a number, or an array of one element. See each class for NaN and for losses
                below 0.
            step: of that update: a whole number of at least 0. None: one more than the last.

        Raises:
            TypeError, ValueError: an argument is out of its range. Nothing has changed.
        """
        at = None if step is None else check_whole("step", step, 0, LARGEST)
        _core.commit(self._observing(loss, at))

    def _observing(self, loss: Any, step: int | None = None) -> Changes:
        """The changes that ``observe`` makes, for ``_core.commit``."""
        number = self._check_loss(loss)
        seen = min((self._memory.seen if step is None else step) + 1, LARGEST)
        return self._changes(self._after(number, seen))

    def _after(self, loss: float, seen: int) -> ControlMemory:
        """The memory after a loss; ``seen`` is the step of the next update."""
        raise NotImplementedError

    def _shown(self, memory: ControlMemory) -> Iterable[tuple[Cell, float]]:
        return ((self._cell, memory.value),)


def tell_unseen(
    controls: Iterable[Control], clock: Clock | None, updates: int, *, now: bool = False
) -> None:
    """Warns about controls that have seen no loss so far, once for each.

    Args:
        controls: those of an optimizer whose step was given no loss.
        clock: of that step.
        updates: applied before it.
        now: warn at once, instead of after an epoch or 1000 updates.
    """
    for control in controls:
        if control._memory.seen or control._waits == _TOLD:
            continue
        told = getattr(clock, "epoch", None)
        epoch = float(told) if isinstance(told, Real) else 0.0  # the step itself checks the clock
        if control._waits is None:
            control._waits = (epoch, updates)
        since, first = control._waits
        if epoch - since >= 1.0 or updates - first >= _PATIENCE or (now and updates > 0):
            control._waits = _TOLD
            warnings.warn(
                f"{control!r} has seen no loss after {updates} updates and keeps its first value: "
                "pass it, opt.step(..., loss=loss)",
                stacklevel=3,
            )


def bounded(value: float, lower: float, upper: float) -> float:
    """The value, moved into the bounds."""
    return float(min(max(value, lower), upper))


def check_bounds(lower: Any, upper: Any, start: float | None = None) -> None:
    """Raises ValueError unless 0 <= lower <= start <= upper."""
    if not 0 <= check_finite("lower", lower) <= check_finite("upper", upper):
        raise ValueError(f"bounds must be 0 <= lower <= upper, not {lower!r} and {upper!r}")
    if start is not None and not lower <= start <= upper:
        raise ValueError(f"the value begins at {start!r}, outside of [{lower!r}, {upper!r}]")


def check_curve(name: str, curve: Any) -> Expression:
    """An expression, or a number as one; TypeError, naming it, for anything else."""
    try:
        return expression(curve)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None


def clipped(curve: Expression, lower: float, upper: float | None) -> Expression:
    """A curve within bounds."""
    highest = 1e300 if upper is None else upper
    check_bounds(lower, highest)
    return clip(curve, lower, highest)
