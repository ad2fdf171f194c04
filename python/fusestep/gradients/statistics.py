"""Running means of what micro-batches tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

from .._core import StateError
from ..arguments import check_finite, check_number, check_positive, check_whole
from ..expression.cells import Cell


class Cells(NamedTuple):
    """What has been learnt, as expressions: -1 and 0 stand for unknown."""

    variance: Cell
    squared_gradient: Cell


class GradientStatistics:
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
    ``add``. It knows nothing of optimizers, and its state is saved by itself: ``state_dict()``.

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

    __slots__ = ("_squared", "_variance", "_weight", "cells", "horizon", "population")

    cells: Cells
    horizon: float
    population: int | None

    def __init__(self, horizon: float = 50_000, *, population: int | None = None) -> None:
        self.horizon = check_positive("horizon", horizon)
        self.population = None if population is None else check_whole("population", population, 1)
        self._variance = self._squared = self._weight = 0.0
        self.cells = Cells(Cell(-1.0), Cell(0.0))

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
        if len(squared_norms) != len(sizes):
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
        return self.add_sums(weighted, sum(samples), len(samples), squared_norm_of_mean)

    def add_sums(
        self,
        weighted_squared_norms: float,
        samples: float,
        micro_batches: int,
        squared_norm_of_mean: float,
    ) -> bool:
        """Learns from one step as ``add`` does, given the sum of ``b_j * |g_j|^2`` and B and J."""
        total = _squared_norm("weighted_squared_norms", weighted_squared_norms)
        mean = _squared_norm("squared_norm_of_mean", squared_norm_of_mean)
        if micro_batches < 2 or not math.isfinite(total) or not math.isfinite(mean):
            return False
        check_positive("samples", samples)
        average = total / samples
        variance = samples * (average - mean) / (micro_batches - 1)
        squared = (micro_batches * mean - average) / (micro_batches - 1)
        if not math.isfinite(variance) or not math.isfinite(squared):
            return False
        new = -math.expm1(-samples / self.horizon)
        self._variance += new * (variance - self._variance)
        self._squared += new * (squared - self._squared)
        self._weight += new * (1.0 - self._weight)
        self._show()
        return True

    def _show(self) -> None:
        variance = self.gradient_variance
        self.cells.variance.memory[0] = -1.0 if variance is None else variance
        self.cells.squared_gradient.memory[0] = self.squared_gradient or 0.0

    @property
    def gradient_variance(self) -> float | None:
        """S, the trace of the covariance of single samples' gradients; None before any step."""
        return max(self._variance / self._weight, 0.0) if self._weight else None

    @property
    def squared_gradient(self) -> float | None:
        """|G|^2, the squared length of the gradient without noise; None while not above 0."""
        if not self._weight:
            return None
        squared = self._squared / self._weight
        if self.population is not None:
            squared += self._variance / self._weight / self.population
        return squared if squared > 0.0 else None

    @property
    def noise_scale(self) -> float | None:
        """S / |G|^2: the batch whose noise is as long as its gradient; None while unknown."""
        variance, squared = self.gradient_variance, self.squared_gradient
        return None if variance is None or squared is None else variance / squared

    @property
    def effective_samples(self) -> float:
        """How many samples the means rest on: 0 at first, later up to ``horizon``."""
        return self.horizon * self._weight

    def state_dict(self) -> dict[str, float]:
        """What it has learnt: JSON values."""
        return {
            "variance": self._variance,
            "squared_gradient": self._squared,
            "weight": self._weight,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a ``state_dict``. StateError where it does not fit; nothing has changed."""
        variance, squared, weight = saved_numbers(
            self, state, "variance", "squared_gradient", "weight"
        )
        if not 0.0 <= weight <= 1.0:
            raise StateError(f"the state of {self!r} can't have weight={weight!r}")
        self._variance, self._squared, self._weight = variance, squared, weight
        self._show()

    def __repr__(self) -> str:
        return f"GradientStatistics(horizon={self.horizon!r}, population={self.population!r})"


def _squared_norm(name: str, value: Any) -> float:
    """A number of at least 0, or NaN or infinity."""
    unbounded = isinstance(value, Real) and (math.isnan(value) or value == math.inf)
    return float(value) if unbounded else check_number(name, value)


def saved_numbers(owner: Any, state: Any, *names: str) -> list[float]:
    """The named finite numbers of a saved state."""
    if not isinstance(state, Mapping) or state.keys() != set(names):
        raise StateError(
            f"the state of {owner!r} must be a dict of {', '.join(names)}, not {state!r}"
        )
    try:
        return [check_finite(name, state[name]) for name in names]
    except (TypeError, ValueError) as error:
        raise StateError(f"the state of {owner!r}: {error}") from None
