"""Running means of the gradients' variance and squared length, from micro-batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

from .. import _core
from ..arguments import check_list, check_number, check_positive, check_whole
from ..expression.nodes import Cell
from ..memory import Changes, MemoryCell, Remembering
from ..saved_state import Form, number


class Cells(NamedTuple):
    """The estimates as expressions: -1 and 0 stand for unknown."""

    variance: MemoryCell
    squared_gradient: MemoryCell


@dataclass(frozen=True)
class Means:
    """Sums with weights that fade, and the sum of these weights."""

    variance: float = 0.0
    squared_gradient: float = 0.0
    weight: float = 0.0


class GradientStatistics(Remembering):
    """Running means of the gradient's variance S and squared length |G|^2, and their ratio.

    For one step's J >= 2 micro-batches of b_j samples, B together, whose mean gradients are g_j,
    and g the mean over all samples::

        A = sum(b_j / B * |g_j|^2)        C = |g|^2
        S     = B * (A - C) / (J - 1)
        |G|^2 = (J * C - A) / (J - 1)

    Both are unbiased for any mix of sizes. One step's |G|^2 is often negative, so signed values are
    averaged, with the weight ``exp(-B / horizon)`` for what came before, and the means divided.

    Args:
        horizon: in samples, above 0: how far back the means reach. A longer one is steadier, a
            shorter one follows training sooner. The default is about an epoch of a small data set.
        population: the number of samples in a data set that batches are drawn from without
            repetition. Then |G|^2 is that of the data set's own gradient, larger by S / population.
            None: of the distribution that the data come from.

    Give it to ``opt.step(statistics=...)`` after ``opt.accumulate``, or to `split_step`, or call
    ``add``. Its state is saved by itself: ``state_dict()``. It belongs to the first optimizer whose
    steps it learns from; another one refuses it with StateError.

    Example:
        >>> import fusestep as fs
        >>> statistics = fs.gradients.GradientStatistics()
        >>> statistics.noise_scale is None            # not known yet
        True
        >>> statistics.add([2.0, 6.0], sizes=[8, 8], squared_norm_of_mean=3.0)
        True
        >>> statistics.gradient_variance, statistics.squared_gradient, statistics.noise_scale
        (16.0, 2.0, 8.0)

    Source: McCandlish et al., "An Empirical Model of Large-Batch Training", 2018, appendix A.1,
    for equal sizes.
    """

    __slots__ = ("_cells", "_first", "_memory", "_owners", "horizon", "population")

    _memory: Means
    _cells: Cells
    horizon: float
    population: int | None

    def __init__(self, horizon: float = 50_000, *, population: int | None = None) -> None:
        self.horizon = check_positive("horizon", horizon)
        self.population = None if population is None else check_whole("population", population, 1)
        self._cells = Cells(MemoryCell(-1.0, self), MemoryCell(0.0, self))
        self._remember(Means())

    def add(
        self, squared_norms: Sequence[float], sizes: Sequence[float], squared_norm_of_mean: float
    ) -> bool:
        """Learns from one step.

        Args:
            squared_norms: |g_j|^2 for each micro-batch.
            sizes: its samples, above 0.
            squared_norm_of_mean: |g|^2, of the mean over all samples.

        Returns:
            Whether it could: not from fewer than two micro-batches, nor from NaN or infinity.

        Raises:
            TypeError, ValueError: nothing was learnt.
        """
        check_list("squared_norms", squared_norms, 0)
        if len(check_list("sizes", sizes, 0)) != len(squared_norms):
            raise ValueError(
                f"sizes must have one entry for each of {len(squared_norms)} squared norms, "
                f"not {len(sizes)}"
            )
        samples = [check_positive(f"sizes[{j}]", size) for j, size in enumerate(sizes)]
        pairs = zip(samples, squared_norms, strict=True)
        weighted = sum(
            size * _squared_norm(f"squared_norms[{j}]", norm)
            for j, (size, norm) in enumerate(pairs)
        )
        changes = self._adding(weighted, sum(samples), len(samples), squared_norm_of_mean)
        return bool(_core.commit(changes, bool(changes)))

    def _adding(
        self,
        weighted_squared_norms: float,
        samples: float,
        micro_batches: int,
        squared_norm_of_mean: float,
    ) -> Changes:
        """The changes that ``add`` makes, given the sum of ``b_j * |g_j|^2``, B, J and C."""
        total = _squared_norm("weighted_squared_norms", weighted_squared_norms)
        mean = _squared_norm("squared_norm_of_mean", squared_norm_of_mean)
        if micro_batches < 2 or not math.isfinite(total) or not math.isfinite(mean):
            return []
        check_positive("samples", samples)
        average = total / samples
        variance = samples * (average - mean) / (micro_batches - 1)
        squared = (micro_batches * mean - average) / (micro_batches - 1)
        new, old = -math.expm1(-samples / self.horizon), self._memory
        memory = Means(
            old.variance + new * (variance - old.variance),
            old.squared_gradient + new * (squared - old.squared_gradient),
            old.weight + new * (1.0 - old.weight),
        )
        is_known = all(map(math.isfinite, self._means(memory).values()))
        return self._changes(memory) if is_known else []

    def _means(self, memory: Means) -> dict[str, float]:
        """The means as they are, negative ones too; 0 before anything was learnt."""
        weight = memory.weight or 1.0
        squared = self._signed(memory) or 0.0
        return {"variance": memory.variance / weight, "squared_gradient": squared}

    def _signed(self, memory: Means) -> float | None:
        """|G|^2, negative too."""
        if not memory.weight:
            return None
        squared = memory.squared_gradient / memory.weight
        if self.population is not None:
            squared += memory.variance / memory.weight / self.population
        return squared

    def _squared(self, memory: Means) -> float | None:
        squared = self._signed(memory)
        return None if squared is None or squared <= 0.0 else squared

    def _shown(self, memory: Means) -> Iterable[tuple[Cell, float]]:
        variance = _variance(memory)
        return (
            (self._cells.variance, -1.0 if variance is None else variance),
            (self._cells.squared_gradient, self._squared(memory) or 0.0),
        )

    def _forms(self) -> dict[str, Form]:
        return {**super()._forms(), "weight": number(0.0, 1.0)}

    def _check_memory(self, memory: Means) -> None:
        if not memory.weight and (memory.variance or memory.squared_gradient):
            raise ValueError(f"weight: must be above 0 where something was learnt, not {memory}")
        for name, mean in self._means(memory).items():
            if not math.isfinite(mean):
                raise ValueError(f"{name}: over weight, must be finite, not {mean}")

    @property
    def gradient_variance(self) -> float | None:
        """S, the trace of the covariance of single samples' gradients; None before any step."""
        return _variance(self._memory)

    @property
    def squared_gradient(self) -> float | None:
        """|G|^2, the squared length of the gradient without noise; None while not above 0."""
        return self._squared(self._memory)

    @property
    def noise_scale(self) -> float | None:
        """S / |G|^2: the batch whose noise is as long as its gradient; None while unknown."""
        variance, squared = self.gradient_variance, self.squared_gradient
        return None if variance is None or squared is None else variance / squared

    @property
    def effective_samples(self) -> float:
        """How many samples the means rest on: 0 at first, later up to ``horizon``."""
        return self.horizon * self._memory.weight

    def __repr__(self) -> str:
        return f"GradientStatistics(horizon={self.horizon!r}, population={self.population!r})"


def _variance(memory: Means) -> float | None:
    return max(memory.variance / memory.weight, 0.0) if memory.weight else None


def _squared_norm(name: str, value: Any) -> float:
    """A number of at least 0, or NaN or infinity."""
    unbounded = isinstance(value, Real) and (math.isnan(value) or value == math.inf)
    return float(value) if unbounded else check_number(name, value)
