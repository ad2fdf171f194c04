"""What an update writes besides a parameter and its state: an average of it, and a copy."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, overload

from .. import _core, trees
from ..arguments import check_whole, nearest
from ..engines import Plan
from .fields import Argument, Column, Declared, Limit, Setting

if TYPE_CHECKING:
    from .groups import Division


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
