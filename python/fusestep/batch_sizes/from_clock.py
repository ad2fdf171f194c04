"""Batch sizes that follow the clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .. import schedules
from ..arguments import check_number, check_positive, check_whole
from ..clock import Clock, Unit
from ..expression import Expression, floor, minimum, samples
from ..expression.nodes import Input
from ..expression.nodes import expression as as_expression
from ..expression.traversal import substituted, walk
from ..memory import Changes
from ..saved_state import LARGEST
from .base import Policy, policy
from .rounding import Options

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Scheduled(Policy):
    """A policy whose rule is a function of the clock, for example an expression."""

    def __init__(self, rule: Callable[[Clock], Any], **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self._rule = rule
        self._read(rule)

    @property
    def _has_state(self) -> bool:
        return self._rounding.has_state

    def wanted(self, clock: Clock) -> float | None:
        try:
            value: float = self._rule(clock)
        except ValueError as error:  # most often the clock lacks what an expression reads
            raise ValueError(f"{self!r}: {error}") from error
        if value is None:
            raise TypeError(f"{self!r} must give a number, not None")
        return value


class _Fixed(Scheduled):
    """A constant size: after the first decision nothing changes."""

    _constant: int

    def __init__(self, n: int, **options: Unpack[Options]) -> None:
        super().__init__(as_expression(n), **options)
        self._constant = self._rounding.nearest(n)

    def _deciding(self, clock: Clock) -> tuple[int, Changes]:
        if self.size == self._constant and isinstance(clock, Clock):
            return self._constant, []
        return super()._deciding(clock)


def check_curve(name: str, curve: Any) -> Expression:
    """An expression or a number; ValueError, naming it, if it reads the batch size."""
    found = as_expression(curve)
    for node in walk(substituted(found, {})):
        if isinstance(node, Input) and node._name == "batch_size":
            raise ValueError(f"{name} must not read batch_size, which it decides: {curve!r}")
    return found


@policy
def fixed(n: int, **options: Unpack[Options]) -> Policy:
    """The same size at all times.

    Args:
        n: a whole number, at least 1.
        options: limits and rounding, see `Policy`.

    Example:
        >>> import fusestep as fs
        >>> from fusestep import batch_sizes
        >>> batch_sizes.fixed(100, multiple_of=32).next_size(fs.Clock())
        96
    """
    return _Fixed(check_whole("n", n, 1, LARGEST), **options)


@policy
def polynomial(
    start: float,
    end: float,
    length: float,
    power: float = 1.0,
    by: Unit = "step",
    **options: Unpack[Options],
) -> Policy:
    """A power of what is left, from one size to another, held from then on.

    ``end + (start - end) * (1 - x)^power`` with ``x = min(t / length, 1)``. A batch that shrinks to
    1, ``start * (1 - t / length)^power``, has ``end=0``: no size is below the minimum.

    Args:
        start: above 0.
        end: at least 0.
        length: above 0, in the unit of ``by``.
        power: at least 0.
        by: what ``t`` is: "step", "samples" or "epoch". A length in steps is another part of the
            data when sizes change.
        options: limits and rounding, see `Policy`.

    Example:
        >>> import fusestep as fs
        >>> from fusestep import batch_sizes
        >>> policy = batch_sizes.polynomial(start=32, end=128, length=4, by="epoch")
        >>> [policy.next_size(fs.Clock(epoch=t)) for t in (0, 1, 2.5, 9)]
        [32, 56, 92, 128]
    """
    check_positive("start", start)
    check_number("end", end)
    rule = schedules.polynomial(start, end, length, power, by=by)
    return Scheduled(rule, **options)


@policy
def exponential(
    start: float,
    rate: float,
    every: float = 1,
    staircase: bool = False,
    by: Unit = "step",
    **options: Unpack[Options],
) -> Policy:
    """Multiplied by ``rate`` in every span of ``every``, smoothly or in steps.

    ``start * rate^(t / every)``; with ``staircase`` the exponent is rounded down. A size that grows
    needs a maximum.

    Args:
        start: above 0.
        rate: above 0; below 1 the batch shrinks.
        every: above 0, in the unit of ``by``.
        staircase: stay at a size for the whole span.
        by: what ``t`` is: "step", "samples" or "epoch".
        options: limits and rounding, see `Policy`.

    Example:
        >>> import fusestep as fs
        >>> from fusestep import batch_sizes
        >>> policy = batch_sizes.exponential(start=32, rate=2, every=5, by="epoch", maximum=512)
        >>> [policy.next_size(fs.Clock(epoch=t)) for t in (0, 5, 7.5, 99)]
        [32, 64, 91, 512]
    """
    check_positive("start", start)
    return Scheduled(schedules.exponential(start, rate, every, staircase, by=by), **options)


@policy
def ramp(
    start: int, end: int, increment: int, over_samples: int, **options: Unpack[Options]
) -> Policy:
    """Equal steps from one size to another, each for as many samples.

    ``start + increment * floor(samples * n / over_samples)`` with n the number of increments, then
    ``end``. Where ``end`` is below ``start`` the increments are taken away.

    Args:
        start, end: whole numbers, at least 1, not equal.
        increment: a whole number, at least 1, that divides ``end - start``.
        over_samples: a whole number, at least 1.
        options: limits and rounding, see `Policy`.

    Example:
        >>> import fusestep as fs
        >>> from fusestep import batch_sizes
        >>> policy = batch_sizes.ramp(start=16, end=48, increment=8, over_samples=1000)
        >>> [policy.next_size(fs.Clock(samples=n)) for n in (0, 249, 250, 999, 1000)]
        [16, 16, 24, 40, 48]

    Source: the ``--rampup-batch-size`` of Megatron-LM.
    """
    first, last = check_whole("start", start, 1, LARGEST), check_whole("end", end, 1, LARGEST)
    step = check_whole("increment", increment, 1, LARGEST)
    length = check_whole("over_samples", over_samples, 1, LARGEST)
    if first == last:
        raise ValueError(f"start and end of a ramp must differ, not both {start}; use fixed(...)")
    n, rest = divmod(abs(last - first), step)
    if rest:
        raise ValueError(f"increment must divide end - start = {last - first}, not {increment}")
    taken = floor(minimum(samples, length) * n / length)
    return Scheduled(first + (step if last > first else -step) * taken, **options)


@policy
def steps(sizes: Mapping[int, int], **options: Unpack[Options]) -> Policy:
    """Sizes by the number of samples consumed.

    Args:
        sizes: ``{samples: size}``: from so many samples on, this size. Whole numbers; the first
            samples are 0, and they rise.
        options: limits and rounding, see `Policy`.

    Example:
        >>> import fusestep as fs
        >>> from fusestep import batch_sizes
        >>> policy = batch_sizes.steps({0: 32, 10_000: 64, 50_000: 128})
        >>> [policy.next_size(fs.Clock(samples=n)) for n in (0, 9_999, 10_000, 10**6)]
        [32, 32, 64, 128]

    Source: the ``--step-batch-size-schedule`` of Megatron-LM.
    """
    if not isinstance(sizes, Mapping) or not sizes:
        raise TypeError(f"sizes must be a dict {{samples: size}}, not {sizes!r}")
    at = [check_whole("samples", n, 0, LARGEST) for n in sizes]
    values = [check_whole(f"sizes[{n}]", size, 1, LARGEST) for n, size in sizes.items()]
    if at[0] != 0 or any(a >= b for a, b in pairwise(at)):
        raise ValueError(f"the samples in sizes must begin with 0 and rise, not {at}")
    return Scheduled(schedules.piecewise(values, at=at[1:], by="samples"), **options)


@policy
def expression(
    rule: Expression | Callable[[Clock], float],
    name: str | None = None,
    **options: Unpack[Options],
) -> Policy:
    """Any expression, or any function of the clock.

    Args:
        rule: an expression that does not read ``batch_size``, or a function that takes a
            `fusestep.Clock` and returns a number. Controls in an expression observe losses through
            the optimizer that has them, not through the policy.
        name: by which a function is known in saved state. None: its module and qualified name.
        options: limits and rounding, see `Policy`.

    Example:
        >>> import fusestep as fs
        >>> from fusestep import batch_sizes
        >>> curve = fs.schedules.cosine(start=1.0, end=0.5, length=100)
        >>> policy = batch_sizes.expression(64 / curve)
        >>> [policy.next_size(fs.Clock(step=t)) for t in (0, 50, 100)]
        [64, 85, 128]
    """
    if name is not None and not (isinstance(name, str) and name):
        raise TypeError(f"name must be text, not {name!r}")
    if isinstance(rule, Expression):
        return Scheduled(check_curve("rule", rule), **options)
    if not callable(rule):
        raise TypeError(f"rule must be an expression or a function of the clock, not {rule!r}")
    return Scheduled(rule, **options)
