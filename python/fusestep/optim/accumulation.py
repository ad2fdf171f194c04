"""The arrays in which gradients of micro-batches are summed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import _core, foreign, trees
from ..arguments import check_positive
from ..engines import Engine, Plan
from .loading import as_json

_MOST = 2.0**53  # samples: whole numbers are exact up to here, and float32 holds the reciprocal


class Accumulator:
    """Sums of gradients times samples, one for each parameter; no memory before the first."""

    __slots__ = ("_arrays", "_engine", "_parameters", "_plan")

    def __init__(self, engine: Engine, plan: Plan, parameters: Mapping[str, Any]) -> None:
        self._engine = engine
        self._plan = plan
        self._parameters = parameters
        self._arrays: list[Any] | None = None

    def add(self, gradients: Sequence[Any], samples: Any) -> Any:
        """Adds a micro-batch; returns the squared norm of its gradients."""
        weight = check_positive("samples", samples)
        if not 1.0 / _MOST <= weight <= _MOST:
            raise ValueError(f"samples must be between 2^-53 and 2^53, not {samples!r}")
        self.make_room("accumulate")
        return self._plan.accumulate(gradients, weight)

    def saved_form(self) -> dict[str, Any]:
        """What is accumulated, with the arrays themselves."""
        samples, micro_batches, squares, holds = self._plan.accumulated
        gradients: dict[str, Any] = dict.fromkeys(self._parameters)
        for path, array, held in zip(gradients, self._arrays or (), holds, strict=False):
            gradients[path] = array if held else None
        return {
            "samples": samples,
            "micro_batches": micro_batches,
            "weighted_squared_norms": as_json(squares),
            "gradients": gradients,
        }

    def load(
        self, totals: tuple[float, int, float], gradients: Mapping[str, Any]
    ) -> tuple[tuple[float, int, float, list[bool]], list[tuple[Any, Any]]]:
        """What the plan must load, and the arrays to copy, (destination, source) each.

        ``gradients`` are saved sums by path. Makes room for them; StateError where there is none.
        """
        if totals[1] and self._plan.is_bound:
            raise _core.StateError(
                "the state has accumulated gradients, and gradients are bound: bind(None) first"
            )
        if totals[1]:
            self.make_room("load_state_dict")
        arrays = dict(zip(self._parameters, self._arrays or (), strict=False))
        copies = [(arrays[path], sum) for path, sum in gradients.items()]
        return (*totals, [path in gradients for path in arrays]), copies

    @property
    def arrays(self) -> Sequence[Any]:
        """The arrays of the sums, if there are any yet."""
        return self._arrays or ()

    def make_room(self, call: str) -> None:
        """Allocates the sums, if they are not yet; for ``call``, which an error names."""
        if self._arrays is None:
            self._plan.refuse_capture(call)
            zeros = self._engine.zeros_like(list(self._parameters.values()))
            self.use(zeros, takes_rows=True)

    def use(self, arrays: list[Any], *, takes_rows: bool = False) -> None:
        """Sums into these arrays from now on; StateError while something is accumulated.

        Those that take rows are zeros, and nobody else's.
        """
        self._plan.set_accumulators(arrays, takes_rows)
        self._arrays = arrays


class Gradients:
    """Gradients that wait for a step: bound ones, and sums of micro-batches."""

    __slots__ = ()

    _accumulator: Accumulator
    _plan: Plan
    _structure: trees.Structure

    def bind(self, grads: Any) -> None:
        """Takes gradient arrays that later ``step()`` calls read: for loops that reuse the arrays.

        They are checked now and kept alive; if one is refused, those bound before stay.
        ``bind(None)`` lets go of them.
        """
        if grads is not None:
            grads = self._structure.leaves(grads, "grads")
        self._with_foreign(self._plan.bind, grads)

    def accumulate(self, grads: Any, samples: float) -> Any:
        """Adds the gradients of one micro-batch to those that the next ``step()`` uses.

        ``step()`` divides the sum of ``samples * grads`` by all samples, so that micro-batches of
        any sizes give the gradient of the whole batch, to rounding, and forgets the sum; also if
        it skips the update for NaN or infinity. The arrays may be reused at once.

        Args:
            grads: the mean over the micro-batch, in the form of ``step``. None in place of an array
                counts as zero; a parameter that has None in every micro-batch is left alone.
            samples: how many examples (or tokens) the mean is over; a number from 2^-53 to 2^53.

        Returns:
            The squared norm of these gradients together, in double. It is taken in the same pass
            over the memory and does not depend on threads, instruction set or split; infinite
            where it is beyond double, which `GradientStatistics` then leaves out. With CuPy arrays
            it is an array without shape, on the device.

        Raises:
            TypeError, ValueError, StateError: nothing was added.

        Sums have the dtype of the parameters, in as much memory again, which the first call
        allocates; what holds `Rows` alone has pages only where rows have come. Multiplied by their
        samples, float32 gradients must stay below 3.4e38.

        Example:
            >>> import numpy as np, fusestep as fs
            >>> w = np.zeros(2)
            >>> opt = fs.SGD(w, lr=1.0)
            >>> opt.accumulate(np.array([3.0, 4.0]), samples=3)
            25.0
            >>> opt.accumulate(np.array([-1.0, 0.0]), samples=1)
            1.0
            >>> info = opt.step()
            >>> w
            array([-2., -3.])
        """
        return self._accumulate(self._structure.leaves(grads, "grads"), samples)

    def _accumulate(self, grads: Sequence[Any], samples: float) -> Any:
        return self._with_foreign(lambda taken: self._accumulator.add(taken, samples), grads)

    def discard_accumulated(self) -> None:
        """Forgets the gradients accumulated since the last step."""
        self._plan.discard_accumulated()

    @property
    def accumulated(self) -> float:
        """The samples accumulated since the last step; 0.0 if there are none."""
        return self._plan.accumulated_samples

    def _with_foreign(self, call: Callable[[Any], Any], grads: Sequence[Any] | None) -> Any:
        """Calls with the gradients, or, where those of other libraries are refused, a view."""
        try:
            return call(grads)
        except TypeError:
            if (taken := self._taken(grads)) is None:
                raise
            return call(taken)

    def _taken(self, grads: Sequence[Any] | None) -> list[Any] | None:
        """The gradients with those of other libraries in NumPy's form; None if none is."""
        if grads is None or not self._plan.takes_foreign:
            return None
        return foreign.take_gradients(self._structure.paths, grads)
