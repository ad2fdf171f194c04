"""Iteration over data: the batch size may change at any time, and no sample is lost."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from itertools import starmap
from typing import Any, Literal, NoReturn

from .. import _core
from ..arguments import check_flag, check_whole, named_arguments
from ..batch_sizes import Policy, as_policy
from ..clock import Clock
from ..expression import Expression
from ..memory import Changes, claimed
from ..saved_state import anything, differences, fields, read, same
from .columns import Columns
from .cursor import FORMAT, FORMS, Cursor, Cutting, contradictions, to_json
from .device import device_for
from .loop import Batch, Loop
from .order import Balanced, Subset, Weighted, as_order
from .stream import Stream

_FOREVER = 2**63  # epochs

# what other libraries call arguments
_ELSEWHERE = {
    "shuffle": 'order="shuffled", the default, or order="sequential"',
    "drop_last": 'tail="drop"',
    "sampler": "order=",
    "batch_sampler": "order= and batch_size=",
    "num_workers": "prefetch=: rows are gathered by threads in any case",
    "workers": "prefetch=: rows are gathered by threads in any case",
    "prefetch_factor": "prefetch=",
    "ahead": "prefetch=",
    "pin_memory": 'device="cuda"',
    "collate_fn": "transform=, for each array",
    "generator": "seed=",
    "random_state": "seed=",
    "rank": "shard=(rank, world)",
    "world_size": "shard=(rank, world)",
    "num_replicas": "shard=(rank, world)",
}


class Loader:
    """Delivers batches: every sample once in an epoch, whatever the batch size does.

    The order of an epoch is a function of ``seed`` and the epoch alone; the batch size only decides
    where it is cut, at the moment of delivery. So it may become any integer at any time, and a
    loader resumes under another batch size, another number of ranks or threads.

    Iterating takes ``epochs`` epochs; iterating again, once that loop has ended, as many more. A
    loop that was left early goes on where it stopped, and so does one that was saved: a state
    taken in the body of a loop at its last batch leaves nothing of it, and the loop after it is a
    new one. A loader has one position: a second loop over it takes over, and the first one, if it
    goes on, raises StateError; so does a loop in another thread than that of its first batch.

    Batches are gathered in the background, and may be kept and written into: memory is used again
    only when nobody refers to it. Rows are prefetched within an epoch, never of the next one, so
    what is changed in the data at the end of an epoch holds for all of the next. ``prefetch=0``
    reads nothing before its batch is taken.

    Args:
        data: a dict, tuple or list of arrays, or one array, with the samples along the first axis:
            NumPy arrays (memory maps among them), CuPy arrays, lists, a column of pandas, polars or
            pyarrow, a sparse matrix of SciPy, or anything with a length that takes an array of
            rising indices and gives an array with a row for each: h5py, Zarr, classes of one's own.
            A table of pandas, polars or pyarrow given as the data is a dict of its columns, and
            one in a dict or tuple is delivered as a table of its rows. Rows are taken by position.
            Columns that are not arrays (categories, missing values) keep their type; so do sparse
            rows (CSR), which ``transform={"x": lambda rows: rows.toarray()}`` makes dense.
        batch_size: a whole number, at least 1, "full", an expression, a policy of
            `fusestep.batch_sizes`, or a function of the clock. Above the number of samples it is
            all of them.
        seed: a whole number from 0 to 2^63 - 1.
        epochs: how many a loop takes, at least 1; None for ever.
        order: "shuffled", all permutations equally likely (4 bytes for each sample); "hashed",
            shuffled without that memory; "sequential"; "window", shuffled in stretches of
            ``window`` samples, which stand in shuffled order: for memory maps. Or a `Weighted`,
            `Balanced` or `Subset` of `fusestep.data`: what it draws in an epoch are the samples of
            this page, which ``samples`` counts.
        window: for ``order="window"``.
        tail: what is left of an epoch when it is less than a batch: "short" delivers it, "drop"
            leaves it out, "carry" adds samples of the next epoch (at the end of a loop: short).
        shard: (rank, world): this loader's part of every batch; all ranks together have it whole.
            Parts differ by one row at most, and a batch of fewer samples than ranks leaves some of
            them without rows: their ``batch.weight`` is 0, and they still take part in what all
            ranks do together. The mean gradient of the batch is the sum over all ranks of
            ``batch.weight`` times their own mean, where a weight of 0 adds nothing. Or (begin, end,
            leaves): the parts ``begin`` to before ``end`` of ``leaves``, as of
            `distributed.Sharded.share`.
        even: whether all ranks have as many rows of every batch, and none has none. Sizes are
            rounded down to a multiple of the number of ranks, at least one row for each. What is
            left of an epoch must be such a multiple with tail="short", or it is refused; "drop"
            leaves it out, and "carry" leaves out fewer samples than ranks at the end of a loop.
        transform: by key or place, `to_float32` or a function of a batch's array, which it may
            write into. It is called once for each batch, in the thread that takes it.
        prefetch: how many blocks (of 4 batches at least, or about 2 MB) are prefetched, 0 to 1000.
            A source that is no array is called by one thread at a time: by a thread of the loader
            to prefetch, by the thread that takes a batch for rows it lacks. What it gives is
            copied. Where a prefetch fails, each batch reads its own rows.
        device: "cuda" for batches of CuPy arrays, whatever the data is; by default they are where
            the data is. They are filled on a stream of the loader; the stream that is current when
            a batch is taken waits for it, so queue there what uses the batch. No batch can be taken
            while that stream is being captured into a graph.
        progress: show a bar (needs tqdm).

    ``len(loader)`` is the number of batches of a loop, where it does not depend on a policy.

    Raises:
        TypeError, ValueError: named by argument; nothing was consumed.
        ImportError: batches on a GPU without CuPy.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> x = np.arange(10)
        >>> loader = fs.Loader({"x": x}, fs.expression.samples + 1, order="sequential")
        >>> for batch in loader:
        ...     print(batch["x"], batch.clock.samples, batch.size)
        [0] 0 1
        [1 2] 1 2
        [3 4 5 6] 3 4
        [7 8 9] 7 3
    """

    @named_arguments(hints=_ELSEWHERE)
    def __init__(
        self,
        data: Any,
        batch_size: int | Literal["full"] | Expression | Policy | Callable[[Clock], int],
        *,
        seed: int = 0,
        epochs: int | None = 1,
        order: Literal["shuffled", "hashed", "sequential", "window"]
        | Weighted
        | Balanced
        | Subset = "shuffled",
        window: int | None = None,
        tail: Literal["short", "drop", "carry"] = "short",
        shard: tuple[int, int] | tuple[int, int, int] = (0, 1),
        even: bool = False,
        transform: Any = None,
        prefetch: int = 2,
        device: Literal["cuda"] | None = None,
        progress: bool = False,
    ) -> None:
        if device not in (None, "cuda"):
            raise ValueError(f'device must be "cuda" or None, not {device!r}')
        self._columns = Columns(data, transform)
        self._device = device_for(self._columns.by_name(), device)
        self._order = as_order(order, self._columns.rows, window)
        self.samples = self._order.n
        self.policy = as_policy(batch_size, self.samples)
        self._epochs = _FOREVER if epochs is None else check_whole("epochs", epochs, 1)
        self._cutting = Cutting(self.samples, tail, shard, even)
        self._progress = check_flag("progress", progress)
        self._prefetch = check_whole("prefetch", prefetch, 0, 1000)
        self._cursor = Cursor(check_whole("seed", seed, 0))
        self._present: weakref.ref[Loop] | None = None  # the loop that may deliver
        self._stream = self._new_stream(self._cursor)
        if self.policy._constant is not None:
            self._cutting.fitted(self.policy._constant)
        with claimed("loader", self, self.policy._owned()):
            pass  # nothing fails from here on

    @property
    def clock(self) -> Clock:
        """How far it is: batches, samples and epochs delivered."""
        return self._clock_at(self._cursor)

    def _clock_at(self, cursor: Cursor) -> Clock:
        epoch = cursor.epoch + cursor.position / self.samples
        return Clock(step=cursor.batches, samples=cursor.samples, epoch=epoch)

    def __iter__(self) -> Iterator[Batch]:
        cursor, loop = self._cursor, Loop(self)
        if self._present is not None and self._left_of(cursor) == 0:
            cursor = cursor._replace(begin=None)
        changes = [(self, "_cursor", cursor), (self, "_present", weakref.ref(loop))]
        batches: Iterator[Batch] = _core.commit(changes, starmap(_core.commit, loop))
        return batches

    def __len__(self) -> int:
        size = self.policy._constant
        if size is None:
            raise TypeError(f"how many batches there are is not known: {self.policy!r} decides")
        if self._epochs == _FOREVER:
            raise TypeError("a loader with epochs=None has no length")
        return self._cutting.batches(size, self._epochs)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        epochs = None if self._epochs == _FOREVER else self._epochs
        return (
            f"Loader({self.samples} samples, batch_size={self.policy!r}, "
            f"order={self._order.kind!r}, epochs={epochs}, tail={self._cutting.tail!r}, "
            f"at epoch {self.clock.epoch:g})"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Loader can't be pickled or copied: send its state_dict(), and build it again from "
            "the data where it is needed"
        )

    def _end_of(self, begin: int) -> int:
        """The epoch that ends a loop."""
        return begin + self._epochs

    def _left_of(self, cursor: Cursor) -> int | None:
        """How many samples are left of the present loop, or of a new one; None for no end."""
        if self._epochs == _FOREVER:
            return None
        begin = cursor.epoch if cursor.begin is None else cursor.begin
        return max(0, (self._end_of(begin) - cursor.epoch) * self.samples - cursor.position)

    def _new_stream(self, cursor: Cursor) -> Stream:
        return Stream(self._columns, self._order, cursor.seed, self._prefetch, self._device)

    def _stream_here(self) -> Stream:
        """The stream, or a new one in a forked child."""
        if self._stream.process != os.getpid():
            self._stream = self._new_stream(self._cursor)
        return self._stream

    def _stepping_aside(self) -> tuple[Changes, Changes]:
        """The changes after which loops leave no trace, and those that make all as it is now.

        What was prefetched is kept for the loop that is interrupted.
        """
        names = "_cursor", "_present", "_stream", "_progress"
        back = [(self, name, getattr(self, name)) for name in names]
        for thing in self.policy._owned():
            back += thing._changes(thing._memory)
        return [(self, "_stream", self._new_stream(self._cursor)), (self, "_progress", False)], back

    def state_dict(self) -> dict[str, Any]:
        """Where it is: JSON values, whatever the size of the data.

        May be taken at any time, also while another thread takes a batch: it is then the state
        before that batch or after it.
        """
        cursor = None
        while cursor is not self._cursor:  # until nothing was delivered between the two
            cursor, memory = self._cursor, self.policy._memory
        left = self._present is not None and self._present() is None and self._left_of(cursor) == 0
        if left:  # at its end
            cursor = cursor._replace(begin=None)
        return to_json(cursor, self._fixed(), self.policy._saved(memory))

    def _fixed(self) -> dict[str, Any]:
        """What a state must have alike."""
        return {
            "n_samples": self.samples,
            "order": self._order.identity,
            "window": self._order.window,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a ``state_dict``, also under another batch size, tail or shard.

        The seed is the saved one, ``epochs`` is this loader's: a loop that was saved goes on until
        it has taken so many. The policy goes on from the saved state if it is of the same name as
        the saved one, and begins anew otherwise; a warning tells what differs.

        Raises:
            StateError: other data or another order, or no state of a loader. Nothing has changed.
        """
        fixed = {name: same(value) for name, value in self._fixed().items()}
        form = fields({**fixed, **FORMS, "policy": anything})
        with differences("this loader") as found:
            saved = read(state, form, found, version=FORMAT)
            if not found:
                cursor = Cursor(*(saved[name] for name in Cursor._fields))
                found += contradictions(cursor, self.samples)
                found += self._cutting.unshared(cursor.position)
            if "policy" in saved:
                changes = self.policy._resuming(saved["policy"], "policy", found)
        if self._present is not None and self._present() is None:
            changes.append((self, "_present", None))
        changes += [(self, "_cursor", cursor), (self, "_stream", self._new_stream(cursor))]
        _core.commit(changes)
