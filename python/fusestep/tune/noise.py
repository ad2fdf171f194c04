"""The critical batch size, from the noise of gradients along some steps of training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..arguments import check_number, check_whole
from ..gradients import GradientStatistics, split_step
from ..gradients.splitting import rows_of
from ..optim import Optimizer
from .trial import Rounds, check_loader, check_optimizer, tried

Numbers = npt.NDArray[np.float64]

_FEWEST = 10  # steps: below, an interval rests on too little


class Estimate(NamedTuple):
    """A noise scale, None where |G|^2 is not above 0, and the interval that it lies in."""

    noise_scale: float | None
    low: float
    high: float


@dataclass(frozen=True, eq=False, repr=False)
class NoiseScale:
    """What a scan found: how noisy the gradient of each step was, and the batch for that.

    Attributes:
        variances: S of each step, the trace of the covariance of single samples' gradients:
            unbiased estimates, which may be negative.
        squared_gradients: |G|^2 of each step, likewise.
        samples: of each step.
        losses: of each step.
        rounds: how often the loader was begun.
        confidence: the share of such intervals that hold the true value.
    """

    variances: Numbers
    squared_gradients: Numbers
    samples: Numbers
    losses: Numbers
    rounds: int
    confidence: float

    @cached_property
    def _whole(self) -> Estimate:
        return self._between(0, len(self.samples))

    @property
    def noise_scale(self) -> float | None:
        """Mean S over mean |G|^2, a number of samples; None where |G|^2 is not above 0."""
        return self._whole.noise_scale

    @property
    def batch_size(self) -> int | None:
        """The noise scale as a whole number, at least 1.

        That batch is the critical one: half as many samples need about 1.5 times as many steps,
        twice as many save a quarter of the steps and cost half as many samples again.
        """
        return None if self.noise_scale is None else max(1, round(self.noise_scale))

    @property
    def interval(self) -> tuple[float, float]:
        """Where the noise scale lies, from the scatter of the steps (Fieller's theorem).

        The upper end is infinity where |G|^2 can't be told from 0: take more steps then, or larger
        batches.
        """
        return self._whole.low, self._whole.high

    def along(self, window: int) -> list[Estimate]:
        """The estimates over ``window`` steps, at least 2, from the first ones to the last ones."""
        check_whole("window", window, 2, len(self.samples))
        starts = range(len(self.samples) - window + 1)
        return [self._between(start, start + window) for start in starts]

    def _between(self, begin: int, end: int) -> Estimate:
        weights = self.samples[begin:end]
        variances = weights * self.variances[begin:end]
        squares = weights * self.squared_gradients[begin:end]
        return ratio_of_means(variances, squares, self.confidence)

    def plot(
        self, path: str | PathLike[str] | None = None, *, window: int | None = None, ax: Any = None
    ) -> Any:
        """Draws the noise scale along the steps with its interval; returns matplotlib's axes.

        Args:
            path: writes the picture to this file, in the format that its name ends with.
            window: how many steps each estimate is over, at least 2; None: a fifth of them.
            ax: axes to draw into. None: those of a new figure.

        Needs matplotlib: ``pip install "fusestep[plot]"``.
        """
        from .drawing import draw_noise

        return draw_noise(self, path, window, ax)

    def __repr__(self) -> str:
        low, high = self.interval
        size = "unknown" if self.noise_scale is None else f"{self.noise_scale:.3g}"
        return (
            f"NoiseScale({size}, {100 * self.confidence:g} % between {low:.3g} and {high:.3g}; "
            f"{len(self.samples)} steps of {self.samples.mean():g} samples)"
        )


def noise_scale_scan(
    opt: Optimizer,
    loss_and_grads: Callable[..., tuple[Any, Any]],
    loader: Any,
    *,
    steps: int = 100,
    parts: int = 8,
    population: int | None = None,
    confidence: float = 0.95,
    params: Any = None,
) -> NoiseScale:
    """Measures the critical batch size: trains for some steps, with each batch cut into parts.

    The squared norms of the parts' gradients and of their mean give unbiased estimates of the
    variance S of single samples' gradients and of the squared length of the gradient without noise,
    |G|^2; see `fusestep.gradients.GradientStatistics`. The noise scale is the mean of the one over
    the mean of the other, both over all samples. Far below that batch size twice the batch needs
    half the steps, far above it as many.

    Steps are those of ``opt``, with its settings. Afterwards everything is as before, as after
    `lr_range`. The noise scale grows in training, as |G| falls, and the first steps weigh most in
    the means: see ``along`` or ``plot`` for the later ones, and measure again later. To have it at
    one point, give the scan ``fusestep.SGD(params, lr=0.0)``.

    Args:
        opt: the optimizer that training uses; no gradients may be bound.
        loss_and_grads, loader, params: as of `lr_range`. Batches tell more if they are not far
            smaller than the noise scale; one of a single row is passed over.
        steps: at least 10.
        parts: at least 2, as of `fusestep.gradients.split_step`: more of them tell more.
        population: as of `fusestep.gradients.GradientStatistics`: the number of samples in the data
            set, for the noise scale of that data set; None: of the distribution it comes from.
        confidence: between 0 and 1: the share of such scans whose interval holds the true value.

    Returns:
        A `NoiseScale`: ``batch_size``, ``interval``, and ``plot(path)``.

    Raises:
        TypeError, ValueError: an argument is out of its range, no batch has two rows, gradients are
            not finite, or what ``loss_and_grads`` and ``opt.step`` raise.
        StateError: the parameters hold their averages, or gradients are bound.

    The interval is Fieller's, of a ratio of two means: |G|^2 is uncertain itself, so the interval
    is longer upwards, and without end where |G|^2 may be 0. A jackknife's, which is as long on both
    sides, misses large noise scales. It takes steps as independent of each other: batches are
    drawn anew, but gradients of a training that moves far within the scan differ for that, too,
    which makes the interval longer.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> from fusestep import tune
        >>> w, data = np.zeros(3), np.random.default_rng(0).normal(1.0, 2.0, size=(10_000, 3))
        >>> def loss_and_grads(x):                    # of the mean of |w - x|^2 / 2
        ...     return 0.5 * np.mean(np.sum((w - x) ** 2, axis=1)), np.mean(w - x, axis=0)
        >>> found = tune.noise_scale_scan(fs.SGD(w, lr=0.0), loss_and_grads, fs.Loader(data, 64))
        >>> found.batch_size                          # S / |G|^2 = 12 / 3
        4

    Source: McCandlish et al., "An Empirical Model of Large-Batch Training", 2018; Fieller, "Some
    Problems in Interval Estimation", 1954.
    """
    check_optimizer(opt)
    check_whole("steps", steps, _FEWEST)
    check_whole("parts", parts, 2)
    check_loader(loader)
    GradientStatistics(population=population)  # checks it
    if not 0.0 < check_number("confidence", confidence, 0.0, 1.0) < 1.0:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence:g}")

    def scan() -> NoiseScale:
        rows: list[list[float]] = []
        rounds = Rounds(loader)
        for batch in rounds:
            if rows_of(batch) < 2:
                if not rows and rounds.begun > 1:
                    raise ValueError("loader: batches must have at least two rows, to be cut")
                continue
            statistics = GradientStatistics(population=population)
            _, loss = split_step(
                opt, loss_and_grads, batch, params=params, statistics=statistics, parts=parts
            )
            if not statistics.effective_samples:
                raise ValueError(
                    f"step {len(rows) + 1} of the scan: gradients must be finite for their noise "
                    "to be told"
                )
            means = statistics._means(statistics._memory)
            rows.append([*means.values(), rows_of(batch), loss])
            if len(rows) == steps:
                break
        variances, squares, samples, losses = np.array(rows).T
        return NoiseScale(variances, squares, samples, losses, rounds.begun, confidence)

    return tried(scan, opt, loader, accumulates=True)


def ratio_of_means(numerators: Numbers, denominators: Numbers, confidence: float) -> Estimate:
    """The ratio of two means of pairs, and Fieller's interval for it, from 0 upwards."""
    n = len(numerators)
    x, y = float(np.mean(numerators)), float(np.mean(denominators))
    covariance = np.cov(numerators, denominators) / n
    t = _student(0.5 + confidence / 2, n - 1)
    (xx, xy), (_, yy) = (t * t * covariance).tolist()
    # the interval is where a r^2 - 2 b r + c <= 0
    a, b, c = y * y - yy, x * y - xy, x * x - xx
    root = math.sqrt(max(b * b - a * c, 0.0))
    ratio = max(x, 0.0) / y if y > 0.0 else None
    if a > 0.0 and y > 0.0:
        return Estimate(ratio, max((b - root) / a, 0.0), max((b + root) / a, 0.0))
    # y may be 0: all from the positive root on, or from 0 on where x may be 0 too
    low = (b - root) / a if c > 0.0 > a else 0.0
    return Estimate(ratio, max(low, 0.0), math.inf)


def _student(probability: float, degrees: int) -> float:
    """The quantile of Student's distribution, by the expansion of Fisher and Cornish, 1960."""
    z, n = NormalDist().inv_cdf(probability), degrees
    return (
        z
        + (z**3 + z) / 4 / n
        + (5 * z**5 + 16 * z**3 + 3 * z) / 96 / n**2
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / n**3
    )
