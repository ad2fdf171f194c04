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
from .order import Order

# Blocks grow from the first size, so that the first batch comes soon, to the last, so that threads
# seldom wait for each other.
_FIRST_BYTES = 1024 * 1024
_LAST_BYTES = 16 * 1024 * 1024
_BATCHES = 4  # in a block at least
_AHEAD = 2  # blocks


class Piece(NamedTuple):
    """Places from ``begin`` to ``end`` in the order of an epoch."""

    epoch: int
    begin: int
    end: int


class Stream:
    """Gathers blocks of the order in the background; a batch is a view of a block.

    The order does not depend on how it is cut, so nothing gathered ahead is ever wrong: a new
    batch size only cuts it elsewhere. Blocks are used again once nobody holds a view of them.
    """

    def __init__(self, columns: Columns, order: Order, seed: int, ahead: bool) -> None:
        self._columns = columns
        self._order = order
        self._seed = seed
        self._ahead = ahead
        self._bytes = _FIRST_BYTES
        self._pool: list[list[Any]] = []
        self._executor: ThreadPoolExecutor | None = None
        self._process = os.getpid()
        self._piece = Piece(-1, 0, 0)
        self._rows: list[Array] = []
        self._queue: deque[tuple[Piece, Future[list[Array]]]] = deque()

    def indices(self, pieces: Sequence[Piece]) -> list[Array]:
        """The samples of some pieces."""
        return [self._order.part(self._seed, *piece) for piece in pieces]

    def take(self, pieces: Sequence[Piece], follows: Piece | None) -> list[Array]:
        """The rows of some pieces; ``follows`` is what comes after them, to gather ahead."""
        parts = [rows for piece in pieces for rows in self._parts(piece)]
        if self._ahead and len(self._queue) < _AHEAD and follows is not None:
            self._look_ahead(follows, sum(piece.end - piece.begin for piece in pieces))
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return self._columns.gather(self._order.part(self._seed, 0, 0, 0), self._buffers(0))
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def _parts(self, piece: Piece) -> list[list[Array]]:
        """The rows of a piece, in as many parts as there are blocks in it."""
        parts = []
        epoch, begin, end = piece
        while begin < end:
            if not self._holds(epoch, begin):
                self._advance(epoch, begin, end)
            first, last = begin - self._piece.begin, min(end, self._piece.end) - self._piece.begin
            parts.append([rows[first:last] for rows in self._rows])
            begin = self._piece.begin + last
        return parts

    def _holds(self, epoch: int, place: int) -> bool:
        piece = self._piece  # without rows where gathering it has failed
        return bool(self._rows) and piece.epoch == epoch and piece.begin <= place < piece.end

    def _advance(self, epoch: int, begin: int, end: int) -> None:
        """Makes the block that holds a place the present one."""
        self._rows = []  # so that the block can be used again
        if self._process != os.getpid():  # a forked child has no threads
            self._process, self._executor = os.getpid(), None
            self._queue.clear()
        while self._queue:
            piece, future = self._queue.popleft()
            rows = future.result()
            if piece.epoch == epoch and piece.begin <= begin < piece.end:
                self._piece, self._rows = piece, rows
                return
        piece = Piece(epoch, begin, end)
        self._piece = self._block(epoch, begin, end - begin) if self._ahead else piece
        self._rows = self._gather(self._piece)

    def _look_ahead(self, follows: Piece, batch: int) -> None:
        """Begins to gather what comes after the present block."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "fusestep-loader")
        while len(self._queue) < _AHEAD:
            epoch, begin = follows.epoch, follows.begin
            if self._queue or self._holds(epoch, begin):
                last = self._queue[-1][0] if self._queue else self._piece
                epoch, begin = last.epoch, last.end
            if begin >= self._order.n:
                epoch, begin = epoch + 1, 0
            piece = self._block(epoch, begin, batch)
            self._queue.append((piece, self._executor.submit(self._gather, piece)))

    def _block(self, epoch: int, begin: int, batch: int) -> Piece:
        # whole batches, so that none lies across two blocks while the size stays as it is
        rows = batch * max(_BATCHES, self._bytes // max(1, batch * self._columns.row_bytes))
        self._bytes = min(2 * self._bytes, _LAST_BYTES)
        return Piece(epoch, begin, min(self._order.n, begin + rows))

    def _gather(self, piece: Piece) -> list[Array]:
        indices = self._order.part(self._seed, *piece)
        return self._columns.gather(indices, self._buffers(len(indices)))

    def _buffers(self, rows: int) -> list[Any]:
        """Memory for that many rows: some that nobody holds any more, or new."""
        for buffers in self._pool:
            held = [b for b in buffers if b is not None]
            if held and len(held[0]) >= rows and _most_references(held) == _ALONE:
                return buffers
        buffers = self._columns.buffers(rows)
        if self._ahead and rows > 0:
            self._pool = [*self._pool[-_AHEAD - 1 :], buffers]
        return buffers


def _most_references(buffers: Sequence[Any]) -> int:
    return max(sys.getrefcount(buffer) for buffer in buffers)


def _references_of_nobody() -> int:
    """What ``_most_references`` gives for buffers that the pool alone holds."""
    buffers: list[Any] = [np.empty(1)]
    held = [b for b in buffers if b is not None]
    return _most_references(held)


_ALONE = _references_of_nobody()
