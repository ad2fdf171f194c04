"""Batch sizes that follow the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ..arguments import check_finite, check_number, check_positive
from ..saved_state import Form, number, optional
from .base import Policy, PolicyMemory, policy
from .from_gradients import Adaptive, OfGradients, Statistics
from .rounding import Options

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class CabsMemory(PolicyMemory):
    loss: float | None = None
    lr: float | None = None


@dataclass(frozen=True)
class RatioMemory(PolicyMemory):
    first_loss: float | None = None
    loss: float | None = None


class Cabs(OfGradients):
    _memory: CabsMemory
    _begins: ClassVar[PolicyMemory] = CabsMemory()

    def __init__(
        self,
        statistics: Statistics,
        c: float,
        smoothing: float,
        start: int,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(statistics, ("gradient_variance",), self._size_for, start, **options)
        self._c = check_positive("c", c)
        self._smoothing = check_number("smoothing", smoothing, 0.0, 1.0, below_upper=True)

    def _after(self, loss: float | None, lr: float | None) -> CabsMemory:
        memory = self._memory
        if loss is not None:
            check_number("loss", loss)
            keep, before = self._smoothing, loss if memory.loss is None else memory.loss
            memory = replace(memory, loss=keep * before + (1 - keep) * loss)
        return memory if lr is None else replace(memory, lr=lr)

    def _size_for(self, memory: CabsMemory, s: float) -> float | None:
        if memory.loss is None or memory.lr is None:
            return None
        return self._c * memory.lr * s / memory.loss if memory.loss > 0 else math.inf

    def _forms(self) -> dict[str, Form]:
        at_least_zero = optional(number(0.0))
        return {**super()._forms(), "loss": at_least_zero, "lr": at_least_zero}


@policy
def cabs(
    statistics: Statistics,
    c: float = 1.0,
    *,
    start: int,
    smoothing: float = 0.95,
    **options: Unpack[Options],
) -> Policy:
    """The batch that suits the learning rate: ``c * lr * S / F``. For SGD.

    F is the loss, smoothed: ``F = smoothing * F + (1 - smoothing) * loss``, from the first loss
    on. After every update call ``policy.observe(loss=loss, lr=info.lr)``.

    Args:
        statistics: a `fusestep.gradients.GradientStatistics`, or an object with the attribute
            ``gradient_variance``: S, smoothed already, or None while it is unknown.
        c: above 0.
        start: the size until all three are known: a whole number, at least 1.
        smoothing: in [0, 1); 0 takes each loss as it is.
        options: limits and rounding, see `Policy`; from 16 to 2048 in the source.

    The lowest possible loss must be 0: ``observe`` raises ValueError for a loss below it. At a loss
    of 0 the size is the maximum.

    Example:
        >>> import fusestep as fs
        >>> from types import SimpleNamespace
        >>> from fusestep import batch_sizes
        >>> seen = SimpleNamespace(gradient_variance=640.0)
        >>> policy = batch_sizes.cabs(seen, start=16, maximum=512)
        >>> policy.observe(loss=0.5, lr=0.1)
        >>> policy.next_size(fs.Clock())
        128

    Source: Balles, Romero and Hennig, "Coupling adaptive batch sizes with learning rates", 2017,
    whose averages begin at 0 for S and at 1 for F.
    """
    return Cabs(statistics, c, smoothing, start, **options)


class LossRatio(Adaptive):
    _memory: RatioMemory
    _begins: ClassVar[PolicyMemory] = RatioMemory()

    def __init__(self, start: int, lowest: float, **options: Unpack[Options]) -> None:
        super().__init__(start, **options)
        self._lowest = check_finite("lowest", lowest)

    def _after(self, loss: float | None, lr: float | None) -> RatioMemory:
        memory = self._memory
        if loss is None:
            return memory
        first = memory.first_loss
        if first is None:
            self._check_first("the first loss", loss)
            first = loss
        return replace(memory, first_loss=first, loss=loss)

    def _check_first(self, name: str, loss: float) -> None:
        if loss <= self._lowest:
            raise ValueError(
                f"{name} must be above lowest={self._lowest!r} for {self!r}, not {loss!r}"
            )

    def _rule(self, memory: PolicyMemory) -> float | None:
        assert isinstance(memory, RatioMemory)
        assert self._start is not None
        if memory.first_loss is None or memory.loss is None:
            return None
        left = memory.loss - self._lowest
        return self._start * ((memory.first_loss - self._lowest) / left) if left > 0 else math.inf

    def _check_memory(self, memory: PolicyMemory) -> None:
        assert isinstance(memory, RatioMemory)
        if memory.first_loss is not None:
            self._check_first("first_loss", memory.first_loss)


@policy
def loss_ratio(start: int, lowest: float = 0.0, **options: Unpack[Options]) -> Policy:
    """The batch grows as the loss falls: ``start * (F0 - lowest) / (F - lowest)``.

    F0 is the first loss observed and F the last: ``policy.observe(loss=loss)``. Losses of single
    batches are noisy: use those of epochs, or smoothed ones, or set ``dwell``.

    Args:
        start: the size at the first loss: a whole number, at least 1.
        lowest: a finite number that the loss stays above. At a loss that does not, the size is the
            maximum.
        options: limits and rounding, see `Policy`. In the source sizes are at least ``start``.

    ``observe`` raises ValueError where the first loss is not above ``lowest``.

    Example:
        >>> import fusestep as fs
        >>> from fusestep import batch_sizes
        >>> policy = batch_sizes.loss_ratio(start=32)
        >>> for loss in (2.0, 1.6, 0.5):
        ...     policy.observe(loss=loss)
        >>> policy.next_size(fs.Clock())
        128

    Source: Sievert and Shah, "Improving the convergence of SGD through adaptive batch sizes", 2021.
    """
    return LossRatio(start, lowest, **options)
