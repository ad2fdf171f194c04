"""All that a group does, over an engine that is asked for messages from rank to rank alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...arguments import check_positive
from .protocol import Message, Range, RankTimeout

_BYTES, _SHARDS, _ARRAYS = 0, 1, 2  # the least tags of each kind of message


# Engines may write into arrays as long as the process lives, whatever interrupts an exchange.
_alive: list[UnderWay] = []


class UnderWay:
    """An exchange that has begun."""

    def __init__(self, group: PointToPoint, sends: list[Message], receives: list[Message]) -> None:
        self._group, self._messages = group, (sends, receives)
        _alive.append(self)
        group.under_way.append(self)
        self._begun = group.begin(sends, receives)

    def finish(self) -> None:
        self._group.end(self._begun)
        self._group.under_way.remove(self)
        _alive.remove(self)


class PointToPoint:
    """A group; a class for each engine says how its messages `begin` and `end`.

    Both ends know what moves and how long it is, and send as many messages in the same order.
    """

    BOX = 4096  # bytes of `gather_bytes` that move before their number is known
    CHUNK = 1 << 27  # elements: engines count up to 2^31, some of them bytes

    def __init__(self, rank: int, world: int, timeout: float) -> None:
        self.rank, self.world = rank, world
        self.timeout = check_positive("timeout", timeout)
        self.under_way: list[UnderWay] = []
        # the next rank first, so that not all send to one at a time
        self._others = [(rank + i) % world for i in range(1, world)]

    def begin(self, sends: list[Message], receives: list[Message]) -> Any:
        """Begins to send and to fill one-dimensional arrays, each under a tag of at least 0.

        Messages of one tag keep their order. Returns what `end` needs.
        """
        raise NotImplementedError

    def end(self, begun: Any) -> None:
        """Waits until what began has ended; raises RankTimeout if that takes too long."""
        raise NotImplementedError

    def gather_bytes(
        self, mine: bytes, sends: Sequence[Message] = (), receives: Sequence[Message] = ()
    ) -> list[bytes]:
        told = np.frombuffer(bytearray(len(mine).to_bytes(8, "little") + mine), np.uint8)
        first = np.zeros(self.BOX, np.uint8)
        first[: told.size] = told[: self.BOX]
        boxes = np.empty((self.world, self.BOX), np.uint8)
        self._deliver(
            [(rank, _BYTES, first) for rank in self._others] + self._tagged(sends),
            [(rank, _BYTES, boxes[rank]) for rank in self._others] + self._tagged(receives),
        )
        boxes[self.rank] = first
        sizes = [8 + size for size in boxes[:, :8].copy().view("<u8")[:, 0].tolist()]
        if max(sizes) <= self.BOX:
            return [box[8:size].tobytes() for box, size in zip(boxes, sizes, strict=True)]
        rests = [np.empty(max(0, size - self.BOX), np.uint8) for size in sizes]
        self._deliver(
            [(rank, _BYTES, told[self.BOX :]) for rank in self._others],
            [(rank, _BYTES, rests[rank]) for rank in self._others],
        )
        rests[self.rank] = told[self.BOX :]
        return [
            (box.tobytes() + rest.tobytes())[8:size]
            for box, rest, size in zip(boxes, rests, sizes, strict=True)
        ]

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        self._deliver(self._tagged(sends), self._tagged(receives))

    def start(self, sends: Sequence[Message], receives: Sequence[Message]) -> UnderWay:
        return self._start(self._tagged(sends), self._tagged(receives))

    def gather_shards(self, memory: Any, ranges: Sequence[Range]) -> None:
        shards = [memory[begin:end] for begin, end in ranges]
        self._deliver(
            [(rank, _SHARDS, shards[self.rank]) for rank in self._others],
            [(rank, _SHARDS, shards[rank]) for rank in self._others],
        )

    def _tagged(self, messages: Sequence[Message]) -> list[Message]:
        return [(rank, _ARRAYS + number, array) for rank, number, array in messages]

    def _deliver(self, sends: list[Message], receives: list[Message]) -> None:
        if self.under_way:
            raise RankTimeout(
                f"rank {self.rank}: an earlier exchange of this group did not end: go on from a "
                "checkpoint"
            )
        self._start(sends, receives).finish()

    def _start(self, sends: list[Message], receives: list[Message]) -> UnderWay:
        return UnderWay(self, self._chunks(sends), self._chunks(receives))

    def _chunks(self, messages: list[Message]) -> list[Message]:
        """The messages with elements, in pieces that engines can count."""
        if all(array.ndim == 1 and 0 < array.size <= self.CHUNK for _, _, array in messages):
            return messages
        return [
            (rank, tag, flat[first : first + self.CHUNK])
            for rank, tag, array in messages
            for flat in (array.reshape(-1),)
            for first in range(0, flat.size, self.CHUNK)
        ]
