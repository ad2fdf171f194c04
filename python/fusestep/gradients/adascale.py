"""The gain of a larger batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .. import _core
from ..arguments import check_positive
from ..clock import Clock
from ..expression import Expression, batch_size, maximum, where
from ..expression.nodes import Cell, Named
from ..expression.writing import Call
from ..memory import MemoryCell, Remembering
from ..saved_state import LARGEST, Form, number
from .statistics import GradientStatistics


@dataclass(frozen=True)
class Progress:
    progress: float = 0.0


class AdaScale(Remembering):
    """How many steps at a base batch size one step at the present batch size is worth.

    With S and |G|^2 from gradient statistics, for a batch of ``s * base_batch`` samples::

        var = S / base_batch              gain = (var + |G|^2) / (var / s + |G|^2)

    between 1 and s: s where noise rules, 1 where there is none. `fusestep.scaling.adascale`
    multiplies a base learning rate by the gain, and runs its schedule on the sum of gains.

    Args:
        statistics: a `GradientStatistics`.
        base_batch: the samples that the base learning rate was chosen for, above 0.

    Before anything is learnt the gain is 1. ``var`` is at least 1e-6, and |G|^2 while unknown is 0.
    It belongs to the first optimizer whose rate follows it; another one refuses it with StateError.

    Attributes:
        factor: the gain as an expression of the clock's ``batch_size``.
        steps: the sum of gains so far, ``progress``, as an expression.

    Example:
        >>> import fusestep as fs
        >>> statistics = fs.gradients.GradientStatistics()
        >>> scale = fs.gradients.AdaScale(statistics, base_batch=8)
        >>> statistics.add([2.0, 6.0], sizes=[8, 8], squared_norm_of_mean=3.0)
        True
        >>> round(scale.advance(16), 4), round(scale.progress, 4)
        (1.3333, 1.3333)

    Source: Johnson et al., "AdaScale SGD: A User-Friendly Algorithm for Distributed
    Training", 2020.
    """

    _memory: Progress

    def __init__(self, statistics: GradientStatistics, base_batch: float) -> None:
        if not isinstance(statistics, GradientStatistics):
            raise TypeError(f"statistics must be a GradientStatistics, not {statistics!r}")
        self.statistics = statistics
        self.base_batch = check_positive("base_batch", base_batch)
        known, squared = statistics._cells
        variance = maximum(known / self.base_batch, 1e-6)
        gain = (variance + squared) / (variance / (batch_size / self.base_batch) + squared)
        self._cell = MemoryCell(0.0, self)
        self._remember(Progress())
        self.factor: Expression = Named(Call("AdaScale.factor"), where(known < 0, 1.0, gain))
        self.steps: Expression = Named(Call("AdaScale.steps"), self._cell)

    @property
    def progress(self) -> float:
        """The sum of gains: how many steps at the base batch size those taken were worth."""
        return self._memory.progress

    def gain(self, batch: float) -> float:
        """The gain for a batch of so many samples."""
        size = check_positive("batch", batch)
        return float(self.factor(Clock(batch_size=size)))

    def advance(self, batch: float) -> float:
        """Counts a step at that batch size: adds its gain to ``progress``, and returns it."""
        gain = self.gain(batch)
        _core.commit(self._changes(Progress(min(self.progress + gain, float(LARGEST)))))
        return gain

    def _shown(self, memory: Progress) -> Iterable[tuple[Cell, float]]:
        return ((self._cell, memory.progress),)

    def _forms(self) -> dict[str, Form]:
        return {"progress": number(0.0, LARGEST)}

    def __repr__(self) -> str:
        return f"AdaScale({self.statistics!r}, base_batch={self.base_batch!r})"
