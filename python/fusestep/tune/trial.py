"""Trial steps: what they change is afterwards as it was, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from .. import _core
from ..data import Loader
from ..optim import Optimizer

T = TypeVar("T")


def tried(body: Callable[[], T], opt: Optimizer, loader: Any, *, accumulates: bool = False) -> T:
    """What ``body`` returns; then, or when it raises, the optimizer and loader are as before.

    That is parameters, their averages and copies, state, settings, what settings follow, counts,
    accumulated gradients; and the position of the loader, or whatever its ``state_dict`` has.
    ``accumulates``: whether the body accumulates gradients, which needs room.
    """
    if accumulates:
        opt._accumulator.make_room("accumulate")
    aside, back = loader._stepping_aside() if isinstance(loader, Loader) else ([], [])
    restore = opt._returning(back)
    has_state = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
    if has_state and not isinstance(loader, Loader):
        restore = _both(restore, loader.load_state_dict, loader.state_dict())
    try:
        try:
            _core.commit(aside)
            opt.discard_accumulated()
            return body()
        finally:
            restore()
    finally:
        restore()  # an interrupt may have come just before the other one


def _both(
    first: Callable[[], None], second: Callable[[Any], object], state: Any
) -> Callable[[], None]:
    def both() -> None:
        first()
        second(state)

    return both


def check_optimizer(opt: Any) -> None:
    """Raises TypeError for what is no optimizer of this package."""
    if not isinstance(opt, Optimizer):
        raise TypeError(f"opt must be an optimizer of fusestep, not {opt!r}")


def check_loader(loader: Any) -> None:
    """Raises TypeError where batches can't be gone over again."""
    if not hasattr(loader, "__iter__") or hasattr(loader, "__next__"):
        raise TypeError(
            "loader must be a fusestep.Loader, or a list or something else that can be iterated "
            f"again, not {loader!r}"
        )


class Rounds:
    """Batches without end: the loader is gone over again and again.

    ``begun`` is how often it was begun.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self.begun = 0

    def __iter__(self) -> Iterator[Any]:
        while True:
            self.begun += 1
            is_empty = True
            for batch in self._loader:
                is_empty = False
                yield batch
            if is_empty and self.begun > 1:  # the first may find a loop at its end
                raise ValueError("loader: there are no batches")
