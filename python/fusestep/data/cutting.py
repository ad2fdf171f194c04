"""Where epochs are cut into batches, and which part of a batch a rank has."""

from __future__ import annotations

from typing import Any, get_args

from ..arguments import check_choice, check_flag, check_whole
from ..batch_sizes.choosing import Tail
from .order import Piece


class Cutting:
    """Cuts batches from epochs, and parts of them for one rank.

    Args:
        samples: of an epoch.
        tail, shard, even: as of `Loader`.
    """

    def __init__(self, samples: int, tail: Any, shard: Any, even: Any) -> None:
        self._samples = samples
        self.tail = check_choice("tail", tail, get_args(Tail))
        if not isinstance(shard, (tuple, list)) or len(shard) != 2:
            raise TypeError(f"shard must be (rank, world), not {shard!r}")
        self.world = check_whole("shard[1]", shard[1], 1)
        self._rank = check_whole("shard[0]", shard[0], 0, self.world - 1)
        # of which every batch is a multiple
        self._unit = self.world if check_flag("even", even) else 1
        if samples < self._unit:
            raise ValueError(
                f"even=True needs a sample for each of {self.world} ranks, not {samples}"
            )
        if self._is_uneven(0):
            raise ValueError(
                f"even=True with tail='short': {samples} samples can't be shared evenly among "
                f"{self.world} ranks: say tail='carry' or tail='drop' for the last ones"
            )

    def _is_uneven(self, position: int) -> bool:
        return self.tail == "short" and (self._samples - position) % self._unit != 0

    def unshared(self, position: int) -> list[str]:
        """What is wrong with a saved position if the rest of its epoch can't be shared evenly."""
        if not self._is_uneven(position):
            return []
        return [
            f"position: {position}, {self._samples - position} samples of the epoch are left "
            f"and can't be shared evenly among {self.world} ranks: load it with even=False, or "
            "with tail='carry' or tail='drop'"
        ]

    def _rounded(self, size: int) -> int:
        return size if self._unit == 1 else max(self._unit, size - size % self._unit)

    def fitted(self, size: int) -> int:
        """The size of the first batch of an epoch."""
        size = self._rounded(size)
        if self.tail == "drop" and size > self._samples:
            raise ValueError(
                f"batch_size is {size}, there are {self._samples} samples: with tail='drop' "
                "nothing would ever be delivered"
            )
        return size

    def cut(self, epoch: int, position: int, size: int, end: int) -> list[Piece]:
        """The pieces of the next batch; none where what is left of the epoch is left out.

        Args:
            end: the epoch that ends the loop.
        """
        left = self._samples - position
        size = self.fitted(size) if position == 0 else self._rounded(size)
        if size <= left:
            return [Piece(epoch, position, position + size)]
        if self.tail == "drop":
            return []
        if self.tail == "carry":
            left += (end - epoch - 1) * self._samples
        size = min(size, left)
        size -= size % self._unit
        pieces = []
        while size > 0:
            last = min(self._samples, position + size)
            pieces.append(Piece(epoch, position, last))
            size -= last - position
            epoch, position = epoch + 1, 0
        return pieces

    def share(self, pieces: list[Piece]) -> list[Piece]:
        """This rank's part of a batch."""
        if self.world == 1:
            return pieces
        size = sum(piece.end - piece.begin for piece in pieces)
        begin, end = (size * rank // self.world for rank in (self._rank, self._rank + 1))
        part, passed = [], 0
        for epoch, first, last in pieces:
            low, high = max(begin - passed, 0), min(end - passed, last - first)
            if low < high:
                part.append(Piece(epoch, first + low, first + high))
            passed += last - first
        return part

    def batches(self, size: int, epochs: int) -> int:
        """How many batches of a size there are in so many epochs."""
        size = self.fitted(size)
        if self.tail == "drop":
            return self._samples // size * epochs
        if self.tail == "carry":
            samples = self._samples * epochs
            return -(-(samples - samples % self._unit) // size)
        return -(-self._samples // size) * epochs
