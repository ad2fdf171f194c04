"""Iteration over data: the batch size may change at any time, and no sample is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .._core import StateError, commit
from ..arguments import check_choice, check_flag, check_whole
from ..batch import Policy, as_policy
from ..clock import Clock
from ..expression import Expression
from ..memory import claimed
from .columns import Array, Columns
from .order import Piece, Sampling, as_order
from .stream import Stream

FORMAT = 1


class Batch:
    """Some samples: ``batch["x"]`` or ``batch[0]``, as the data is a dict or a tuple.

    Attributes:
        data: the arrays in the form of the data: a dict, a tuple, or one array.
        clock: how far training was before this batch; for ``Optimizer.step(clock=...)``.
        size: samples of this update: of all ranks together.
        indices: which samples these are, an array of integers.
    """

    __slots__ = ("_indices", "clock", "data", "size")

    def __init__(self, data: Any, clock: Clock, size: int, indices: Callable[[], Array]) -> None:
        self.data = data
        self.clock = clock
        self.size = size
        self._indices = indices

    @property
    def indices(self) -> Array:
        return self._indices()

    def __getitem__(self, key: Any) -> Any:
        return self.data[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def part(self, data: Any, rows: slice) -> Batch:
        """Some of its rows, whose arrays these are."""
        return Batch(data, self.clock, self.size, lambda: self.indices[rows])

    def __repr__(self) -> str:
        return f"Batch(size={self.size}, clock={self.clock})"


class Loader:
    """Delivers batches: every sample once in an epoch, whatever the batch size does.

    The order of an epoch is a function of ``seed`` and the epoch alone; the batch size only decides
    where it is cut, at the moment of delivery. So it may become any integer at any time, and a
    loader goes on from a saved place under another batch size, another number of ranks or threads.

    Iterating takes ``epochs`` epochs; iterating again takes as many more. Leaving a loop early and
    iterating again goes on where it stopped. Batches are gathered natively in the background, and
    may be kept and written into: memory is used again only when nobody holds it.

    Args:
        data: a dict, tuple or list of arrays, or one array, with the samples along the first axis:
            NumPy arrays (memory maps among them), CuPy arrays, or anything with a length that takes
            an array of indices.
        batch_size: a whole number, "full", an expression, a policy of `fusestep.batch`, or a
            function of the clock.
        seed: a whole number from 0 to 2^63 - 1.
        epochs: how many a loop takes, at least 1.
        order: "shuffled", all permutations equally likely (4 bytes for each sample); "hashed",
            shuffled without that memory; "sequential"; "window", shuffled in stretches of
            ``window`` samples, which stand in shuffled order: for memory maps. Or a `Weighted`,
            `Balanced` or `Subset` of `fusestep.data`: what it draws in an epoch are the samples of
            this page, which ``samples`` counts.
        window: for ``order="window"``.
        tail: what is left of an epoch when it is less than a batch: "short" delivers it, "drop"
            leaves it out, "carry" adds samples of the next epoch (at the end of a loop: short).
        shard: (rank, world): this loader's part of every batch; all ranks together have it whole.
        transform: by key or place, `to_float32` or a function of a batch's array.
        device: "cuda" for batches of CuPy arrays, whatever the data is; by default they are where
            the data is. They are made on a stream of their own, for the stream that is current when
            a batch is taken: what uses it must be queued there. Not while that is being captured.
        progress: show a bar (needs tqdm).

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

    def __init__(
        self,
        data: Any,
        batch_size: int | str | Expression | Policy | Callable[[Clock], int],
        *,
        seed: int = 0,
        epochs: int = 1,
        order: str | Sampling = "shuffled",
        window: int | None = None,
        tail: str = "short",
        shard: tuple[int, int] = (0, 1),
        transform: Any = None,
        device: str | None = None,
        progress: bool = False,
    ) -> None:
        if device is not None:
            check_choice("device", device, ("cuda",))
        self._columns = Columns(data, transform, device)
        self._order = as_order(order, self._columns.rows, window)
        self.samples = self._order.n
        self.policy = as_policy(batch_size, self.samples)
        self._epochs = check_whole("epochs", epochs, 1)
        self._tail = check_choice("tail", tail, ("short", "drop", "carry"))
        self._rank, self._world = _checked_shard(shard)
        self._progress = check_flag("progress", progress)
        self._seed = check_whole("seed", seed, 0)
        self._stream = Stream(self._columns, self._order, self._seed)
        self._epoch = self._position = 0  # of the next sample
        self._delivered = self._batches = 0  # samples and batches so far, of all ranks
        self._end = 0  # the epoch that ends the present loop
        with claimed("loader", self, self.policy.memories()):
            pass  # nothing fails from here on

    @property
    def clock(self) -> Clock:
        """How far it is: batches, samples and epochs delivered."""
        epoch = self._epoch + self._position / self.samples
        return Clock(step=self._batches, samples=self._delivered, epoch=epoch)

    def __iter__(self) -> Iterator[Batch]:
        if self._epoch >= self._end:
            self._end = self._epoch + self._epochs
        if not self._progress:
            return self._deliver()
        return self._with_progress()

    def _with_progress(self) -> Iterator[Batch]:
        from tqdm.auto import tqdm

        left = (self._end - self._epoch) * self.samples - self._position
        with tqdm(total=left, unit="sample", unit_scale=True) as bar:
            for batch in self._deliver():
                yield batch
                bar.update(batch.size)
                bar.set_postfix(batch=batch.size, refresh=False)

    def _deliver(self) -> Iterator[Batch]:
        while self._epoch < self._end:
            clock = self.clock
            pieces = self._cut(self._next_size(clock))
            if pieces:
                yield self._batch(pieces, clock)
            else:
                self._epoch, self._position = self._epoch + 1, 0

    def _next_size(self, clock: Clock) -> int:
        size = self.policy.next_size(clock)
        if self._tail == "drop" and self._position == 0 and size > self.samples:
            raise ValueError(
                f"batch_size is {size}, there are {self.samples} samples: with tail='drop' nothing "
                "would ever be delivered"
            )
        return size

    def _cut(self, size: int) -> list[Piece]:
        """The pieces of the next batch; none where the tail of the epoch is dropped."""
        left = self.samples - self._position
        if self._tail == "drop" and left < size:
            return []
        if self._tail == "carry":
            left += (self._end - self._epoch - 1) * self.samples
        epoch, begin, size = self._epoch, self._position, min(size, left)
        if begin + size <= self.samples:
            return [Piece(epoch, begin, begin + size)]
        pieces = []
        while size > 0:
            end = min(self.samples, begin + size)
            pieces.append(Piece(epoch, begin, end))
            size -= end - begin
            epoch, begin = (epoch + 1, 0) if end == self.samples else (epoch, end)
        return pieces

    def _batch(self, pieces: list[Piece], clock: Clock) -> Batch:
        size = sum(piece.end - piece.begin for piece in pieces)
        own = pieces if self._world == 1 else self._share(pieces, size)
        data = self._columns.assembled(self._stream.take(own))
        # the place moves only when all has gone well: an error consumes nothing
        epoch, _, end = pieces[-1]
        self._epoch, self._position = (epoch + 1, 0) if end == self.samples else (epoch, end)
        self._delivered += size
        self._batches += 1
        self._look_ahead(size)
        stream = self._stream
        clock = Clock(samples=clock.samples, epoch=clock.epoch, batch_size=size)
        return Batch(data, clock, size, lambda: stream.indices(own))

    def _look_ahead(self, size: int) -> None:
        if self._epoch == self._end:
            return
        if self._world == 1:
            self._stream.look_ahead(self._epoch, self._position, self._end - 1, size)
        else:  # the places of other ranks' samples are known only when the next size is
            self._stream.expect(self._share(self._cut(size), size))

    def _share(self, pieces: list[Piece], size: int) -> list[Piece]:
        """This rank's part of a batch."""
        begin, end = (size * rank // self._world for rank in (self._rank, self._rank + 1))
        return _part(pieces, begin, end)

    def state_dict(self) -> dict[str, Any]:
        """Where it is: JSON values, whatever the size of the data."""
        return {
            "format": FORMAT,
            "n_samples": self.samples,
            "order": self._order.identity,
            "window": self._order.window,
            "seed": self._seed,
            "epoch": self._epoch,
            "position": self._position,
            "end": self._end,
            "samples": self._delivered,
            "batches": self._batches,
            "policy": self.policy.saved(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a ``state_dict``, also under another batch size, tail or shard.

        The seed is the saved one. The policy goes on from the saved state if it is of the same name
        as the saved one, and begins anew otherwise; a warning tells what differs.

        Raises:
            StateError: other data or another order, or no state of a loader. Nothing has changed.
        """
        present = self.state_dict()
        if not isinstance(state, Mapping) or state.keys() != present.keys():
            raise StateError(
                f"the state of a loader must be a dict of {', '.join(present)}, not {state!r}"
            )
        found = [
            f"{name}: saved {state[name]!r}, present {present[name]!r}"
            for name in ("format", "n_samples", "order", "window")
            if state[name] != present[name]
        ]
        for name in ("seed", "epoch", "position", "end", "samples", "batches"):
            if not isinstance(state[name], int) or isinstance(state[name], bool) or state[name] < 0:
                found.append(f"{name}: must be a whole number, not {state[name]!r}")
        if not found and state["position"] >= self.samples:
            found.append(f"position: {state['position']} is not below {self.samples}")
        if found:
            raise StateError("\n  ".join(["the state does not fit this loader:", *found]))
        commit(self.policy.resumed(state["policy"]))
        self._seed = state["seed"]
        self._epoch, self._position, self._end = state["epoch"], state["position"], state["end"]
        self._delivered, self._batches = state["samples"], state["batches"]
        self._stream = Stream(self._columns, self._order, self._seed)


def _checked_shard(shard: Any) -> tuple[int, int]:
    if not isinstance(shard, (tuple, list)) or len(shard) != 2:
        raise TypeError(f"shard must be (rank, world), not {shard!r}")
    world = check_whole("shard[1]", shard[1], 1)
    return check_whole("shard[0]", shard[0], 0, world - 1), world


def _part(pieces: list[Piece], begin: int, end: int) -> list[Piece]:
    """What lies between two places of a batch."""
    part, passed = [], 0
    for epoch, first, last in pieces:
        low, high = max(begin - passed, 0), min(end - passed, last - first)
        if low < high:
            part.append(Piece(epoch, first + low, first + high))
        passed += last - first
    return part
