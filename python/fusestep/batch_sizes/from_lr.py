"""Batch sizes that grow in place of, or beside, a decay of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .. import schedules
from ..arguments import check_number, check_positive, check_whole
from ..clock import Clock, Unit
from ..expression import Expression
from ..expression.nodes import Cell
from ..memory import MemoryCell
from ..saved_state import LARGEST, Form, number
from .base import Policy, PolicyMemory, policy
from .from_clock import Scheduled, check_curve
from .rounding import Options, OtherOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

_BEGIN = Clock(step=0, samples=0, epoch=0)


class Doubling(Scheduled):
    """What `doubling` gives."""

    lr_factor: Expression


@dataclass(frozen=True)
class RateMemory(PolicyMemory):
    highest: float = 0.0  # value of the curve so far


class IncreaseInsteadOfDecay(Policy):
    """What `increase_instead_of_decay` gives."""

    _memory: RateMemory

    def __init__(self, curve: Expression, base_batch: int, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self._curve = curve
        self._read(curve)
        self._base_batch = base_batch
        first = RateMemory(highest=self._value(_BEGIN))
        self._rate = MemoryCell(first.highest, self)
        self._remember(first)

    @property
    def highest(self) -> float:
        """The highest value of the curve so far."""
        return self._memory.highest

    @property
    def lr(self) -> Expression:
        """The learning rate for the last size decided."""
        return self._live("lr", self._rate * self._share)

    def wanted(self, clock: Clock) -> float:
        return self._want(clock, self._memory)[0]

    def _want(self, clock: Clock, memory: PolicyMemory) -> tuple[float, PolicyMemory]:
        assert isinstance(memory, RateMemory)
        value = self._value(clock)
        highest = max(memory.highest, value)
        memory = replace(memory, highest=highest)
        if value == highest:
            return self._base_batch, memory
        return self._base_batch * (highest / value) if value > 0 else math.inf, memory

    def _value(self, clock: Clock) -> float:
        return check_number("lr_curve", self._curve(clock))

    def _shown(self, memory: PolicyMemory) -> Iterable[tuple[Cell, float]]:
        assert isinstance(memory, RateMemory)
        yield from super()._shown(memory)
        yield self._rate, memory.highest

    def _forms(self) -> dict[str, Form]:
        return {**super()._forms(), "highest": number(0.0)}


@policy
def coupled(lr: Expression, base_batch: int, **options: Unpack[Options]) -> Policy:
    """The batch follows the learning rate: ``base_batch * lr(t) / lr(0)``.

    Args:
        lr: an expression that is above 0 at time 0; give the optimizer the same one.
        base_batch: the size at time 0: a whole number, at least 1.
        options: limits and rounding, see `Policy`.

    Example:
        >>> import fusestep as fs
        >>> from fusestep import batch_sizes
        >>> lr = fs.schedules.linear(start=0.1, end=0.0, length=10)
        >>> policy = batch_sizes.coupled(lr, base_batch=64)
        >>> [policy.next_size(fs.Clock(step=t)) for t in (0, 5, 10)]
        [64, 32, 1]
    """
    curve = check_curve("lr", lr)
    first = check_positive("lr at time 0", curve(_BEGIN))
    base = check_whole("base_batch", base_batch, 1, LARGEST)
    return Scheduled(base * (curve / first), **options)


@policy
def increase_instead_of_decay(
    lr_curve: Expression, base_batch: int, maximum: int, **options: Unpack[OtherOptions]
) -> IncreaseInsteadOfDecay:
    """Where the learning rate would fall, the batch grows by as much, and the rate stays.

    With h the highest value of the curve so far, the wanted size is ``base_batch * h / curve``.
    Give the optimizer ``policy.lr``: it is h while that size is at most the maximum, and beyond it
    ``h * maximum / wanted``, so that the rate falls as the curve does. While the curve rises, the
    batch stays at ``base_batch`` and the rate is the curve.

    Args:
        lr_curve: an expression, nowhere below 0.
        base_batch: the size where the curve is highest: a whole number, at least 1.
        maximum: the largest size; a tenth of the data set in the source.
        options: limits and rounding, see `Policy`. ``overflow`` is "lr" unless it is said; with
            "clip" the rate never falls.

    ``policy.lr`` belongs to the size that ``next_size`` gave last: ask for a size when the batch is
    drawn, not ahead. It knows nothing of rounding or short batches; a rate that follows the batch
    used exactly is ``scaling.linear(lr_curve, base_batch)``.

    Raises:
        ValueError, TypeError: an argument is out of its range, or, later, the curve is.

    Example:
        >>> import fusestep as fs
        >>> from fusestep import batch_sizes
        >>> curve = fs.schedules.multistep(0.1, factor=0.5, at=[10, 20, 30])
        >>> policy = batch_sizes.increase_instead_of_decay(curve, base_batch=32, maximum=128)
        >>> for t in (0, 10, 20, 30):
        ...     print(policy.next_size(fs.Clock(step=t)), policy.lr())
        32 0.1
        64 0.1
        128 0.1
        128 0.05

    Source: Smith et al., "Don't decay the learning rate, increase the batch size", 2018.
    """
    curve = check_curve("lr_curve", lr_curve)
    base = check_whole("base_batch", base_batch, 1, LARGEST)
    check_whole("maximum", maximum, 1, LARGEST)
    limits: Options = {"overflow": "lr", **options, "maximum": maximum}
    return IncreaseInsteadOfDecay(curve, base, **limits)


@policy
def doubling(
    start: float,
    every: float,
    factor: float = 2.0,
    lr_factor: float = 0.75,
    by: Unit = "step",
    **options: Unpack[Options],
) -> Doubling:
    """Multiplied by ``factor`` after every span of ``every``, with a gentle decay of the rate.

    ``start * factor^floor(t / every)``. Multiply the learning rate by ``policy.lr_factor``, which
    is ``lr_factor^floor(t / every)``: with the defaults the rate for each sample falls to
    0.75 / 2 = 0.375 of itself each time. A size that grows needs a maximum; with ``overflow="lr"``
    multiply the rate by ``policy.overflow`` too.

    Args:
        start: above 0.
        every: above 0, in the unit of ``by``; 20 epochs in the source.
        factor: above 0.
        lr_factor: at least 0.
        by: what ``t`` is: "step", "samples" or "epoch".
        options: limits and rounding, see `Policy`.

    Example:
        >>> import fusestep as fs
        >>> from fusestep import batch_sizes
        >>> policy = batch_sizes.doubling(start=128, every=20, by="epoch", maximum=2048)
        >>> lr = 0.1 * policy.lr_factor
        >>> clock = fs.Clock(epoch=40)
        >>> policy.next_size(clock), lr(clock)
        (512, 0.05625)

    Source: Devarakonda et al., "AdaBatch: adaptive batch sizes for training deep neural networks",
    2017.
    """
    check_positive("start", start)
    check_positive("factor", factor)
    check_number("lr_factor", lr_factor)
    built = Doubling(schedules.step(start, factor, every, by=by), **options)
    built.lr_factor = schedules.step(1.0, lr_factor, every, by=by)
    return built
