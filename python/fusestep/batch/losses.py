"""Sizes that follow the loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from ..arguments import check_finite, check_number, check_positive
from .base import Policy, typed
from .gradients import Adaptive, OfGradients, Statistics
from .rounding import Options

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Cabs(OfGradients):
    _remembers: ClassVar[dict[str, Any]] = {"_loss": None, "_lr": None}
    _loss: float | None
    _lr: float | None

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

    def _observe(self, loss: float | None, lr: float | None) -> None:
        if loss is not None:
            check_number("loss", loss)
            keep = self._smoothing
            before = loss if self._loss is None else self._loss
            self._loss = keep * before + (1 - keep) * loss
        self._lr = self._lr if lr is None else lr

    def _size_for(self, s: float) -> float | None:
        if self._loss is None or self._lr is None:
            return None
        return self._c * self._lr * s / self._loss if self._loss > 0 else math.inf


@typed
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
    on. After every update show both: ``policy.observe(loss=loss, lr=info.lr)``.

    Args:
        statistics: with ``gradient_variance``, which is smoothed already, see `Statistics`.
        c: above 0.
        start: the size until all three are known: a whole number, at least 1.
        smoothing: in [0, 1); 0 takes each loss as it is.
        options: limits and rounding, see `Policy`; from 16 to 2048 in the source.

    The lowest possible loss must be 0: ``observe`` raises ValueError for a loss below it. At a loss
    of 0 the size is the maximum.

    Example:
        >>> import fusestep as fs
        >>> from types import SimpleNamespace
        >>> from fusestep import batch
        >>> policy = batch.cabs(SimpleNamespace(gradient_variance=640.0), start=16, maximum=512)
        >>> policy.observe(loss=0.5, lr=0.1)
        >>> policy.next_size(fs.Clock())
        128

    Source: Balles, Romero and Hennig, "Coupling adaptive batch sizes with learning rates", 2017,
    whose averages begin at 0 for S and at 1 for F.
    """
    return Cabs(statistics, c, smoothing, start, **options)


class LossRatio(Adaptive):
    _remembers: ClassVar[dict[str, Any]] = {"_first_loss": None, "_loss": None}
    _first_loss: float | None
    _loss: float | None

    def __init__(self, start: int, lowest: float, **options: Unpack[Options]) -> None:
        super().__init__(start, **options)
        self._lowest = check_finite("lowest", lowest)

    def _observe(self, loss: float | None, lr: float | None) -> None:
        if loss is None:
            return
        if self._first_loss is None:
            if loss <= self._lowest:
                raise ValueError(
                    f"the first loss must be above lowest={self._lowest!r} for {self!r}, "
                    f"not {loss!r}"
                )
            self._first_loss = loss
        self._loss = loss

    def _rule(self) -> float | None:
        if self._first_loss is None or self._loss is None:
            return None
        left = self._loss - self._lowest
        return self._start * ((self._first_loss - self._lowest) / left) if left > 0 else math.inf


@typed
def loss_ratio(start: int, lowest: float = 0.0, **options: Unpack[Options]) -> Policy:
    """The batch grows as the loss falls: ``start * (F0 - lowest) / (F - lowest)``.

    F0 is the first loss shown and F the last: ``policy.observe(loss=loss)``. Losses of single
    batches are noisy; show those of epochs, or smoothed ones, or set ``dwell``.

    Args:
        start: the size at the first loss: a whole number, at least 1.
        lowest: a finite number that the loss stays above. At a loss that does not, the size is the
            maximum.
        options: limits and rounding, see `Policy`. In the source sizes are at least ``start``.

    ``observe`` raises ValueError where the first loss is not above ``lowest``.

    Example:
        >>> import fusestep as fs
        >>> from fusestep import batch
        >>> policy = batch.loss_ratio(start=32)
        >>> for loss in (2.0, 1.6, 0.5):
        ...     policy.observe(loss=loss)
        >>> policy.next_size(fs.Clock())
        128

    Source: Sievert and Shah, "Improving the convergence of SGD through adaptive batch sizes", 2021.
    """
    return LossRatio(start, lowest, **options)
