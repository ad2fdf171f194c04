"""Groups of processes: engines that exist move bytes, and never add numbers."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..arguments import check_positive, check_whole

Bytes = bytes
Message = tuple[int, int, Any]  # the other rank, a number that tells messages apart, an array


class RankError(RuntimeError):
    """Another rank failed. Nothing was updated on any rank, and all may go on."""


class RankTimeout(RuntimeError):
    """A rank did not come. What it sent or did is unknown: go on from a checkpoint."""


class Leaves(NamedTuple):
    """A rank's part of every batch: leaves ``begin`` to before ``end`` of ``leaves``."""

    begin: int
    end: int
    leaves: int


class Group(Protocol):
    """Some ranks, all of which make the same calls in the same order."""

    rank: int
    world: int

    def gather_bytes(self, mine: Bytes) -> list[Bytes]:
        """What every rank gave, in the order of ranks."""
        ...

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        """Fills the arrays to receive with those that other ranks send under the same number."""
        ...

    def gather_shards(self, memory: Any, bounds: Sequence[int]) -> None:
        """Fills one array with the shard of every rank; its own is there."""
        ...


def share(group: Group, leaves: int, shares: Sequence[int] | None = None) -> Leaves:
    """A rank's part of every batch, for ``Loader(shard=...)``.

    Args:
        group: from `mpi`, `threads` or `alone`.
        leaves: into how many parts a batch is cut.
        shares: how many of them each rank has; even where it is not given.

    Example:
        >>> from fusestep import distributed
        >>> distributed.share(distributed.alone(), 64)
        Leaves(begin=0, end=64, leaves=64)
    """
    bounds = leaf_bounds(group.world, leaves, shares)
    return Leaves(bounds[group.rank], bounds[group.rank + 1], leaves)


