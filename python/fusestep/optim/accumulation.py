"""The arrays in which gradients of micro-batches are summed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import _core
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
        self._allocate("accumulate")
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
            self._allocate("load_state_dict")
        arrays = dict(zip(self._parameters, self._arrays or (), strict=False))
        copies = [(arrays[path], sum) for path, sum in gradients.items()]
        return (*totals, [path in gradients for path in arrays]), copies

    @property
    def arrays(self) -> Sequence[Any]:
        """The arrays of the sums, if there are any yet."""
        return self._arrays or ()

    def _allocate(self, call: str) -> None:
        if self._arrays is None:
            self._plan.refuse_capture(call)
            arrays = self._engine.zeros_like(list(self._parameters.values()))
            self._plan.set_accumulators(arrays)
            self._arrays = arrays
