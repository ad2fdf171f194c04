"""Where a loader stands, how that is saved, and where epochs are cut into batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..arguments import check_choice, check_flag, check_whole
from ..saved_state import Form, optional, whole
from .order import Piece

FORMAT = 2

FORMS: dict[str, Form] = {
    "seed": whole(0, 2**63 - 1),
    **{name: whole() for name in ("epoch", "position", "samples", "batches")},
    "begin": optional(whole()),
}


class Cursor(NamedTuple):
    """The position of a loader: all that changes when a batch is delivered, as one value.

    Args:
        epoch, position: of the next sample.
        samples, batches: delivered so far, of all ranks.
        begin: the epoch in which the present loop began; None where none is under way.
    """

    seed: int
    epoch: int = 0
    position: int = 0
    samples: int = 0
    batches: int = 0
    begin: int | None = None


def to_json(cursor: Cursor, fixed: Mapping[str, Any], policy: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a loader as JSON values. ``fixed``: what only the same data and order have."""
    return {"format": FORMAT, **fixed, **cursor._asdict(), "policy": dict(policy)}


def contradictions(cursor: Cursor, samples: int) -> list[str]:
    """What is wrong with a saved cursor, for that many samples in an epoch."""
    found = []
    if cursor.position >= samples:
        found.append(f"position: {cursor.position} is not below {samples}")
    passed = cursor.epoch * samples + cursor.position
    if cursor.samples > passed:
        found.append(f"samples: {cursor.samples} are more than the {passed} of its epochs")
    if not cursor.batches <= cursor.samples or (cursor.samples > 0) != (cursor.batches > 0):
        found.append(f"batches: {cursor.batches} can't hold {cursor.samples} samples")
    if cursor.begin is not None and cursor.begin > cursor.epoch:
        found.append(f"begin: {cursor.begin} is after epoch {cursor.epoch}")
    return found


class Cutting:
    """Cuts batches from epochs, and parts of them for one rank.

    Args:
        samples: of an epoch.
        tail, shard, even: as of `Loader`.
    """

    def __init__(self, samples: int, tail: Any, shard: Any, even: Any) -> None:
        self._samples = samples
        self.tail = check_choice("tail", tail, ("short", "drop", "carry"))
        if not isinstance(shard, (tuple, list)) or len(shard) not in (2, 3):
            raise TypeError(f"shard must be (rank, world) or (begin, end, leaves), not {shard!r}")
        *first, self.world = shard
        check_whole(f"shard[{len(first)}]", self.world, 1)
        begin = check_whole("shard[0]", first[0], 0, self.world - (len(first) == 1))
        end = begin + 1 if len(first) == 1 else check_whole("shard[1]", first[1], begin, self.world)
        self.shard = begin, end, self.world
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
        begin, end = (size * part // self.world for part in self.shard[:2])
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
