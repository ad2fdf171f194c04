"""Samples in order, gathered ahead of whoever consumes them, and cut where they are delivered."""

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
from .device import Device, DeviceBlock
from .gather import gather
from .order import Order, Piece
from .sources import Array


class Reading:
    """Rows at some places, read once: ahead, or by whoever needs them before."""

    def __init__(
        self,
        read: Callable[[Array], list[Any]],
        places: Array,
        lock: Any,  # an RLock
    ) -> None:
        self._read, self._places, self._lock = read, places, lock
        self._rows: list[Any] | None = None
        self._error: BaseException | None = None

    def ahead(self) -> bool:
        """Reads; an error waits for whoever needs the rows. False while another reads."""
        if not self._lock.acquire(timeout=0.1):
            return False
        try:
            if self._rows is None:
                self._rows = self._read(self._places)
        except BaseException as error:
            self._error = error
        finally:
            self._lock.release()
        return True

    @property
    def has_come(self) -> bool:
        return self._rows is not None

    def rows(self) -> list[Any]:
        """The rows, or the error that there was."""
        with self._lock:  # which the thread that reads ahead has while it does
            if self._error is not None:
                raise self._error
            if self._rows is None:
                self._rows = self._read(self._places)
            return self._rows


class Reader:
    """Reads ahead in a thread that lives while there is something to read.

    A reading that nobody holds any more is left out, and so is all that has not begun when the
    process ends.
    """

    def __init__(self) -> None:
        self._waiting: deque[weakref.ref[Reading]] = deque()
        self._thread: threading.Thread | None = None

    def expect(self, reading: Reading) -> None:
        """Reads in the background, where there is a thread to be had.

        Whoever needs rows that no thread has read reads them, so it does no harm if the thread
        ends at this moment.
        """
        self._waiting.append(weakref.ref(reading))
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=self._work, name="fusestep-loader")
            thread.start()
            self._thread = thread

    def _work(self) -> None:
        goes_on = threading.main_thread().is_alive
        while goes_on() and self._waiting:
            reference = self._waiting.popleft()
            while (reading := reference()) is not None and not reading.ahead() and goes_on():
                del reading
            del reading


_BYTES = 2 * 1024 * 1024  # of a block: fits in a cache
_BATCHES = 4  # in a block at least


class _Block(NamedTuple):
    """The rows of a piece, on their way: natively to buffers, or as what a source brings."""

    columns: Columns
    piece: Piece
    indices: Array
    buffers: Sequence[Array | None]
    gathering: Any
    reading: Reading | None

    def has_come(self) -> bool:
        """Whether ``part`` gives all rows at once."""
        gathered = self.gathering is None or self.gathering.has(self.piece.end - self.piece.begin)
        return gathered and (self.reading is None or self.reading.has_come)

    def part(self, begin: int, end: int) -> list[Any]:
        """The rows of some places, once they have come; None for arrays on a GPU."""
        first, last = begin - self.piece.begin, end - self.piece.begin
        if self.gathering is not None:
            self.gathering.finish(last)
        rows = self.buffers
        if self.reading is not None:
            brought = self.reading.rows()
            rows = [own if own is not None else b for own, b in zip(brought, rows, strict=True)]
        return self.columns.cut(rows, first, last)


