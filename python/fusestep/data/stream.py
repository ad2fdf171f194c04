"""Samples in order: prefetched in blocks, and cut into batches when these are taken."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .columns import Columns
from .device import Device, DeviceBlock, queue_gather
from .order import Order, Piece
from .sources import Array

_BYTES = 2 * 1024 * 1024  # of a block: fits in a cache
_BATCHES = 4  # in a block at least


class PendingRead:
    """One read of a source's rows: made by the prefetching thread, or by whoever needs it first."""

    def __init__(
        self,
        read: Callable[[Array], list[Any]],
        indices: Array,
        lock: Any,  # an RLock, shared by all reads of a stream: a source is called by one thread
    ) -> None:
        self._read, self._indices, self._lock = read, indices, lock
        self._rows: list[Any] | None = None
        self._error: BaseException | None = None

    def try_read(self) -> bool:
        """Reads, keeping an error for ``rows``. False while another thread reads."""
        if not self._lock.acquire(timeout=0.1):
            return False
        try:
            if self._rows is None:
                self._rows = self._read(self._indices)
        except BaseException as error:
            self._error = error
        finally:
            self._lock.release()
        return True

    @property
    def is_done(self) -> bool:
        return self._rows is not None

    def rows(self) -> list[Any]:
        """The rows; raises the error that reading them raised."""
        with self._lock:  # held by the prefetching thread while it reads
            if self._error is not None:
                raise self._error
            if self._rows is None:
                self._rows = self._read(self._indices)
            return self._rows


class Prefetcher:
    """Makes pending reads in a thread that lives while there are any.

    Reads that nobody refers to any more are skipped, and so are all that have not begun when the
    process ends.
    """

    def __init__(self) -> None:
        self._queue: deque[weakref.ref[PendingRead]] = deque()
        self._thread: threading.Thread | None = None

    def add(self, pending: PendingRead) -> None:
        """Queues a read.

        If the thread ends just now, no harm is done: whoever needs the rows reads them.
        """
        self._queue.append(weakref.ref(pending))
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=self._work, name="fusestep-loader")
            thread.start()
            self._thread = thread

    def _work(self) -> None:
        is_running = threading.main_thread().is_alive
        while is_running() and self._queue:
            reference = self._queue.popleft()
            while (pending := reference()) is not None and not pending.try_read() and is_running():
                del pending
            del pending


class _Block(NamedTuple):
    """The rows of a piece while they are gathered into buffers or read from sources."""

    columns: Columns
    piece: Piece
    indices: Array
    buffers: Sequence[Array | None]
    gathering: Any
    pending: PendingRead | None

    def is_done(self) -> bool:
        """Whether ``rows`` need not wait."""
        gathered = self.gathering is None or self.gathering.has(self.piece.end - self.piece.begin)
        return gathered and (self.pending is None or self.pending.is_done)

    def rows(self, begin: int, end: int) -> list[Any]:
        """The rows at some positions, waiting for them; None for arrays on a GPU."""
        first, last = begin - self.piece.begin, end - self.piece.begin
        if self.gathering is not None:
            self.gathering.finish(last)
        rows = self.buffers
        if self.pending is not None:
            read = self.pending.rows()
            rows = [own if own is not None else b for own, b in zip(read, rows, strict=True)]
        return self.columns.cut(rows, first, last)


