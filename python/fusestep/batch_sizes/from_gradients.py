"""Batch sizes that follow the gradients."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Protocol

from ..arguments import check_number, check_positive, check_whole
from ..clock import Clock
from ..saved_state import LARGEST
from .base import Policy, PolicyMemory, policy
from .rounding import Options

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Statistics(Protocol):
    """Estimates from gradients, read for each batch; None while one is unknown.

    ``gradient_variance`` is S, the trace of the covariance of the gradients of single samples,
    ``squared_gradient`` is |G|^2, the squared norm of the true gradient, and ``noise_scale`` is the
    quotient of their means, in samples.
    """

    @property
    def gradient_variance(self) -> float | None: ...
    @property
    def squared_gradient(self) -> float | None: ...
    @property
    def noise_scale(self) -> float | None: ...


class Adaptive(Policy):
    """A policy that keeps its size, at first ``start``, while its rule gives None."""

    def __init__(self, start: int, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self._start = check_whole("start", start, 1, LARGEST)

    def wanted(self, clock: Clock) -> float | None:
        return self._rule(self._memory)

    def _want(self, clock: Clock, memory: PolicyMemory) -> tuple[float | None, PolicyMemory]:
        return self._rule(memory), memory

    def _rule(self, memory: PolicyMemory) -> float | None:
        raise NotImplementedError


class OfGradients(Adaptive):
    """A policy whose rule reads its memory and statistics; it gives None while one is unknown."""

    def __init__(
        self,
        statistics: Statistics,
        reads: tuple[str, ...],
        rule: Callable[..., float | None],
        start: int,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(start, **options)
        missing = [name for name in reads if not hasattr(statistics, name)]
        if missing:
            raise TypeError(f"statistics must have {', '.join(missing)}, not be {statistics!r}")
        self._statistics, self._reads, self._of = statistics, reads, rule
        self._read(statistics)

    def _rule(self, memory: PolicyMemory) -> float | None:
        values = [getattr(self._statistics, name) for name in self._reads]
        for name, value in zip(self._reads, values, strict=True):
            if value is not None and (not isinstance(value, Real) or isinstance(value, bool)):
                raise TypeError(f"{self!r} reads {name}: it must be a number, not {value!r}")
        return None if None in values else self._of(memory, *map(float, values))


@policy
def noise_scale(
    statistics: Statistics, c: float = 1.0, *, start: int, **options: Unpack[Options]
) -> Policy:
    """A multiple of the gradient noise scale: ``c * noise_scale``.

    Args:
        statistics: a `fusestep.gradients.GradientStatistics`, or an object with the attribute
            ``noise_scale``: a number of samples, or None while it is unknown.
        c: above 0.
        start: the size until the noise scale is known: a whole number, at least 1.
        options: limits and rounding, see `Policy`. The noise scale grows by orders of magnitude in
            training: set a maximum, and a ``dwell``.

    Example:
        >>> import fusestep as fs
        >>> from types import SimpleNamespace
        >>> from fusestep import batch_sizes
        >>> seen = SimpleNamespace(noise_scale=None)
        >>> policy = batch_sizes.noise_scale(seen, start=32, multiple_of=8, maximum=512)
        >>> first = policy.next_size(fs.Clock())
        >>> seen.noise_scale = 99.0
        >>> first, policy.next_size(fs.Clock())
        (32, 96)

    Source: McCandlish et al., "An empirical model of large-batch training", 2018.
    """
    factor = check_positive("c", c)
    return OfGradients(statistics, ("noise_scale",), lambda _, b: factor * b, start, **options)


@policy
def norm_test(
    statistics: Statistics, theta: float, *, start: int, **options: Unpack[Options]
) -> Policy:
    """The smallest batch whose gradient is good enough: ``S / (theta^2 * |G|^2)``.

    Its noise is then at most ``theta`` times the gradient. |G|^2 at 0 or below counts as unknown.

    Args:
        statistics: a `fusestep.gradients.GradientStatistics`, or an object with the attributes
            ``gradient_variance`` (S) and ``squared_gradient`` (|G|^2): numbers, or None while they
            are unknown.
        theta: in (0, 1).
        start: the size until both are known: a whole number, at least 1.
        options: limits and rounding, see `Policy`. In the source batches only grow:
            ``monotone=True``.

    Example:
        >>> import fusestep as fs
        >>> from types import SimpleNamespace
        >>> from fusestep import batch_sizes
        >>> seen = SimpleNamespace(gradient_variance=8.0, squared_gradient=0.5)
        >>> batch_sizes.norm_test(seen, theta=0.5, start=16).next_size(fs.Clock())
        64

    Source: Byrd et al., "Sample size selection in optimization methods for machine learning", 2012.
    """
    check_positive("theta", theta)
    part = check_number("theta", theta, 0.0, 1.0, below_upper=True)

    def rule(_: PolicyMemory, s: float, g2: float) -> float | None:
        return s / part / part / g2 if g2 > 0 else None

    reads = ("gradient_variance", "squared_gradient")
    return OfGradients(statistics, reads, rule, start, **options)


@policy
def diversity(
    statistics: Statistics,
    delta: float,
    n_samples: int,
    *,
    start: int,
    **options: Unpack[Options],
) -> Policy:
    """A part of the diversity of the gradients: ``delta * (S + |G|^2) / (|G|^2 + S / n_samples)``.

    The quotient is ``n_samples * sum |g_i|^2 / |sum g_i|^2`` over the data set, in terms of the
    estimates: about 1 plus the noise scale, and at most ``n_samples``. |G|^2 at 0 or below counts
    as unknown.

    Args:
        statistics: a `fusestep.gradients.GradientStatistics`, or an object with the attributes
            ``gradient_variance`` (S) and ``squared_gradient`` (|G|^2): numbers, or None while they
            are unknown.
        delta: above 0.
        n_samples: of the data set: a whole number, at least 1.
        start: the size until both are known: a whole number, at least 1.
        options: limits and rounding, see `Policy`. In the source a size holds for an epoch:
            ``dwell=n_samples``.

    Example:
        >>> import fusestep as fs
        >>> from types import SimpleNamespace
        >>> from fusestep import batch_sizes
        >>> seen = SimpleNamespace(gradient_variance=96.0, squared_gradient=1.0)
        >>> batch_sizes.diversity(seen, 0.5, n_samples=32, start=16).next_size(fs.Clock())
        12

    Source: Yin et al., "Gradient diversity: a key ingredient for scalable distributed learning",
    2018; the rule is that of DiveBatch, 2025.
    """
    part = check_positive("delta", delta)
    n = check_whole("n_samples", n_samples, 1, LARGEST)

    def rule(_: PolicyMemory, s: float, g2: float) -> float | None:
        return part * ((s + g2) / (g2 + s / n)) if g2 > 0 else None

    reads = ("gradient_variance", "squared_gradient")
    return OfGradients(statistics, reads, rule, start, **options)
