"""Samples in order, gathered ahead of whoever consumes them, and cut where they are delivered."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from .columns import Array, Columns
from .device import DeviceBlock
from .gather import gather
from .order import Order, Piece

_BYTES = 2 * 1024 * 1024  # of a block: fits in a cache
_BATCHES = 4  # in a block at least
_AHEAD = 2  # blocks


class _Block(NamedTuple):
    """The rows of a piece, on their way: natively to buffers, or as what a thread reads."""

    piece: Piece
    buffers: Sequence[Array | None]
    gathering: Any
    read: Future[list[Array | None]] | None

    def has_come(self) -> bool:
        """Whether ``part`` gives all rows at once."""
        gathered = self.gathering is None or self.gathering.has(self.piece.end - self.piece.begin)
        read = self.read is None or (self.read.done() and self.read.exception() is None)
        return gathered and read

    def part(self, begin: int, end: int) -> list[Array | None]:
        """The rows of some places, once they have come; None for arrays on a GPU."""
        first, last = begin - self.piece.begin, end - self.piece.begin
        if self.gathering is not None:
            self.gathering.finish(last)
        rows = self.buffers
        if self.read is not None:
            brought = self.read.result()
            rows = [own if own is not None else b for own, b in zip(brought, rows, strict=True)]
        return [None if column is None else column[first:last] for column in rows]


class Stream:
    """Gathers blocks of the order in the background; a batch is a view of a block.

    The order does not depend on how it is cut, so nothing gathered ahead is ever wrong: a new
    batch size only cuts it elsewhere. Blocks are used again once nobody holds a view of them.
    """

    def __init__(self, columns: Columns, order: Order, seed: int) -> None:
        self._columns = columns
        self._order = order
        self._seed = seed
        self._row_bytes = max(1, columns.row_bytes)
        self._pool: list[list[Array | None]] = []
        self._executor: ThreadPoolExecutor | None = None
        self._process = os.getpid()
        self._blocks: deque[_Block | DeviceBlock] = deque()  # the present one, and those ahead

    def indices(self, pieces: Sequence[Piece]) -> Array:
        """The samples of some pieces."""
        parts = [self._order.part(self._seed, *piece) for piece in pieces]
        return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)

    def take(self, pieces: Sequence[Piece]) -> list[Any]:
        """The rows of some pieces."""
        parts = []
        for epoch, place, end in pieces or [Piece(0, 0, 0)]:
            while True:
                block = self._at(epoch, place, end)
                last = min(end, block.piece.end)
                parts.append(self._part(block, place, last))
                if last == end:
                    break
                place = last
        for ahead in self._blocks:
            if isinstance(ahead, DeviceBlock):
                ahead.advance()
        if len(parts) == 1:
            return parts[0]
        return [self._columns.concatenate(column) for column in zip(*parts, strict=True)]

    def _part(self, block: _Block | DeviceBlock, begin: int, end: int) -> list[Any]:
        try:
            return block.part(begin, end)
        except BaseException:
            self._blocks.clear()  # to be read again
            raise

    def _at(self, epoch: int, place: int, end: int) -> _Block | DeviceBlock:
        """The block that holds a place."""
        if self._process != os.getpid():  # a forked child has no threads
            self._process, self._executor = os.getpid(), None
            self._blocks.clear()
        while self._blocks and not _holds(self._blocks[0].piece, epoch, place):
            self._blocks.popleft()
        if not self._blocks:
            self._append(Piece(epoch, place, end))
        return self._blocks[0]

    def look_ahead(self, epoch: int, place: int, last_epoch: int, batch: int) -> None:
        """Begins to gather what follows from a place on, in blocks of whole batches."""
        # a block that has been consumed stays until its successor is needed
        while len(self._blocks) <= _AHEAD:
            if self._blocks:
                epoch, _, place = self._blocks[-1].piece
            if place >= self._order.n:
                epoch, place = epoch + 1, 0
            if epoch > last_epoch:
                return
            rows = batch * max(_BATCHES, _BYTES // (batch * self._row_bytes))
            end = min(self._order.n, place + rows)
            self._append(Piece(epoch, place, end))

    def expect(self, pieces: Sequence[Piece]) -> None:
        """Begins to gather what will probably be taken next."""
        self._blocks.clear()
        for piece in pieces:
            self._append(piece)

    def _append(self, piece: Piece) -> None:
        columns, device = self._columns, self._columns.device
        if device is None:
            self._blocks.append(self._begin(piece))
            return
        host = self._begin(piece) if columns.some_on_host else None
        with device.queueing(allocates=True):
            targets = columns.targets(device, piece.end - piece.begin)
            read = gather(device, self._order, self._seed, piece, columns.on_device(targets))
            event = device.queued(read)
        self._blocks.append(DeviceBlock(device, piece, targets, host, event))

    def _begin(self, piece: Piece) -> _Block:
        indices = self._order.part(self._seed, *piece)
        buffers = self._buffers(len(indices))
        gathering = self._columns.gathering(indices, buffers)
        read = None
        if not self._columns.are_arrays:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, "fusestep-loader")
            read = self._executor.submit(self._columns.read, indices)
        return _Block(piece, buffers, gathering, read)

    def _buffers(self, rows: int) -> list[Array | None]:
        """Memory for that many rows: some that nobody holds any more, or new."""
        if self._columns.device is not None:  # CuPy has a pool of pinned memory
            return self._columns.buffers(rows)
        for buffers in self._pool:
            held = [b for b in buffers if b is not None]
            if held and len(held[0]) >= rows and _most_references(held) == _ALONE:
                return buffers
        buffers = self._columns.buffers(rows)
        if rows > 0:
            self._pool = [*self._pool[-_AHEAD - 1 :], buffers]
        return buffers


def _holds(piece: Piece, epoch: int, place: int) -> bool:
    return piece.epoch == epoch and piece.begin <= place < piece.end


def _most_references(buffers: Sequence[Any]) -> int:
    return max(sys.getrefcount(buffer) for buffer in buffers)


def _references_of_nobody() -> int:
    """What ``_most_references`` gives for buffers that the pool alone holds."""
    buffers: list[Any] = [np.empty(1)]
    held = [b for b in buffers if b is not None]
    return _most_references(held)


_ALONE = _references_of_nobody()
