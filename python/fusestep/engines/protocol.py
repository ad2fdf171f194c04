"""What an engine's plan can do, and what a step tells, wherever the arrays are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from .. import _core


@runtime_checkable
class StepInfo(Protocol):
    """What a step has done; it can be unpacked, ``lr, grad_norm, applied = opt.step(grads)``.

    With CuPy arrays, asking for one of them may wait for the device; not asking never does.

    Attributes:
        lr: the learning rate that was used in the first group.
        grad_norm: the norm of all gradients before clipping; None where nothing asked for it.
        applied: False if the step was skipped for a gradient that is not finite.
    """

    @property
    def lr(self) -> float: ...
    @property
    def grad_norm(self) -> float | None: ...
    @property
    def applied(self) -> bool: ...
    def __iter__(self) -> Iterator[Any]: ...


class Plan(Protocol):
    """Parameters with their state, and how they are updated: checks everything, then writes.

    One call at a time: another thread's is refused with StateError, not queued.
    """

    nonfinite: str
    history: int  # updates that rows may miss

    @property
    def attempted(self) -> int:
        """Steps."""
        ...

    @property
    def applied(self) -> int:
        """Steps that updated something."""
        ...

    @property
    def updates(self) -> list[int]:
        """Of each parameter."""
        ...

    @property
    def values(self) -> list[list[float]]:
        """What its last update has left for the next one, of each parameter."""
        ...

    def held(self) -> AbstractContextManager[None]:
        """Keeps other threads' calls out, for what takes several."""
        ...

    def step(
        self,
        gradients: Any,
        grad_scale: float,
        clock: Any,
        take_norm: bool = False,
        changes: _core.Changes | None = None,
        learn: Callable[[float], _core.Changes] | None = None,
        squared_norm: float | tuple[float, float] | None = None,
    ) -> StepInfo:
        """Updates all parameters once, with None the accumulated or bound gradients.

        The changes are made if there was an update, and those that ``learn`` gives for the norm.
        ``squared_norm`` stands for the sum of squares of gradients that are not all here; as a pair
        it is that of gradients multiplied by a power of two, and the power.
        """
        ...

    @property
    def takes_foreign(self) -> bool:
        """Whether arrays of other libraries can stand for gradients, as NumPy sees them."""
        ...

    # A step in parts

    @property
    def size(self) -> int:
        """Elements of the index space: those of all parameters, one after the other."""
        ...

    def begin_parts(
        self,
        gradients: Any,
        grad_scale: float,
        clock: Any,
        take_norm: bool = False,
        changes: _core.Changes | None = None,
        squared_norm: float | tuple[float, float] | None = None,
    ) -> StepInfo:
        """Does all of a step but the update, which then comes in parts; see `step`.

        Where the norm is given or not asked for, what the gradients hold may come with their part.
        Other calls than `load` are refused until the last part. A step that does not apply has
        ended at once, and to tell it this waits for a device that takes the norm.
        """
        ...

    def update_part(self, end: int) -> bool:
        """Updates the elements from the last part to ``end``; whether that was the last part.

        ``end`` is a multiple of 1024, or the size. With sums over parameters, each is updated with
        the part that its last element is in.
        """
        ...

    def cancel_parts(self) -> None:
        """Forgets a step of which no element is updated."""
        ...

    # Parameters

    def rebind(
        self,
        parameters: list[Any],
        containers: list[_core.Entry] = ...,
        changes: _core.Changes | None = None,
    ) -> None:
        """Goes on with other arrays of the same shapes and dtypes, then makes the changes."""
        ...

    def check_same(self, parameters: list[Any]) -> None:
        """Raises StateError naming a parameter that is another object."""
        ...

    def in_place(self, values: Callable[[], list[Any]]) -> AbstractContextManager[None]:
        """Has the parameters hold other values inside a with statement; no step is taken there.

        ``values`` gives an array for each parameter: its own where it is to stay as it is.
        """
        ...

    @property
    def is_in_place(self) -> bool:
        """Whether they do."""
        ...

    # Gradients

    def bind(self, gradients: Any) -> None:
        """Takes gradients for later steps; None lets go of them."""
        ...

    @property
    def is_bound(self) -> bool: ...
    def set_accumulators(self, arrays: list[Any], takes_rows: bool = False) -> None:
        """Sums into these arrays; those that take rows are zeros, and nobody else's."""
        ...

    def accumulate(self, gradients: Any, samples: float) -> Any:
        """Adds a micro-batch; the sum of squares, a number or an array without shape."""
        ...

    @property
    def accumulated(self) -> tuple[float, int, float, list[bool]]:
        """Samples, micro-batches, the sum of samples times squared norm, who holds a sum."""
        ...

    @property
    def accumulated_samples(self) -> float: ...
    def discard_accumulated(self) -> None: ...

    # Rows

    def fetch(self, path: str, rows: Any) -> None:
        """Has rows of a parameter catch up with the updates that they have missed."""
        ...

    def flush(self) -> None:
        """Likewise, all rows of all parameters."""
        ...

    # Settings

    @property
    def settings(self) -> npt.NDArray[np.float64]:
        """A copy of the table that a step reads: a row for each group."""
        ...

    def set_settings(
        self,
        settings: npt.NDArray[np.float64],
        program: _core.Program | None,
        targets: list[_core.Target],
        changes: _core.Changes | None = None,
    ) -> None: ...

    def load(
        self,
        *,
        updates: list[int],
        attempted: int,
        applied: int,
        accumulated: tuple[float, int, float, list[bool]],
        settings: npt.NDArray[np.float64],
        program: _core.Program | None,
        targets: list[_core.Target],
        nonfinite: str,
        arrays: list[tuple[Any, Any]] = ...,
        changes: _core.Changes | None = None,
        values: list[list[float]] = ...,
    ) -> None:
        """Takes over a saved state, in whole or not at all.

        Arrays are (destination, source), with None for zeros; no values are the initial ones.
        """
        ...

    # Captured steps

    def prepare_replays(self, steps: int, clocks: Sequence[Any] | None, grad_scale: float) -> None:
        """Evaluates the settings of the next steps; TypeError where nothing can be captured."""
        ...

    @property
    def is_captured(self) -> bool:
        """Whether a graph replays a step."""
        ...

    def refuse_capture(self, call: str) -> None:
        """Raises StateError naming the call while a step would be captured, and not done."""
        ...


class Engine(Protocol):
    """A place where arrays can be, as a module."""

    def build(
        self,
        rule: str,
        paths: Sequence[str],
        parameters: Sequence[Any],
        groups: Sequence[int],
        used: Sequence[Collection[str]],
        table: npt.NDArray[np.float64],
        kept: Sequence[Mapping[str, Any]],
        containers: Sequence[_core.Entry],
        copies: Sequence[Any],
    ) -> tuple[Plan, list[dict[str, Any]]]:
        """A plan over the parameters, and for each of them its state arrays by name."""
        ...

    def zeros_like(self, arrays: Sequence[Any]) -> list[Any]: ...
    def to_numpy(self, array: Any) -> npt.NDArray[Any]:
        """A copy, for a saved state."""
        ...
