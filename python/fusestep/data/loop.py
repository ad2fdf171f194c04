"""One loop over a loader, and the batches that it delivers."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

from .. import _core
from .._core import StateError
from ..batch_sizes.base import Policy
from ..clock import Clock
from ..gradients.splitting import cut
from .columns import Columns
from .cursor import Cursor, Cutting
from .order import Piece
from .sources import Array
from .stream import Stream


class Batch:
    """Some samples: ``batch["x"]`` or ``batch[0]``, as the data is a dict or a tuple.

    ``len(batch)`` is its number of rows. Arrays of a tuple can be unpacked, ``x, y = batch``; one
    array is iterated row by row; a dict is not iterated: ``batch.data.items()`` gives its arrays.

    Attributes:
        data: the arrays in the form of the data: a dict, a tuple, or one array.
        clock: how far training was before this batch; for ``Optimizer.step(clock=...)``.
        size: samples of this update: of all ranks together.
        weight: rows here / rows of all ranks: 1.0 without ``shard``, 0.0 for a part without rows.
            The mean gradient of all ranks is the sum of ``weight`` times the mean of each.
        indices: which samples these are, an array of integers.
        leaves: its parts, one batch for each leaf of ``Loader(shard=(begin, end, leaves))``; some
            have no rows where the batch has fewer samples than leaves.

    A batch can be pickled and copied where its arrays can.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> batch = next(iter(fs.Loader({"x": np.arange(10), "y": np.ones(10)}, 4, seed=1)))
        >>> len(batch), batch["y"].shape, sorted(batch.data)
        (4, (4,), ['x', 'y'])
    """

    __slots__ = ("_indices", "_rows", "_shard", "clock", "data", "size")

    def __init__(
        self,
        data: Any,
        clock: Clock,
        size: int,
        rows: int,
        indices: Callable[[], Array] | Array,
        shard: tuple[int, int, int] | None = None,
    ) -> None:
        self.data = data
        self.clock = clock
        self.size = size
        self._rows = rows
        self._indices = indices
        self._shard = shard

    @property
    def weight(self) -> float:
        return self._rows / self.size

    @property
    def indices(self) -> Array:
        return self._indices() if callable(self._indices) else self._indices

    @property
    def leaves(self) -> list[Batch]:
        if self._shard is None:
            return [self]
        first, end, leaves = self._shard
        begins = [self.size * leaf // leaves for leaf in range(first, end + 1)]
        return [cut(self, slice(a - begins[0], b - begins[0])) for a, b in pairwise(begins)]

    def __getitem__(self, key: Any) -> Any:
        return self.data[key]

    def __contains__(self, key: Any) -> bool:
        return key in self.data

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.data, dict):
            raise TypeError(
                f"this batch holds arrays by name, {list(self.data)}: iterate batch.data.items(), "
                "or take one, batch[name]"
            )
        return iter(self.data)

    def __len__(self) -> int:
        return self._rows

    def _part(self, data: Any, rows: slice) -> Batch:
        """A batch of some of its rows, given their arrays."""
        count = len(range(*rows.indices(self._rows)))
        return Batch(data, self.clock, self.size, count, lambda: self.indices[rows])

    def __reduce__(self) -> Any:
        return Batch, (
            self.data,
            self.clock,
            self.size,
            self._rows,
            self.indices,
            self._shard,
        )

    def __repr__(self) -> str:
        return f"Batch(size={self.size}, clock={self.clock})"


Delivery = tuple[list[tuple[Any, str, Any]], Batch, list[tuple[Any, str, Any]]]


class Source(Protocol):
    """What a loop needs of the loader that it goes over."""

    samples: int
    policy: Policy
    _columns: Columns
    _cutting: Cutting
    _cursor: Cursor
    _present: weakref.ref[Loop] | None  # the loop that may deliver
    _progress: bool

    def _stream_here(self) -> Stream: ...
    def _clock_at(self, cursor: Cursor) -> Clock: ...
    def _end_of(self, begin: int) -> int: ...
    def _left_of(self, cursor: Cursor) -> int | None: ...


class Loop(Iterator[Delivery]):
    """Gives each batch of a loop with the changes that its delivery makes.

    ``starmap(_core.commit, loop)`` delivers and changes in one native call: an interrupt or an
    error comes before it, and the batch is the next one again, or after it.
    """

    def __init__(self, loader: Source) -> None:
        self._loader = loader
        self._thread: int | None = None
        self._has_ended = False
        self._bar: Any = None
        self._begun = 0  # samples delivered before the bar was made

    def __next__(self) -> Delivery:
        if self._thread is None:
            self._thread = threading.get_ident()
        if self._thread != threading.get_ident():
            raise StateError(
                "a loop belongs to the thread that took its first batch: hand batches over through "
                "a queue, or give each thread a loader of its own with shard=(i, threads)"
            )
        if self._has_ended:
            raise StopIteration
        stream = self._loader._stream_here()
        with stream.lock:
            return self._prepared(stream)

    def _prepared(self, stream: Stream) -> Delivery:
        loader, present = self._loader, self._loader._present
        if present is None or present() is not self:
            raise StateError(
                "another loop over this loader has begun since this one: a loader has one "
                "position; build another loader for a second loop beside the first"
            )
        first = cursor = loader._cursor
        self._show(cursor)
        expected = [(loader, "_cursor", first), (loader, "_present", present)]
        begin = cursor.epoch if cursor.begin is None else cursor.begin
        end = loader._end_of(begin)
        while cursor.epoch < end:
            clock = loader._clock_at(cursor)
            size, changes = loader.policy._deciding(clock)
            pieces = loader._cutting.cut(cursor.epoch, cursor.position, size, end)
            if pieces:
                batch, after = self._batch(stream, cursor, begin, clock, pieces)
                changes = [*changes, (loader, "_cursor", after), (stream, "is_written", False)]
                return changes, batch, expected
            cursor = cursor._replace(epoch=cursor.epoch + 1, position=0)
        if self._bar is not None:
            self._bar.close()
        ended = [(loader, "_cursor", cursor._replace(begin=None)), (self, "_has_ended", True)]
        _core.commit(ended, None, expected)
        raise StopIteration

    def _batch(
        self, stream: Stream, cursor: Cursor, begin: int, clock: Clock, pieces: list[Piece]
    ) -> tuple[Batch, Cursor]:
        """A batch, and the cursor once it is delivered."""
        loader = self._loader
        own, size = loader._cutting.share(pieces), rows_of(pieces)
        rows, named = stream.take(own)
        stream.is_written = loader._columns.has_functions
        data = loader._columns.assembled(rows)
        epoch, _, end = pieces[-1]
        epoch, position = (epoch + 1, 0) if end == loader.samples else (epoch, end)
        samples, batches = cursor.samples + size, cursor.batches + 1
        after = Cursor(cursor.seed, epoch, position, samples, batches, begin)
        with suppress(Exception):  # a prefetch that fails is tried again when its batch is taken
            self._prefetch(stream, after, size)
        clock = Clock(None, clock.samples, clock.epoch, size)
        indices = partial(stream.indices, named)
        return Batch(data, clock, size, rows_of(own), indices, loader._cutting.shard), after

    def _prefetch(self, stream: Stream, cursor: Cursor, size: int) -> None:
        cutting, epoch, position = self._loader._cutting, cursor.epoch, cursor.position
        if cutting.world == 1:
            stream.prefetch(epoch, position, size)
        elif position > 0:
            # this rank's part of the next batch depends on its size: guess the same size
            stream.prefetch_pieces(cutting.share(cutting.cut(epoch, position, size, epoch + 1)))

    def _show(self, cursor: Cursor) -> None:
        """Moves the progress bar to what was delivered."""
        loader = self._loader
        if not loader._progress:
            return
        if self._bar is None:
            from tqdm.auto import tqdm

            self._begun = cursor.samples
            self._bar = tqdm(total=loader._left_of(cursor), unit="sample", unit_scale=True)
        size = cursor.samples - self._begun - self._bar.n
        if size > 0:
            self._bar.set_postfix(batch=size, refresh=False)
            self._bar.update(size)

    def __reduce__(self) -> Any:
        raise TypeError("a loop over a loader can't be pickled: save loader.state_dict()")


def rows_of(pieces: list[Piece]) -> int:
    """How many samples these are."""
    return sum(piece.end - piece.begin for piece in pieces)
