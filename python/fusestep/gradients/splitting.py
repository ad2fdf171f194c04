"""One batch as several micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from .._core import StateError, StepInfo
from ..arguments import check_whole
from ..clock import Clock
from .statistics import GradientStatistics


class Accumulating(Protocol):
    """What an optimizer must do for its step to be split."""

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
    ) -> StepInfo: ...


def split_step(
    opt: Accumulating,
    loss_and_grads: Callable[[Any], tuple[Any, Any]],
    batch: Any,
    *,
    statistics: GradientStatistics | None = None,
    parts: int = 2,
    clock: Clock | None = None,
    grad_scale: float = 1.0,
) -> tuple[StepInfo, float]:
    """One step with a batch cut into parts, so that there are statistics of its gradients.

    Args:
        opt: the optimizer; nothing may be accumulated or bound.
        loss_and_grads: called with each part: the mean loss over its samples, and its gradients in
            the form of ``opt.step``. It may return the same arrays each time.
        batch: an array, or a dict, list or tuple of them, nested or not, with a sample in each row;
            or a `fusestep.Batch`, whose clock is then used.
            Parts are views in the same nesting, of sizes that differ by one at most.
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
    """
    check_whole("parts", parts, 1)
    if hasattr(batch, "clock"):
        clock = batch.clock if clock is None else clock
        batch = batch.data
    if opt.accumulated:
        raise StateError(f"{opt.accumulated:g} samples are accumulated already: call step() first")
    rows = {len(array) for array in _leaves(batch)}
    if len(rows) != 1 or 0 in rows:
        raise ValueError(f"batch: arrays must have one number of rows, above 0, not {sorted(rows)}")
    (samples,) = rows
    parts = min(parts, samples)
    total = 0.0
    try:
        for part in range(parts):
            begin, end = part * samples // parts, (part + 1) * samples // parts
            loss, grads = loss_and_grads(_cut(batch, slice(begin, end)))
            opt.accumulate(grads, end - begin)
            total += float(loss) * (end - begin)
        loss = total / samples
        info = opt.step(clock=clock, loss=loss, grad_scale=grad_scale, statistics=statistics)
    except BaseException:
        opt.discard_accumulated()
        raise
    return info, loss


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, (dict, list, tuple)):
        for entry in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(entry)
    else:
        yield tree


def _cut(tree: Any, rows: slice) -> Any:
    if isinstance(tree, dict):
        return {key: _cut(entry, rows) for key, entry in tree.items()}
    if isinstance(tree, (list, tuple)):
        make = getattr(tree, "_make", type(tree))  # the first for a named tuple
        return make(_cut(entry, rows) for entry in tree)
    return tree[rows]
