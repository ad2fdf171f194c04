"""All that a group does, over an engine that is asked for messages from rank to rank alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ...arguments import check_positive
from .protocol import Message, RankTimeout

_BYTES, _SHARDS, _ARRAYS = 0, 1, 2  # the least tags of each kind of message


class PointToPoint:
    """A group; a class for each engine says how its messages `_move`.

    Both ends know what moves and how long it is, and send as many messages in the same order.
    """

    BOX = 4096  # bytes of `gather_bytes` that move before their number is known
    CHUNK = 1 << 27  # elements: engines count up to 2^31, some of them bytes

    def __init__(self, rank: int, world: int, timeout: float) -> None:
        self.rank, self.world = rank, world
        self.timeout = check_positive("timeout", timeout)
        self._is_whole = True

    def _move(self, sends: list[Message], receives: list[Message]) -> None:
        """Sends and fills one-dimensional arrays, each under a tag of at least 0.

        Messages of one tag keep their order. Raises RankTimeout if they take too long.
        """
        raise NotImplementedError

    def gather_bytes(self, mine: bytes) -> list[bytes]:
        told = np.frombuffer(bytearray(len(mine).to_bytes(8, "little") + mine), np.uint8)
        first = np.zeros(self.BOX, np.uint8)
        first[: told.size] = told[: self.BOX]
        boxes = {rank: np.empty(self.BOX, np.uint8) for rank in self._others()}
        self._deliver(
            [(rank, _BYTES, first) for rank in boxes],
            [(rank, _BYTES, box) for rank, box in boxes.items()],
        )
        sizes = {r: 8 + int.from_bytes(box[:8].tobytes(), "little") for r, box in boxes.items()}
        rests = {r: np.empty(max(0, size - self.BOX), np.uint8) for r, size in sizes.items()}
        self._deliver(
            [(rank, _BYTES, told[self.BOX :]) for rank in rests],
            [(rank, _BYTES, rest) for rank, rest in rests.items()],
        )
        return [
            mine
            if rank == self.rank
            else (boxes[rank].tobytes() + rests[rank].tobytes())[8 : sizes[rank]]
            for rank in range(self.world)
        ]

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        self._deliver(
            [(rank, _ARRAYS + number, array) for rank, number, array in sends],
            [(rank, _ARRAYS + number, array) for rank, number, array in receives],
        )

    def gather_shards(self, memory: Any, bounds: Sequence[int]) -> None:
        shards = [memory[begin:end] for begin, end in pairwise(bounds)]
        self._deliver(
            [(rank, _SHARDS, shards[self.rank]) for rank in self._others()],
            [(rank, _SHARDS, shards[rank]) for rank in self._others()],
        )

    def _others(self) -> list[int]:
        """The next rank first, so that not all send to one at a time."""
        return [(self.rank + i) % self.world for i in range(1, self.world)]

    def _deliver(self, sends: list[Message], receives: list[Message]) -> None:
        if not self._is_whole:
            raise RankTimeout(
                f"rank {self.rank}: an earlier exchange of this group did not end: go on from a "
                "checkpoint"
            )
        own, others = list(self._chunks(sends)), list(self._chunks(receives))
        if own or others:
            self._is_whole = False  # whatever interrupts what follows, messages are under way
            self._move(own, others)
            self._is_whole = True

    def _chunks(self, messages: Iterable[Message]) -> Iterator[Message]:
        for rank, tag, array in messages:
            flat = array.reshape(-1)
            for first in range(0, flat.size, self.CHUNK):
                yield rank, tag, flat[first : first + self.CHUNK]
