"""A policy for whatever stands for a batch size, and sizes to begin with."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Literal, overload

from ..arguments import check_choice, check_flag, check_whole
from ..expression import Expression
from ..saved_state import LARGEST
from .base import Policy
from .from_clock import expression, fixed


def as_policy(value: Any, n_samples: int) -> Policy:
    """The policy that a batch size stands for, as in ``Loader(batch_size=...)``.

    Args:
        value: a whole number, at least 1; "full", the whole data set; an expression or
            a function of the clock, held to at most ``n_samples``; or a policy, which is returned
            as it is.
        n_samples: of the data set: a whole number, at least 1.

    Raises:
        TypeError, ValueError: it is none of these.

    Example:
        >>> from fusestep import batch_sizes
        >>> batch_sizes.as_policy("full", n_samples=1797)
        batch_sizes.fixed(n=1797)
    """
    most = check_whole("n_samples", n_samples, 1, LARGEST)
    if isinstance(value, Policy):
        return value
    if isinstance(value, str) and value == "full":
        return fixed(most)
    if isinstance(value, Integral) and not isinstance(value, bool):
        return fixed(check_whole("batch_size", value, 1, LARGEST))
    if isinstance(value, Expression) or callable(value):
        return expression(value, maximum=most)
    wrong = ValueError if isinstance(value, str) else TypeError
    raise wrong(
        'batch_size must be a whole number, "full", an expression, a function of the clock or a '
        f"policy of fusestep.batch_sizes, not {value!r}"
    )


def rule_of_thumb(n_samples: int, uniform: bool) -> int:
    """A size to begin with.

    ======================  =====  ======
    samples                 mixed  uniform
    ======================  =====  ======
    fewer than 10,000       32     64
    fewer than 100,000      64     128
    more                    64     256
    ======================  =====  ======

    Never more than there are samples.

    Args:
        n_samples: of the data set: a whole number, at least 1.
        uniform: whether samples are much alike: classes of equal size, few outliers.

    Example:
        >>> from fusestep import batch_sizes
        >>> batch_sizes.rule_of_thumb(60_000, uniform=True)
        128
    """
    n = check_whole("n_samples", n_samples, 1)
    size = 32 if n < 10_000 else 64
    if check_flag("uniform", uniform):
        size *= 4 if n >= 100_000 else 2
    return min(size, n)


@overload
def steps_per_epoch(n_samples: int, batch: int, tail: Literal["short", "drop"] = ...) -> int: ...
@overload
def steps_per_epoch(n_samples: int, batch: int, tail: Literal["carry"]) -> float: ...
def steps_per_epoch(
    n_samples: int, batch: int, tail: Literal["short", "drop", "carry"] = "short"
) -> int | float:
    """The number of batches of one size in an epoch.

    Args:
        n_samples: of the data set: a whole number, at least 1.
        batch: the size: a whole number, at least 1.
        tail: what becomes of the samples that fill no batch: they are a "short" batch, a "drop"
            leaves them out, or the next epoch fills it up, "carry". The number is then an average
            and need not be whole.

    Example:
        >>> from fusestep import batch_sizes
        >>> [batch_sizes.steps_per_epoch(100, 32, tail) for tail in ("short", "drop", "carry")]
        [4, 3, 3.125]
    """
    n, size = check_whole("n_samples", n_samples, 1), check_whole("batch", batch, 1)
    if check_choice("tail", tail, ("short", "drop", "carry")) == "carry":
        return n / size
    return n // size if tail == "drop" else -(-n // size)
