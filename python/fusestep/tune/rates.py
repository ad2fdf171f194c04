"""The learning-rate range test."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arguments import check_number, check_positive, check_scalar, check_whole
from ..clock import Clock
from ..expression import Expression
from ..gradients.splitting import of_batch_alone
from ..optim import Optimizer
from ..schedules import exponential
from .trial import Rounds, check_loader, check_optimizer, tried

Numbers = npt.NDArray[np.float64]

_FEWEST = 10  # rates
_CLEARLY = 6.0  # standard errors of the smoothed loss that a fall must exceed


@dataclass(frozen=True, eq=False, repr=False)
class RateRange:
    """What a range test found: a loss for each learning rate, and the rates that it suggests.

    Attributes:
        rates: the learning rates, rising.
        losses: for each of them the loss of the batch after the update with it.
        ended: why the test ended, in words.
        rounds: how often the loader was begun: more than once where it had fewer batches.
        smoothing: how much of a neighbour's weight in ``smoothed`` the next one has.
    """

    rates: Numbers
    losses: Numbers
    ended: str
    rounds: int
    smoothing: float

    @cached_property
    def smoothed(self) -> Numbers:
        """Means of the losses around each, with weights ``smoothing^|i - j|`` that sum to 1.

        They look both ways, so the curve does not lag behind. Losses after the lowest running mean
        count at most as much as the largest before it: divergence does not reach back.
        """
        lowest = int(np.argmin(running_means(self.losses, self.smoothing)))
        losses = np.minimum(self.losses, self.losses[: lowest + 1].max())
        ones = np.ones_like(losses)
        return _both_ways(losses, self.smoothing) / _both_ways(ones, self.smoothing)

    @cached_property
    def minimum(self) -> float | None:
        """The rate of the least smoothed loss; None where it did not clearly fall."""
        lowest = self._lowest
        return None if lowest is None else float(self.rates[lowest])

    @property
    def a_tenth_of_minimum(self) -> float | None:
        """A tenth of ``minimum``."""
        return None if self.minimum is None else self.minimum / 10

    @cached_property
    def steepest(self) -> float | None:
        """The rate where the smoothed loss falls fastest over the logarithm of the rate."""
        if self._lowest is None:
            return None
        slopes = np.gradient(self.smoothed, np.log(self.rates))
        return float(self.rates[np.argmin(slopes[: self._lowest + 1])])

    @property
    def suggestion(self) -> float | None:
        """A rate to train with: halfway, by its logarithm, from ``steepest`` to ``minimum``."""
        if self.steepest is None or self.minimum is None:
            return None
        return math.sqrt(self.steepest * self.minimum)

    @cached_property
    def _lowest(self) -> int | None:
        """Where the smoothed loss is least; None where its fall may be chance."""
        lowest = int(np.argmin(self.smoothed))
        if lowest == 0:
            return None
        # half of the differences of two normal numbers are below 0.954 standard deviations
        scatter = np.median(abs(np.diff(self.losses))) / 0.954
        error = scatter * math.sqrt((1 - self.smoothing) / (1 + self.smoothing))
        return lowest if self.smoothed[0] - self.smoothed[lowest] > _CLEARLY * error else None

    def plot(self, path: str | PathLike[str] | None = None, *, ax: Any = None) -> Any:
        """Draws the losses over the rates, with the rates found; returns matplotlib's axes.

        Args:
            path: writes the picture to this file, in the format that its name ends with.
            ax: axes to draw into. None: those of a new figure.

        Needs matplotlib: ``pip install "fusestep[plot]"``.
        """
        from .drawing import draw_rates

        return draw_rates(self, path, ax)

    def __repr__(self) -> str:
        found = "the loss did not clearly fall"
        if self.suggestion is not None:
            found = (
                f"suggestion={self.suggestion:.2g}, steepest={self.steepest:.2g}, "
                f"minimum={self.minimum:.2g}"
            )
        rounds = f", {self.rounds} rounds of the loader" if self.rounds > 1 else ""
        return (
            f"RateRange({found}; {len(self.rates)} rates from {self.rates[0]:.2g} to "
            f"{self.rates[-1]:.2g}{rounds}; {self.ended})"
        )


def lr_range(
    opt: Optimizer,
    loss_and_grads: Callable[..., tuple[Any, Any]],
    loader: Any,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.8,
    diverged: float = 4.0,
    params: Any = None,
) -> RateRange:
    """Finds learning rates: trains while the rate rises from ``low`` to ``high``.

    Update ``i`` has the rate ``low * (high / low)^(i / (steps - 1))``, an expression of the clock
    that stands in place of ``lr`` for the time of the test. The test ends early when the loss
    diverges. Afterwards, also after an error or Ctrl-C, parameters, averages, copies, the
    optimizer's state, settings and accumulated gradients, what its settings follow, and the
    loader's position have the bits of before. What ``loss_and_grads`` changes otherwise is yours.

    Args:
        opt: the optimizer that training is going to use. Groups with a learning rate of their own
            keep its ratio to that of the first group, as it is for the next update.
        loss_and_grads: called with each batch, as ``loss_and_grads(batch)``, or as
            ``loss_and_grads(params, batch)`` where it takes two arguments or ``params`` are given:
            the mean loss, and its gradients in the form of ``opt.step``. NumPy warns of no overflow
            meanwhile. On several ranks all must return the same loss, to end together.
        loader: a `fusestep.Loader`, or a list or anything else that can be iterated again; one with
            ``state_dict`` and ``load_state_dict`` is loaded back. It goes on from where it is, and
            begins again where it has fewer than ``steps + 1`` batches: losses of batches seen
            before are lower, which makes large rates look better; ``rounds`` tells.
        low, high: the first rate and the last, above 0.
        steps: how many rates, at least 10. Too few make the rate rise faster than the loss can
            follow.
        smoothing: at least 0 and below 1, of the curve that rates are read from; see `RateRange`.
        diverged: above 1. The test ends when the running mean of the loss exceeds its least by more
            than ``diverged - 1`` times the least's size: at 4, when it is four times as large. Or
            when a loss is not finite.
        params: for a function of two arguments. None: those of the optimizer.

    Returns:
        A `RateRange`: ``suggestion``, the curve behind it, and ``plot(path)``.

    Raises:
        TypeError, ValueError: an argument is out of its range, the first loss is not finite, a
            group's ratio is not known, or what ``loss_and_grads`` and ``opt.step`` raise.
        StateError: the parameters hold their averages.

    Gradients that are not finite are not skipped in the test, whatever ``opt.nonfinite`` is: the
    loss after them ends it. It takes another copy of parameters and state, on their device.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> from fusestep import tune
        >>> w, curvature = np.ones(3), np.array([1.0, 10.0, 100.0])
        >>> def loss_and_grads(batch):              # diverges above 2 / 100
        ...     return 0.5 * np.sum(curvature * w**2), curvature * w
        >>> found = tune.lr_range(fs.SGD(w, lr=0.1), loss_and_grads, [None])
        >>> f"{found.suggestion:.0e}", w
        ('5e-03', array([1., 1., 1.]))

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks", 2017; the end at four
    times the lowest loss and the steepest slope are those of fastai.
    """
    check_optimizer(opt)
    low, high = check_positive("low", low), check_positive("high", high)
    if not low < high:
        raise ValueError(f"high must be above low, which is {low:g}, not {high:g}")
    check_positive("high / low", high / low)
    check_whole("steps", steps, _FEWEST)
    check_number("smoothing", smoothing, 0.0, 1.0, below_upper=True)
    if check_number("diverged", diverged, 1.0) == 1.0:
        raise ValueError("diverged must be above 1, not 1")
    check_loader(loader)
    of_batch = of_batch_alone(loss_and_grads, opt, params)
    ratios = _ratios(opt, getattr(loader, "clock", None))
    curve = exponential(start=low, rate=high / low, every=steps - 1).shifted(opt.steps_applied)
    rates = curve(opt.steps_applied + np.arange(steps))

    def sweep() -> RateRange:
        for group, ratio in zip(opt.groups, ratios, strict=True):
            group.lr = curve if ratio == 1.0 else curve * ratio
        opt.nonfinite = "propagate"
        ended, rounds = f"the loss had not diverged at {high:.2g}", Rounds(loader)
        losses: list[float] = []
        means = _RunningMean(smoothing)
        least = math.inf
        for batch in rounds:
            with np.errstate(all="ignore"):  # overflow is what the test looks for
                given, grads = of_batch(batch)
            loss = check_scalar("loss", given)
            if not math.isfinite(loss):
                if not losses:
                    raise ValueError(f"the first loss must be finite, not {loss}")
                if len(losses) == 1:
                    raise ValueError(
                        f"the loss was {loss} after the first rate: low must be less than {low:g}"
                    )
                ended = f"the loss was {loss} after {rates[len(losses) - 1]:.2g}"
                break
            losses.append(loss)
            mean = means.add(loss)
            if mean - least > (diverged - 1.0) * abs(least):
                ended = f"the loss diverged at {rates[len(losses) - 2]:.2g}"
                break
            least = min(least, mean)
            if len(losses) > steps:
                break
            clock = getattr(batch, "clock", None)
            opt.step(grads, clock=clock and clock._replace(step=None), loss=loss)
        tried_rates = rates[: len(losses) - 1]
        return RateRange(tried_rates, np.array(losses[1:]), ended, rounds.begun, smoothing)

    return tried(sweep, opt, loader)


def _ratios(opt: Optimizer, clock: Any) -> list[float]:
    """The learning rate of each group over that of the first, for the next update."""
    values = [opt._settings.as_set("lr", g) for g in range(len(opt.groups))]
    if all(value is values[0] for value in values):
        return [1.0] * len(values)
    now = Clock(*(clock or Clock()))._replace(step=opt.steps_applied)
    try:
        rates = [value(now) if isinstance(value, Expression) else value for value in values]
        ratios = [float(rate / rates[0]) for rate in rates]
    except (ValueError, ZeroDivisionError) as error:
        ratios, reason = [math.nan], f": {error}"
    else:
        reason = f": they are {', '.join(f'{rate:g}' for rate in rates)}"
    if not all(0.0 < ratio < math.inf for ratio in ratios):
        raise ValueError(
            "the ratios of the groups' learning rates are not known for the next update"
            f"{reason}; give the optimizer that is tested rates that are numbers, above 0"
        )
    return ratios


class _RunningMean:
    """A mean in which each value before the last counts for ``keep`` times its successor."""

    def __init__(self, keep: float) -> None:
        self._keep = keep
        self._sum = self._weight = 0.0

    def add(self, value: float) -> float:
        """The mean with one value more."""
        self._sum = self._keep * self._sum + value
        self._weight = self._keep * self._weight + 1.0
        return self._sum / self._weight


def running_means(values: Numbers, keep: float) -> Numbers:
    mean = _RunningMean(keep)
    return np.array([mean.add(float(value)) for value in values])


def _both_ways(values: Numbers, keep: float) -> Numbers:
    """The sum over all values with the weights ``keep^distance``."""

    def sums(values: Numbers) -> Numbers:
        total, found = 0.0, []
        for value in values:
            total = keep * total + float(value)
            found.append(total)
        return np.array(found)

    return sums(values) + sums(values[::-1])[::-1] - values
