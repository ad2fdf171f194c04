"""The largest batch that memory holds."""

from __future__ import annotations

import gc
import math
import sys
import traceback
from collections.abc import Callable
from typing import Any

from ..arguments import check_number, check_whole

_LARGEST = 2**53  # samples: a step that still fits has no limit
# what libraries raise besides MemoryError: NumPy's and CuPy's errors are some of those
_NAMES = ("OutOfMemoryError",)
_TEXTS = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "cudaErrorMemoryAllocation",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def largest_batch(
    step: Callable[[int], object],
    *,
    low: int = 1,
    high: int | None = None,
    multiple_of: int = 1,
    margin: float = 0.0,
) -> int:
    """The largest batch that a training step has memory for: doubled until it fails, then bisected.

    Memory is given back between trials: the arrays in the frames of the error, what the garbage
    collector finds, and the free blocks of CuPy's and torch's pools.

    Args:
        step: ``step(n)`` takes a step with ``n`` samples, as training is going to, with its
            gradients and optimizer; it raises where memory does not suffice. What it changes
            otherwise stays changed: let it work on copies, or build anew afterwards.
        low: the smallest size to try, at least 1.
        high: the largest size to try, as the number of samples; None: no limit.
        multiple_of: sizes are multiples of this, at least 1, within ``low`` and ``high``.
        margin: a part, from 0 to below 1, that is taken off the size found, for what later steps
            may need more; not below the first size.

    Returns:
        The largest multiple that fits, which was tried; with a ``margin`` the largest multiple that
        is smaller by at least that part.

    Raises:
        MemoryError: not even the first size fits.
        ValueError: an argument is out of its range, or ``step`` fits however large the batch is.
        Whatever else ``step`` raises. Out of memory are MemoryError, as of NumPy and CuPy, torch's
        OutOfMemoryError, and errors of CUDA libraries and torch's CPU allocator that say so.

    A system that promises more memory than it has ends the process instead of raising: on a CPU
    give ``high``, or a limit such as ``resource.setrlimit``.

    Example:
        >>> from fusestep import tune
        >>> def step(n):
        ...     if n > 1000:
        ...         raise MemoryError
        >>> tune.largest_batch(step, multiple_of=32), tune.largest_batch(step, margin=0.05)
        (992, 950)
    """
    unit = check_whole("multiple_of", multiple_of, 1)
    first = -(-check_whole("low", low, 1) // unit)
    last = _LARGEST // unit if high is None else check_whole("high", high, 1) // unit
    if last < first:
        raise ValueError(
            f"high must leave a multiple of {unit} that is at least low={low}, not {high!r}"
        )
    check_number("margin", margin, 0.0, 1.0, below_upper=True)
    if reason := _reason_against(step, first * unit):
        raise MemoryError(f"the smallest batch, of {first * unit}, does not fit: {reason}")
    fits, fails = first, last + 1
    is_doubling = True
    while fails - fits > 1:
        tried = min(2 * fits, last) if is_doubling else (fits + fails) // 2
        if _reason_against(step, tried * unit):
            fails, is_doubling = tried, False
        else:
            fits = tried
    if high is None and fits == last:
        raise ValueError(f"step does not run out of memory: it fits {fits * unit} samples")
    kept = fits - math.ceil(round(fits * margin, 9))  # 100 * 0.07 is 7, not a little more
    return max(first, kept) * unit


def _reason_against(step: Callable[[int], object], size: int) -> str | None:
    """What was raised if memory did not suffice; it is given back in any case."""
    reason = None
    try:
        step(size)
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {error}"
        _clear_frames(error)
    _give_back()
    return reason


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ in _NAMES:
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)


def _clear_frames(error: BaseException | None) -> None:
    """Lets go of the arrays that the functions which raised it, or those before it, had."""
    seen: set[int] = set()
    pending = [error]
    while pending:
        error = pending.pop()
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            traceback.clear_frames(error.__traceback__)
            pending += [error.__cause__, error.__context__]


def _give_back() -> None:
    gc.collect()
    cupy: Any = sys.modules.get("cupy")
    if cupy is not None:
        cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
