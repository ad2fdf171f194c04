"""The clock that schedules read."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

Unit: TypeAlias = Literal["step", "samples", "epoch"]  # of the time that a curve reads


class Clock(NamedTuple):
    """How far training is: what an expression may read. None stands for "not told".

    Args:
        step: updates applied so far; 0 for the first update. An optimizer counts them itself, so
            its ``step`` needs this only to be told otherwise.
        samples: samples consumed before this update.
        epoch: epochs passed before this update, with the fraction of the present one.
        batch_size: samples of this update.

    All must be at least 0 and below 2^53, where whole numbers are exact. They are checked where the
    clock is used.

    Steps meet the boundaries of curves exactly. Epochs are fractions, which doubles round: **within
    1e-9 of a boundary an epoch, or a number of samples, counts as there**, for every curve and for
    ``floor``, ``//``, ``%`` and comparisons, with any number of batches in an epoch. That holds for
    what is linear in them (``epoch / 3``, ``2 * epoch - 1``) and as long as doubles tell epochs
    apart by so little, which is up to four million.

    Example:
        >>> import fusestep as fs
        >>> lr = fs.schedules.linear(start=1.0, end=0.0, length=10, by="epoch")
        >>> lr(fs.Clock(epoch=2.5))
        0.75
    """

    step: float | None = None
    samples: float | None = None
    epoch: float | None = None
    batch_size: float | None = None