def leaf_bounds(world: int, leaves: int, shares: Sequence[int] | None) -> list[int]:
    """Where the leaves of each rank begin, and the last ones end."""
    check_whole("leaves", leaves, 1, 4096)
    if leaves < world:
        raise ValueError(f"leaves must be at least {world}, one for each rank, not {leaves}")
    if shares is None:
        return [leaves * rank // world for rank in range(world + 1)]
    counts = [check_whole(f"shares[{rank}]", count, 0) for rank, count in enumerate(shares)]
    if len(counts) != world or sum(counts) != leaves:
        raise ValueError(
            f"shares must be {world} numbers, one for each rank, whose sum is {leaves}, not "
            f"{list(shares)}"
        )
    return [sum(counts[:rank]) for rank in range(world + 1)]


class Alone:
    """A group of this process alone."""

    rank, world = 0, 1

    def gather_bytes(self, mine: Bytes) -> list[Bytes]:
        return [mine]

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        pass

    def gather_shards(self, memory: Any, bounds: Sequence[int]) -> None:
        pass


def alone() -> Alone:
    """A group of one: the same program, and the same bits, without other processes."""
    return Alone()


class Threads:
    """One rank of a group whose ranks are threads of this process."""

    def __init__(self, rank: int, world: int, boxes: _Boxes, timeout: float) -> None:
        self.rank, self.world = rank, world
        self._boxes, self._timeout = boxes, timeout

    def gather_bytes(self, mine: Bytes) -> list[Bytes]:
        return self._from_all("bytes", mine)

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        for rank, number, array in sends:
            self._boxes.of((number, self.rank, rank)).put(array.copy())
        for rank, number, array in receives:
            array[...] = self._take((number, rank, self.rank))

    def gather_shards(self, memory: Any, bounds: Sequence[int]) -> None:
        own = memory[bounds[self.rank] : bounds[self.rank + 1]].copy()
        for rank, shard in enumerate(self._from_all("shards", own)):
            memory[bounds[rank] : bounds[rank + 1]] = shard

    def _from_all(self, kind: str, mine: Any) -> list[Any]:
        for rank in range(self.world):
            self._boxes.of((kind, self.rank, rank)).put(mine)
        return [self._take((kind, rank, self.rank)) for rank in range(self.world)]

    def _take(self, key: tuple[Any, int, int]) -> Any:
        try:
            return self._boxes.of(key).get(timeout=self._timeout)
        except queue.Empty:
            raise _late(self.rank, [key[1]], self._timeout) from None


class _Boxes:
    """Queues between threads, by key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[Any, queue.Queue[Any]] = {}

    def of(self, key: Any) -> queue.Queue[Any]:
        with self._lock:
            return self._queues.setdefault(key, queue.Queue())


def threads(world: int, *, timeout: float = 600.0) -> list[Threads]:
    """The ranks of a group, one for each of some threads: to test a program in one process.

    Args:
        world: how many, at least 1.
        timeout: seconds after which a rank that does not come is an error.
    """
    boxes, seconds = _Boxes(), check_positive("timeout", timeout)
    return [Threads(rank, world, boxes, seconds) for rank in range(check_whole("world", world, 1))]


class Mpi:
    """The processes of a communicator of mpi4py.

    Every call is nonblocking and waited for with a deadline.
    """

    _BOX = 4096  # bytes of a message that is exchanged at once

    def __init__(self, communicator: Any, timeout: float) -> None:
        from mpi4py import MPI

        self._mpi, self._communicator = MPI, communicator.Dup()
        self.rank, self.world = communicator.rank, communicator.size
        self._timeout = check_positive("timeout", timeout)
        self._is_broken = False

    def gather_bytes(self, mine: Bytes) -> list[Bytes]:
        """A short message takes one exchange; the length of a longer one, and then the rest."""
        box = np.zeros((self.world, self._BOX), np.uint8)
        own = len(mine).to_bytes(8, "little") + mine
        box[self.rank, : len(own)] = np.frombuffer(own[: self._BOX], np.uint8)
        self._gather_rows(box)
        lengths = [8 + int.from_bytes(row[:8].tobytes(), "little") for row in box]
        if max(lengths) > self._BOX:
            box = np.zeros((self.world, max(lengths)), np.uint8)
            box[self.rank, : len(own)] = np.frombuffer(own, np.uint8)
            self._gather_rows(box)
        return [row[8:end].tobytes() for row, end in zip(box, lengths, strict=True)]

    def _gather_rows(self, box: Any) -> None:
        others = [rank for rank in range(self.world) if rank != self.rank]
        receives = [self._communicator.Irecv(box[rank], rank, tag=0) for rank in others]
        sends = [self._communicator.Isend(box[self.rank], rank, tag=0) for rank in others]
        self._wait([*receives, *sends], [*others, *others])

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        requests = [self._communicator.Irecv(a, rank, tag=1 + n) for rank, n, a in receives]
        requests += [self._communicator.Isend(a, rank, tag=1 + n) for rank, n, a in sends]
        self._wait(requests, [rank for rank, _, _ in [*receives, *sends]])

    def gather_shards(self, memory: Any, bounds: Sequence[int]) -> None:
        counts = [end - begin for begin, end in itertools.pairwise(bounds)]
        kind = self._mpi.FLOAT if memory.dtype == np.float32 else self._mpi.DOUBLE
        request = self._communicator.Iallgatherv(
            self._mpi.IN_PLACE, [memory, counts, list(bounds[:-1]), kind]
        )
        self._wait([request], [self.rank])

    def _wait(self, requests: list[Any], ranks: Sequence[int]) -> None:
        if self._is_broken:
            raise RankTimeout("a rank did not come before: this group can't go on")
        deadline = time.monotonic() + self._timeout
        while not self._mpi.Request.Testall(requests):
            time.sleep(0)  # gives the core away
            if time.monotonic() > deadline:
                self._is_broken = True
                waiting = zip(requests, ranks, strict=True)
                late = {rank for request, rank in waiting if request != self._mpi.REQUEST_NULL}
                raise _late(self.rank, sorted(late), self._timeout)


def mpi(communicator: Any, *, timeout: float = 600.0) -> Mpi:
    """The processes of a communicator of mpi4py; needs ``pip install 'fusestep[mpi]'``.

    Args:
        communicator: `mpi4py.MPI.COMM_WORLD`, or another; it is duplicated.
        timeout: seconds after which a rank that does not come is an error.
    """
    return Mpi(communicator, timeout)


def _late(rank: int, late: list[int], timeout: float) -> RankTimeout:
    names = ", ".join(str(other) for other in late)
    return RankTimeout(
        f"rank {rank} waited {timeout:g} s for rank {names}: go on from a checkpoint"
    )
