"""The arrays in which gradients of micro-batches are summed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import _core
from ..arguments import check_positive
from ..engines import CudaPlan, Plan

_MOST = 2.0**53  # samples: whole numbers are exact up to here, and float32 holds the reciprocal


class Accumulator:
    """Sums of gradients times samples, one for each parameter; no memory before the first."""

    __slots__ = ("_arrays", "_engine", "_parameters", "_plan")

    def __init__(self, engine: Any, plan: Plan, parameters: Mapping[str, Any]) -> None:
        self._engine = engine
        self._plan = plan
        self._parameters = parameters
        self._arrays: list[Any] | None = None

    def add(self, gradients: Sequence[Any], samples: Any) -> Any:
        """Adds a micro-batch; returns the squared norm of its gradients."""
        weight = check_positive("samples", samples)
        if not 1.0 / _MOST <= weight <= _MOST:
            raise ValueError(f"samples must be between 2^-53 and 2^53, not {samples!r}")
        if isinstance(self._plan, CudaPlan):
            self._plan.refuse_capture()
        self._allocate()
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
            "weighted_squared_norms": squares,
            "gradients": gradients,
        }

    def prepare(self, state: Mapping[str, Any]) -> None:
        """Makes room for a saved state; StateError where there is none. Sums stay as they are."""
        if state["samples"] > 0 and self._plan.is_bound:
            raise _core.StateError(
                "the state has accumulated gradients, and gradients are bound: bind(None) first"
            )
        if any(array is not None for array in state["gradients"].values()):
            self._allocate()

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes over a saved state that has been checked and prepared for."""
        gradients = [state["gradients"][path] for path in self._parameters]
        for array, saved in zip(self._arrays or (), gradients, strict=False):
            if saved is not None:
                self._engine.assign(array, saved)
        holds = [] if self._arrays is None else [saved is not None for saved in gradients]
        totals = (state["samples"], state["micro_batches"], state["weighted_squared_norms"])
        self._plan.accumulated = (*totals, holds)

    def _allocate(self) -> None:
        if self._arrays is None:
            arrays = self._engine.zeros_like(list(self._parameters.values()))
            self._plan.set_accumulators(arrays)
            self._arrays = arrays
