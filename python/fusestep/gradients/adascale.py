"""The gain of a larger batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._core import StateError
from ..arguments import check_positive
from .statistics import GradientStatistics, saved_numbers


class AdaScale:
    """How many steps at a base batch size one step at the present batch size is worth.

    With S and |G|^2 from gradient statistics, for a batch of ``s * base_batch`` samples::

        var = S / base_batch              gain = (var + |G|^2) / (var / s + |G|^2)

    between 1 and s: s where noise rules, 1 where there is none. Multiply the base learning rate by
    the gain, and run its schedule on ``progress``, the sum of gains.

    Args:
        statistics: a `GradientStatistics`.
        base_batch: the samples that the base learning rate was chosen for, above 0.

    Before anything is learnt the gain is 1. ``var`` is at least 1e-6, and |G|^2 while unknown is 0.

    Example:
        >>> import fusestep as fs
        >>> statistics = fs.gradients.GradientStatistics()
        >>> scale = fs.gradients.AdaScale(statistics, base_batch=8)
        >>> curve = fs.schedules.cosine(0.1, length=1000)           # in steps of 8 samples
        >>> statistics.add([2.0, 6.0], sizes=[8, 8], squared_norm_of_mean=3.0)
        True
        >>> lr = scale.gain(16) * curve(scale.progress)             # then step with it, and
        >>> round(scale.advance(16), 4)
        1.3333

    Source: Johnson et al., "AdaScale SGD: A User-Friendly Algorithm for Distributed
    Training", 2020.
    """

    __slots__ = ("base_batch", "progress", "statistics")

    statistics: GradientStatistics
    base_batch: float
    progress: float

    def __init__(self, statistics: GradientStatistics, base_batch: float) -> None:
        if not isinstance(statistics, GradientStatistics):
            raise TypeError(f"statistics must be a GradientStatistics, not {statistics!r}")
        self.statistics = statistics
        self.base_batch = check_positive("base_batch", base_batch)
        self.progress = 0.0

    def gain(self, batch: float) -> float:
        """The gain for a batch of so many samples."""
        scale = check_positive("batch", batch) / self.base_batch
        variance = self.statistics.gradient_variance
        if variance is None:
            return 1.0
        variance = max(variance / self.base_batch, 1e-6)
        squared = self.statistics.squared_gradient or 0.0
        return (variance + squared) / (variance / scale + squared)

    def advance(self, batch: float) -> float:
        """Counts a step at that batch size: adds its gain to ``progress``, and returns it."""
        gain = self.gain(batch)
        self.progress += gain
        return gain

    def state_dict(self) -> dict[str, float]:
        """The progress: JSON values. The statistics have a state of their own."""
        return {"progress": self.progress}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a ``state_dict``. StateError where it does not fit; nothing has changed."""
        (progress,) = saved_numbers(self, state, "progress")
        if progress < 0.0:
            raise StateError(f"the state of {self!r} can't have progress={progress!r}")
        self.progress = progress

    def __repr__(self) -> str:
        return f"AdaScale({self.statistics!r}, base_batch={self.base_batch!r})"