class Stream:
    """Prefetches blocks of an epoch's order; a batch is a view of a block.

    The order does not depend on the batch size, so a new size never invalidates a prefetched block:
    it is only cut elsewhere. The memory of a block is used again once nobody holds a view of it.

    Nothing of an epoch is read before a batch of it is taken: what a loop changes when an epoch
    ends, in the arrays or in how a source reads, holds for all of the next one.

    Args:
        prefetch: how many blocks are prefetched; 0 reads each batch when it is taken.
        device: where batches are; None for the host.
    """

    def __init__(
        self, columns: Columns, order: Order, seed: int, prefetch: int, device: Device | None
    ) -> None:
        self._columns = columns
        self._order = order
        self._seed = seed
        self._prefetch = prefetch
        self._device = device
        self._row_bytes = max(1, columns.row_bytes)
        self._pool: list[list[Array | None]] = []
        # the block of the last batch, and the prefetched ones
        self._blocks: deque[_Block | DeviceBlock] = deque()
        self._read_lock = threading.RLock()
        self._prefetcher = Prefetcher()
        self.lock = threading.RLock()  # held while a batch is taken
        self.process = os.getpid()  # in a forked child no thread releases these locks
        # a transform may have written into the batch taken last: if it is not delivered, read again
        self.is_written = False

    def indices(self, named: Sequence[Array | Piece]) -> Array:
        """The indices of the samples of a batch, from what ``take`` gave for them."""
        parts = [
            self._order.rows(self._seed, *part) if isinstance(part, Piece) else part
            for part in named
        ]
        return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)

    def take(self, pieces: Sequence[Piece]) -> tuple[list[Any], list[Array | Piece]]:
        """The rows of some pieces, and what ``indices`` computes their samples from.

        That is a piece where the GPU has computed the order, and the samples themselves elsewhere.
        """
        if self.is_written:
            self._blocks.clear()
            self.is_written = False
        parts, named = [], list[Array | Piece]()
        for epoch, place, end in pieces or [Piece(0, 0, 0)]:
            while True:
                last, rows = self._part(Piece(epoch, place, end))
                parts.append(rows)
                block = self._blocks[0]
                first, indices = block.piece.begin, block.indices
                named.append(
                    Piece(epoch, place, last)
                    if indices is None
                    else indices[place - first : last - first]
                )
                if last == end:
                    break
                place = last
        for block in self._blocks:
            if isinstance(block, DeviceBlock):
                block.advance()
        return parts[0] if len(parts) == 1 else self._concatenated(parts), named

    def _concatenated(self, parts: Sequence[Sequence[Any]]) -> list[Any]:
        if self._device is None:
            return self._columns.concatenated(parts)
        return [self._device.concatenate(column) for column in zip(*parts, strict=True)]

    def _part(self, piece: Piece) -> tuple[int, list[Any]]:
        """The rows that one block holds from the begin of a piece on, and where they end."""
        while self._blocks and not _holds(self._blocks[0].piece, piece):
            self._blocks.popleft()
        if self._blocks:
            block = self._blocks[0]
            last = min(piece.end, block.piece.end)
            try:
                return last, block.rows(piece.begin, last)
            except Exception:  # perhaps of other rows in the block: read these alone
                self._blocks.clear()
        self._append(piece, prefetch=False)
        try:
            return piece.end, self._blocks[0].rows(piece.begin, piece.end)
        except BaseException:
            self._blocks.clear()
            raise

    def prefetch(self, epoch: int, place: int, batch: int) -> None:
        """Prefetches what follows in an epoch from a position on, in blocks of whole batches."""
        # the block of the last batch stays until its successor is needed
        while len(self._blocks) <= self._prefetch:
            if self._blocks:
                epoch, _, place = self._blocks[-1].piece
            if place >= self._order.n:
                return
            rows = batch * max(_BATCHES, _BYTES // (batch * self._row_bytes))
            self._append(Piece(epoch, place, min(self._order.n, place + rows)))

    def prefetch_pieces(self, pieces: Sequence[Piece]) -> None:
        """Prefetches what will probably be taken next, in place of all that was prefetched."""
        if self._prefetch > 0:
            self._blocks.clear()
            for piece in pieces:
                self._append(piece)

    def _append(self, piece: Piece, *, prefetch: bool = True) -> None:
        columns, device = self._columns, self._device
        if device is None:
            self._blocks.append(self._begin(piece, prefetch))
            return
        host = self._begin(piece, prefetch) if columns.some_on_host else None
        with device.queueing(allocates=True):
            targets = columns.targets(device, piece.end - piece.begin)
            read = queue_gather(device, self._order, self._seed, piece, columns.on_device(targets))
            event = device.queued(read)
        indices = None if read is None else read.copy()  # pinned memory is let go earlier
        if host is not None:
            indices = host.indices
        self._blocks.append(DeviceBlock(device, piece, indices, targets, host, event))

    def _begin(self, piece: Piece, prefetch: bool) -> _Block:
        indices = self._order.rows(self._seed, *piece)
        buffers = self._buffers(len(indices))
        gathering = self._columns.begin_gather(indices, buffers)
        pending = None
        if not self._columns.are_arrays:
            read = partial(self._columns.read, for_gpu=self._device is not None)
            pending = PendingRead(read, indices, self._read_lock)
            if prefetch:
                self._prefetcher.add(pending)
        return _Block(self._columns, piece, indices, buffers, gathering, pending)

    def _buffers(self, rows: int) -> list[Array | None]:
        """Memory for that many rows: from the pool where nobody else refers to it, or new."""
        if self._device is not None:  # CuPy has a pool of pinned memory
            return self._columns.buffers(rows, self._device.pinned)
        for buffers in self._pool:
            held = [b for b in buffers if b is not None]
            if held and len(held[0]) >= rows and _most_references(held) == _ALONE:
                return buffers
        buffers = self._columns.buffers(rows, np.empty)
        if rows > 0:
            self._pool = [*self._pool[-self._prefetch - 1 :], buffers]
        return buffers


def _holds(block: Piece, piece: Piece) -> bool:
    """Whether a block holds the first position of a piece."""
    return block.epoch == piece.epoch and block.begin <= piece.begin < block.end


def _most_references(buffers: Sequence[Any]) -> int:
    return max(sys.getrefcount(buffer) for buffer in buffers)


def _references_of_nobody() -> int:
    """What ``_most_references`` gives for buffers that only the pool refers to."""
    buffers: list[Any] = [np.empty(1)]
    held = [b for b in buffers if b is not None]
    return _most_references(held)


_ALONE = _references_of_nobody()