class Stream:
    """Gathers blocks of the order in the background; a batch is a view of a block.

    The order does not depend on how it is cut, so nothing gathered ahead is ever wrong: a new
    batch size only cuts it elsewhere. Blocks are used again once nobody holds a view of them.

    Nothing of an epoch is read before a batch of it is taken: what a loop changes when an epoch
    ends, in the arrays or in how a source reads, holds for all of the next one.

    Args:
        prefetch: how many blocks are read ahead; 0 reads what is taken and no more.
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
        self._blocks: deque[_Block | DeviceBlock] = deque()  # the present one, and those ahead
        self._one_reads = threading.RLock()
        self._reader = Reader()
        self.lock = threading.RLock()  # of whoever takes
        self.process = os.getpid()  # a forked child has no threads, and locks that nobody opens
        self.is_written = False  # what was taken last: it must be read again if it is not delivered

    def indices(self, named: Sequence[Array | Piece]) -> Array:
        """The samples of what was taken."""
        parts = [
            self._order.part(self._seed, *part) if isinstance(part, Piece) else part
            for part in named
        ]
        return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)

    def take(self, pieces: Sequence[Piece]) -> tuple[list[Any], list[Array | Piece]]:
        """The rows of some pieces, and what tells their samples.

        These are the samples themselves where the order would have to be made again for them.
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
        for ahead in self._blocks:
            if isinstance(ahead, DeviceBlock):
                ahead.advance()
        return parts[0] if len(parts) == 1 else self._concatenated(parts), named

    def _concatenated(self, parts: Sequence[Sequence[Any]]) -> list[Any]:
        if self._device is None:
            return self._columns.concatenated(parts)
        return [self._device.concatenate(column) for column in zip(*parts, strict=True)]

    def _part(self, piece: Piece) -> tuple[int, list[Any]]:
        """The rows from the begin of a piece on that one block holds, and where they end."""
        while self._blocks and not _holds(self._blocks[0].piece, piece):
            self._blocks.popleft()
        if self._blocks:
            block = self._blocks[0]
            last = min(piece.end, block.piece.end)
            try:
                return last, block.part(piece.begin, last)
            except Exception:  # not of these rows, perhaps: they are read by themselves
                self._blocks.clear()
        self._append(piece, ahead=False)
        try:
            return piece.end, self._blocks[0].part(piece.begin, piece.end)
        except BaseException:
            self._blocks.clear()
            raise

    def look_ahead(self, epoch: int, place: int, batch: int) -> None:
        """Begins to gather what follows in an epoch from a place on, in blocks of whole batches."""
        # a block that has been consumed stays until its successor is needed
        while len(self._blocks) <= self._prefetch:
            if self._blocks:
                epoch, _, place = self._blocks[-1].piece
            if place >= self._order.n:
                return
            rows = batch * max(_BATCHES, _BYTES // (batch * self._row_bytes))
            self._append(Piece(epoch, place, min(self._order.n, place + rows)))

    def expect(self, pieces: Sequence[Piece]) -> None:
        """Begins to gather what will probably be taken next."""
        if self._prefetch > 0:
            self._blocks.clear()
            for piece in pieces:
                self._append(piece)

    def _append(self, piece: Piece, *, ahead: bool = True) -> None:
        columns, device = self._columns, self._device
        if device is None:
            self._blocks.append(self._begin(piece, ahead))
            return
        host = self._begin(piece, ahead) if columns.some_on_host else None
        with device.queueing(allocates=True):
            targets = columns.targets(device, piece.end - piece.begin)
            read = gather(device, self._order, self._seed, piece, columns.on_device(targets))
            event = device.queued(read)
        indices = None if read is None else read.copy()  # not in memory that the GPU reads
        if host is not None:
            indices = host.indices
        self._blocks.append(DeviceBlock(device, piece, indices, targets, host, event))

    def _begin(self, piece: Piece, ahead: bool) -> _Block:
        indices = self._order.part(self._seed, *piece)
        buffers = self._buffers(len(indices))
        gathering = self._columns.begin_gather(indices, buffers)
        reading = None
        if not self._columns.are_arrays:
            read = partial(self._columns.read, for_gpu=self._device is not None)
            reading = Reading(read, indices, self._one_reads)
            if ahead:
                self._reader.expect(reading)
        return _Block(self._columns, piece, indices, buffers, gathering, reading)

    def _buffers(self, rows: int) -> list[Array | None]:
        """Memory for that many rows: some that nobody holds any more, or new."""
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
    """Whether a block has the first place of a piece."""
    return block.epoch == piece.epoch and block.begin <= piece.begin < block.end


def _most_references(buffers: Sequence[Any]) -> int:
    return max(sys.getrefcount(buffer) for buffer in buffers)


def _references_of_nobody() -> int:
    """What ``_most_references`` gives for buffers that the pool alone holds."""
    buffers: list[Any] = [np.empty(1)]
    held = [b for b in buffers if b is not None]
    return _most_references(held)


_ALONE = _references_of_nobody()
