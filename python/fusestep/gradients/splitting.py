"""A batch as several micro-batches, and a step that accumulates them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol, TypeVar

from .._core import StateError
from ..arguments import check_scalar, check_whole
from ..clock import Clock
from .statistics import GradientStatistics

Info = TypeVar("Info", covariant=True)  # what a step of the optimizer returns


class Nested(Protocol):
    """Whatever has parameters in a nesting."""

    @property
    def tree(self) -> Any: ...


class Accumulating(Nested, Protocol[Info]):
    """An optimizer that accumulates gradients."""

    @property
    def accumulated(self) -> float: ...
    def accumulate(self, grads: Any, samples: float) -> float: ...
    def discard_accumulated(self) -> None: ...
    def step(
        self,
        *,
        clock: Clock | None = ...,
        loss: Any = ...,
        grad_scale: float = ...,
        statistics: GradientStatistics | None = ...,
    ) -> Info: ...


def split_step(
    opt: Accumulating[Info],
    loss_and_grads: Callable[..., tuple[Any, Any]],
    batch: Any,
    *,
    params: Any = None,
    statistics: GradientStatistics | None = None,
    parts: int = 2,
    clock: Clock | None = None,
    grad_scale: float = 1.0,
) -> tuple[Info, float]:
    """One step with a batch cut into parts, so that there are statistics of its gradients.

    Args:
        opt: the optimizer; nothing may be accumulated or bound.
        loss_and_grads: called with each part, as ``loss_and_grads(part)``, or as
            ``loss_and_grads(params, part)`` where it takes two arguments or ``params`` are given:
            the mean loss over the samples of the part, and its gradients in the form of
            ``opt.step``. It may return the same arrays each time.
        batch: what `split_batch` takes. The clock of a `fusestep.Batch` is used.
        params: for a function of two arguments. None: those of the optimizer, in the dicts, lists
            and tuples that they were given in.
        statistics: learns from the parts.
        parts: how many, at least 1; a batch of fewer samples has one part for each. More of them
            tell more, at the cost of shorter calculations.
        clock: as in ``opt.step``; that of the batch if there is one and None is given.
        grad_scale: as in ``opt.step``.

    Returns:
        What ``opt.step`` returns, and the mean loss over the batch, which schedules see too.

    Raises:
        What ``loss_and_grads``, ``opt.accumulate`` and ``opt.step`` raise; nothing was updated, and
        nothing stays accumulated.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> def loss_and_grads(params, batch):
        ...     error = params["w"] - batch["x"]
        ...     return 0.5 * np.mean(error**2), {"w": error.mean(keepdims=True)}
        >>> params = {"w": np.zeros(1)}
        >>> opt, statistics = fs.SGD(params, lr=0.1), fs.gradients.GradientStatistics()
        >>> for batch in fs.Loader({"x": np.arange(8.0)}, 4, order="sequential"):
        ...     info, loss = fs.gradients.split_step(
        ...         opt, loss_and_grads, batch, statistics=statistics
        ...     )
        >>> params["w"]
        array([0.685])
    """
    check_whole("parts", parts, 1)
    of_batch = of_batch_alone(loss_and_grads, opt, params)
    if clock is None:
        clock = getattr(batch, "clock", None)
    if opt.accumulated:
        raise StateError(f"{opt.accumulated:g} samples are accumulated already: call step() first")
    total = 0.0
    samples = rows_of(batch)
    try:
        for rows in _cuts(samples, parts):
            loss, grads = of_batch(cut(batch, rows))
            opt.accumulate(grads, rows.stop - rows.start)
            total += check_scalar("loss", loss) * (rows.stop - rows.start)
        mean = total / samples
        info = opt.step(clock=clock, loss=mean, grad_scale=grad_scale, statistics=statistics)
    except BaseException:
        opt.discard_accumulated()
        raise
    return info, mean


def split_batch(batch: Any, n: int = 2) -> Iterator[Any]:
    """The micro-batches of a batch, for ``opt.accumulate``: it is cut by rows.

    Args:
        batch: an array, or a dict, list or tuple of them, nested or not, with a sample in each row;
            or a `fusestep.Batch`.
        n: how many parts, at least 1; a batch of fewer samples has one part for each.

    Returns:
        Parts in the form of the batch, of views, with sizes that differ by one at most. ``len`` of
        an array, a dict or a `fusestep.Batch` among them is its number of rows; ``dict(part)`` is a
        plain dict.

    Raises:
        TypeError, ValueError: the arrays have not one number of rows above 0, or ``n`` is below 1.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> for part in fs.gradients.split_batch({"x": np.arange(5), "y": np.ones(5)}):
        ...     print(len(part), part["x"])
        2 [0 1]
        3 [2 3 4]
    """
    cuts = _cuts(rows_of(batch), check_whole("n", n, 1))
    return (cut(batch, rows) for rows in cuts)


class _RowsByName(dict[Any, Any]):
    """Arrays by name; ``len`` is their number of rows."""

    def __len__(self) -> int:
        return len(next(_leaves(self)))

    def __bool__(self) -> bool:
        return True


def of_batch_alone(
    loss_and_grads: Callable[..., tuple[Any, Any]], opt: Nested, params: Any
) -> Callable[[Any], tuple[Any, Any]]:
    """The function of a batch, given one of parameters and a batch or of a batch; see above."""
    if params is None and _takes_two(loss_and_grads):
        params = opt.tree
    return loss_and_grads if params is None else partial(loss_and_grads, params)


def _takes_two(function: Callable[..., Any]) -> bool:
    """Whether a function has two required positional arguments."""
    try:
        arguments = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of a function that is not written in Python
        return False
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(a.kind in places and a.default is a.empty for a in arguments) == 2


def rows_of(batch: Any) -> int:
    """How many rows the arrays of a batch have."""
    data = batch.data if hasattr(batch, "clock") else batch
    rows = {len(array) for array in _leaves(data)}
    if len(rows) != 1 or 0 in rows:
        raise ValueError(f"batch: arrays must have one number of rows, above 0, not {sorted(rows)}")
    return rows.pop()


def _cuts(rows: int, parts: int) -> list[slice]:
    n = min(parts, rows)
    return [slice(part * rows // n, (part + 1) * rows // n) for part in range(n)]


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, (dict, list, tuple)):
        for entry in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(entry)
    elif isinstance(tree, (str, bytes)) or not hasattr(tree, "__len__"):
        raise TypeError(f"batch must be an array, or a dict, list or tuple of arrays, not {tree!r}")
    else:
        yield tree


def cut(tree: Any, rows: slice) -> Any:
    if hasattr(tree, "clock"):
        return tree._part(cut(tree.data, rows), rows)
    if isinstance(tree, dict):
        return _RowsByName((key, cut(entry, rows)) for key, entry in tree.items())
    if isinstance(tree, (list, tuple)):
        make = getattr(tree, "_make", type(tree))  # the first for a named tuple
        return make(cut(entry, rows) for entry in tree)
    return tree[rows]
