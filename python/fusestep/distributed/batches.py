"""A step with a batch of a loader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..engines import StepInfo
from ..gradients.statistics import GradientStatistics
from .sharded import Sharded


def step(
    opt: Sharded,
    loss_and_grads: Callable[[Any], tuple[Any, Any]],
    batch: Any,
    *,
    statistics: GradientStatistics | None = None,
) -> tuple[StepInfo, float]:
    """Computes the gradients of this rank's leaves of a batch, and updates the parameters.

    Args:
        opt: whose ``share`` the loader has.
        loss_and_grads: ``loss, grads`` of some samples, means over them, in the user's own code.
        batch: of ``Loader(shard=opt.share)``.
        statistics: as for `Sharded.step`.

    Returns:
        What the step tells, and the mean loss over the batch on all ranks.

    Raises:
        As `Sharded.step`; an exception in ``loss_and_grads`` is told to the other ranks first.
    """
    with opt.guard():
        for leaf in batch.leaves:
            if not len(leaf):
                opt.skip()
                continue
            loss, grads = loss_and_grads(leaf)
            opt.accumulate(grads, len(leaf), loss=loss)
    info = opt.step(clock=batch.clock, statistics=statistics)
    return info, opt.loss
