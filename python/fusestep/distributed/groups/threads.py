"""Ranks that are threads of one process."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

from ...arguments import check_whole
from .point_to_point import PointToPoint
from .protocol import Message, late


class Threads(PointToPoint):
    """One rank of a group whose ranks are threads of this process."""

    def __init__(self, rank: int, world: int, boxes: _Boxes, timeout: float) -> None:
        super().__init__(rank, world, timeout)
        self._boxes = boxes

    def begin(self, sends: list[Message], receives: list[Message]) -> list[Message]:
        for rank, tag, array in sends:
            self._boxes.of((self.rank, rank, tag)).put(array.copy())
        return receives

    def end(self, begun: list[Message]) -> None:
        deadline = time.monotonic() + self.timeout
        boxes = [self._boxes.of((rank, self.rank, tag)) for rank, tag, _ in begun]
        for k, (_, _, array) in enumerate(begun):
            try:
                array[...] = boxes[k].get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                absent = [begun[i][0] for i in range(k, len(boxes)) if boxes[i].empty()]
                raise late(self.rank, absent or [begun[k][0]], self.timeout) from None


class _Boxes:
    """Queues between threads, by sender, receiver and tag."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[tuple[int, int, int], queue.Queue[Any]] = {}

    def of(self, key: tuple[int, int, int]) -> queue.Queue[Any]:
        with self._lock:
            return self._queues.setdefault(key, queue.Queue())


def threads(world: int, *, timeout: float = 600.0) -> list[Threads]:
    """The ranks of a group, one for each of some threads: to test a program in one process.

    Args:
        world: how many, at least 1.
        timeout: seconds after which a rank that does not come is an error.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> from fusestep import distributed
        >>> ranks = distributed.threads(3)
        >>> with ThreadPoolExecutor(3) as pool:
        ...     told = list(pool.map(lambda group: group.gather_bytes(b"%d" % group.rank), ranks))
        >>> told[0] == told[1] == told[2] == [b"0", b"1", b"2"]
        True
    """
    boxes = _Boxes()
    return [Threads(rank, world, boxes, timeout) for rank in range(check_whole("world", world, 1))]
