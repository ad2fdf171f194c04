"""The averages of parameters, for evaluation."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from .. import _core, trees
from ..engines import Plan
from .groups import Division


class Averages:
    """The averages of an optimizer's parameters."""

    __slots__ = ()

    _division: Division
    _parameters: dict[str, Any]
    _plan: Plan
    _states: dict[str, dict[str, Any]]

    @property
    def averaged(self) -> Any:
        """The averages in the nesting of `tree`: the arrays themselves, which updates change.

        A parameter without an average stands for itself. Before the first update that counts, an
        average has what the parameter had when the optimizer was built. None for an optimizer
        without ``ema``; but Schedule-Free ones calculate theirs, in new arrays.
        """
        if not self._has_averages():
            return None
        self._plan.flush()
        leaves = iter(self._averaged_leaves())
        return trees.snapshot(self._division.tree, lambda _: next(leaves))

    def averaged_in_place(self) -> AbstractContextManager[None]:
        """Has the parameters hold their averages inside a ``with`` statement, as for evaluation.

        Afterwards they have their own bits again, whatever was written to them inside, also after
        an exception. They are kept meanwhile, in as much memory as the parameters take. Whatever
        reads or replaces the parameters (a step, ``load_state_dict``, ``reset``, ``rebind``,
        ``add_group``) is refused inside with StateError, and with CuPy arrays replays of a graph
        need ``prepare_replays`` anew. ``state_dict`` inside is that of outside.

        Example:
            >>> import numpy as np, fusestep as fs
            >>> w = np.zeros(2)
            >>> opt = fs.SGD(w, lr=1.0, ema=0.5)
            >>> for g in (-2.0, -4.0):
            ...     info = opt.step(np.full(2, g))
            >>> with opt.averaged_in_place():
            ...     print(w)
            [4. 4.]
            >>> print(w)
            [6. 6.]
        """
        if not self._has_averages():
            raise _core.StateError("there are no averages: build the optimizer with ema=...")
        return self._plan.in_place(self._averaged_leaves)

    def _has_averages(self) -> bool:
        return any("average" in state for state in self._states.values())

    def _averaged_leaves(self) -> list[Any]:
        """For each parameter the array that stands for it in evaluation; it may be itself."""
        parameters = self._parameters.items()
        return [self._states[path].get("average", p) for path, p in parameters]
