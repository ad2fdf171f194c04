"""One optimizer over a group of processes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from .. import _core, foreign
from ..clock import Clock
from ..engines import StepInfo
from ..gradients.statistics import GradientStatistics
from ..memory import Changes, claimed
from ..optim import Optimizer
from .gathering import Gathering
from .groups import Group, Leaves, RankError, RankTimeout, leaf_bounds
from .header import Header, exchanged
from .layout import Layout
from .leaves import LeafGradients
from .levels import check_levels
from .reduction import Reduction
from .saving import SavedInFolders
from .shards import Shards, sums_over_arrays

# of the optimizer of a rank's shard, and the same on every rank but for `state`
_SHARED = (
    "groups",
    "nonfinite",
    "state",
    "steps_applied",
    "steps_attempted",
    "steps_skipped",
)


class Sharded(SavedInFolders):
    """One optimizer over a group of processes, each of which has the state of a shard.

    Every rank has all parameters and updates a part of them; where those of all ranks together take
    at most 1 MB, each updates all, in one exchange. ``step`` adds the gradients
    of all leaves of a batch along a tree that ``leaves`` alone decides, so parameters, state, norms
    and losses have the same bits for any number of ranks, any shares and any engine, given the same
    gradients of leaves. An ordinary optimizer that is fed with the sums of that tree has them, too.

    Args:
        rule: `fusestep.AdamW`, `fusestep.SGD` or another class of optimizers; its arguments follow
            as keywords, groups and schedules among them. Shards cut no array where the rule sums
            over single ones (LAMB, LARS, StableAdamW, ``cautious``, ``update_clip``, ``agc``).
        params: arrays of NumPy, or of CuPy, of one dtype, in any nesting: all of them, with the
            same values on every rank. What ranks exchange goes through the host's memory, so some
            may have a GPU and others not. Parameters from `flatten` are exchanged without copies.
        group: from `mpi`, `torch`, `threads` or `alone`.
        leaves: into how many parts a batch is cut: at least the number of ranks, at most 4096.
            Where leaves / ranks is a power of two, no more is sent than by any other reduction.
        shares: how many leaves each rank has; default even.
        memory: how much of the state each rank has, in any unit: numbers of at least 0, 0 for a
            rank that computes gradients alone; default even. Given, every rank has a shard, however
            small the model is.
        buckets: into how many parts shards are cut: one is added and updated while others move.
            Default: parts of 16 MB.
        levels: how many ranks exchange with each other on each level, those beside each other
            first, as in ``(ranks of a node, nodes)``: fewer messages, as many bytes. Their product
            is the number of ranks; all but the last are powers of two, and so are the leaves of a
            rank. Nothing overlaps then. Default: all at once.

    Raises:
        TypeError, ValueError: named by the argument, before anything was exchanged.

    Settings are read and set as those of the rule: ``opt.lr = 0.1``, on every rank alike.
    ``opt.state`` has that of what this rank updates.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> from fusestep import distributed
        >>> params = {"w": np.zeros(2)}
        >>> opt = distributed.Sharded(fs.SGD, params, group=distributed.alone(), leaves=2, lr=1.0)
        >>> opt.accumulate({"w": np.array([3.0, 4.0])}, samples=3)
        25.0
        >>> opt.accumulate({"w": np.array([-1.0, 0.0])}, samples=1)
        1.0
        >>> opt.step().applied, params["w"]
        (True, array([-2., -3.]))
    """

    def __init__(
        self,
        rule: Callable[..., Optimizer],
        params: Any,
        *,
        group: Group,
        leaves: int,
        shares: Sequence[int] | None = None,
        memory: Sequence[float] | None = None,
        buckets: int | None = None,
        levels: Sequence[int] | None = None,
        **settings: Any,
    ) -> None:
        self._group, self.leaves = group, leaves
        self._layout = layout = Layout(params)
        self._leaf_bounds = bounds = leaf_bounds(group.world, leaves, shares)
        self._is_whole = whole = sums_over_arrays(rule(layout.views(0, 0), **settings))
        factors = check_levels(levels, bounds)
        self._shards = shards = Shards(
            layout, group.world, memory, whole=whole, buckets=buckets, factors=factors
        )
        self._begin, self._end = shards.ranges[group.rank]
        self._gradients = LeafGradients(params, layout, self.share)
        self._reduction = Reduction(group, layout, bounds, shards)
        self._gathering = Gathering(group, layout, bounds, shards)
        self._views = layout.views(self._begin, self._end)
        self._own = rule(self._views, **settings)
        self._identity = self._identify()
        self._is_checked = False
        self._error: Exception | None = None
        self.loss = math.nan

    def _identify(self) -> bytes:
        """Of what must be the same on every rank."""
        layout, own = self._layout, self._own
        shapes = [array.shape for array in layout.arrays]
        described = json.dumps(own.state_dict()["settings"], sort_keys=True, default=str)
        parts = [type(own).__qualname__, described, layout.paths, shapes, layout.dtype]
        parts += [self._leaf_bounds, self._shards.ranges, self._shards.ends]
        return hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()

    # settings and counts, which are those of the shard's optimizer

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__.get("_own")
        if own is not None and (name in _SHARED or name in own._declared.fields):
            return getattr(own, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        own = None if name.startswith("_") else self.__dict__.get("_own")
        if own is not None and (name == "nonfinite" or name in own._declared.fields):
            setattr(own, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def share(self) -> Leaves:
        """This rank's part of every batch, for ``Loader(shard=...)``."""
        begin, end = self._leaf_bounds[self._group.rank : self._group.rank + 2]
        return Leaves(begin, end, self.leaves)

    # gradients

    def accumulate(self, grads: Any, samples: float, *, loss: Any = math.nan) -> float:
        """Adds the gradients of this rank's next leaf.

        Args:
            grads: the mean over the leaf's samples, as for `Optimizer.accumulate`.
            samples: how many they are.
            loss: the mean loss over them; `loss` has that over all leaves after the step.

        Returns:
            The squared norm of these gradients.
        """
        return self._gradients.add(grads, samples, loss)

    def skip(self) -> None:
        """This rank's next leaf has no samples: a batch that is smaller than ``leaves``."""
        self._gradients.skip()

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Keeps an exception of the body, which ``step`` tells all ranks and raises.

        So no rank waits for one that failed, and the run can go on.
        """
        try:
            yield
        except Exception as error:
            self._error = self._error or error

    # a step

    def step(
        self, *, clock: Clock | None = None, statistics: GradientStatistics | None = None
    ) -> StepInfo:
        """Updates the parameters of all ranks once, from the leaves that they accumulated.

        Args:
            clock: as for `Optimizer.step`, the same on every rank.
            statistics: learns from all leaves, the same on every rank.

        Returns:
            As `Optimizer.step`, the same on every rank. `loss` is the mean loss over all samples.

        Raises:
            RankError: another rank failed, or is at another step, or has other settings. Nothing
                was updated on any rank, what was accumulated is forgotten, and the run may go on.
            RankTimeout: a rank did not come.
                Whatever ``guard`` kept is raised on its own rank.
        """
        own = self._own
        with ExitStack() as held:
            with self.guard():  # what fails on this rank alone is told, too
                held.enter_context(own._plan.held())
                learning = [] if statistics is None else [statistics]
                held.enter_context(claimed("optimizer", own._expressions.owner, learning))
            heard, pieces = self._tell(clock)
            records = [record for one in heard for record in one.leaves if record[0] > 0]
            samples = math.fsum(count for count, _, _ in records)
            self.loss = math.fsum(count * loss for count, loss, _ in records) / samples
            try:
                self._reduction.plan(pieces, heard, self._has_arrived)
                info = self._update(heard, samples, records, clock, statistics)
            finally:
                self._gradients.forget()
        return info

    def _tell(self, clock: Clock | None) -> tuple[list[Header], list[Any]]:
        """What every rank says before anything is written, and the pieces of this one.

        Raises on every rank if one can't go on.
        """
        error, self._error = self._error, None
        if error is None and (missing := self._gradients.missing):
            error = _core.StateError(f"{missing} leaves of this rank have not been accumulated")
        pieces = [None] * self._gradients.pieces
        if error is None:
            try:
                pieces = self._gradients.finish(on_host=self._group.world > 1)
            except Exception as failure:  # such as no memory for the host's copies
                error = failure
        told = Header(
            self._identify_step(clock) if self._group.world > 1 else b"",
            self._own.steps_attempted,
            None if error is None else f"{type(error).__name__}: {error}"[:1000],
            self._gradients.records,
            self._gradients.held,
        )
        rides = self._shards.is_replicated and self._is_checked  # then all know what moves
        beside = self._reduction.beside(pieces) if rides else ([], [])
        try:
            heard = exchanged(self._group, told, *beside)
        except RankError:
            self._gradients.forget()
            if error is not None:
                raise error from None
            raise
        except RankTimeout as timeout:
            raise timeout from error or timeout.__cause__
        self._has_arrived = rides
        self._is_checked = True
        return heard, pieces

    def _identify_step(self, clock: Clock | None) -> bytes:
        """Of what must be the same on every rank at this step; at the first of all parameters."""
        own, digest = self._own, hashlib.blake2b(self._identity, digest_size=8)
        digest.update(own._plan.settings.tobytes())
        values = "" if self._is_checked else self._values()
        digest.update(repr((clock, own.nonfinite, values)).encode())
        return digest.digest()

    def _values(self) -> str:
        """A hash of all parameters."""
        digest = hashlib.blake2b(digest_size=8)
        for array in self._layout.arrays:
            host = array if self._layout.place.is_host else array.get()
            digest.update(host.reshape(-1).view(np.uint8))
        return digest.hexdigest()

    def _update(
        self,
        heard: Sequence[Header],
        samples: float,
        records: Sequence[Sequence[float]],
        clock: Clock | None,
        statistics: GradientStatistics | None,
    ) -> StepInfo:
        own, plan, reduction = self._own, self._own._plan, self._reduction
        measures = self._group.world > 1 and (  # of one rank the plan itself takes the norm
            statistics is not None or own.clip_norm is not None or own.nonfinite != "propagate"
        )
        overlaps = self._shards.buckets > 1 and not self._is_whole and statistics is None
        ends: Iterable[int] = reduction.arriving(measures)
        if measures or not overlaps:
            ends = [*ends]  # now all have arrived
        squared_norm = reduction.squared_norm() if measures else None
        if squared_norm is not None and own.nonfinite == "raise":
            self._refuse_nonfinite(squared_norm[0])
        grads: list[Any] = reduction.gradient
        if not any(one.held.all() for one in heard):
            holds = np.logical_or.reduce([one.held for one in heard])
            grads = [g if held else None for g, held in zip(grads, holds, strict=True)]
        now, changes = own._expressions.before(clock, self.loss)
        if overlaps:
            info = plan.begin_parts(grads, samples, now, False, changes, squared_norm)
            for k, end in enumerate(ends if info.applied else ()):
                if end < plan.size or k == self._shards.buckets - 1:  # an empty shard ends once
                    plan.update_part(end)
                self._gathering.start(k)
            self._gathering.finish()
            return info
        learn = None
        if statistics is not None:
            squares = math.fsum(b * s for b, _, s in records)
            count = sum(b > 0 for b, _, _ in records)

            def learn(norm: float) -> Changes:
                return statistics._adding(squares, samples, count, norm * norm)

        info = plan.step(grads, samples, now, statistics is not None, changes, learn, squared_norm)
        if info.applied:
            self._gathering.run()
        return info

    def _refuse_nonfinite(self, total: float) -> None:
        """Raises on every rank, naming the first parameter that is not finite."""
        if math.isfinite(total):
            return
        bad = [
            path
            for path, gradient in zip(self._layout.paths, self._reduction.gradient, strict=True)
            if not np.isfinite(self._own._engine.to_numpy(gradient)).all()
        ]
        told = self._group.gather_bytes(json.dumps(bad[:1]).encode())
        found = [path for one in told for path in json.loads(one)]
        where = foreign.where("params", found[0]) if found else "params"
        raise ValueError(f"{where}: the gradient holds NaN or infinity; nothing was updated")

    def verify(self) -> None:
        """Raises RankError unless all ranks have the same parameters, bit for bit."""
        told = self._group.gather_bytes(self._values().encode())
        unlike = [rank for rank, values in enumerate(told) if values != told[0]]
        if unlike:
            raise RankError(f"the parameters of rank {unlike} are not those of rank 0")

    # saved state

    def state_dict(self) -> dict[str, Any] | None:
        """The state in the form of the rule's own, on rank 0; None elsewhere. All ranks call it."""
        state = self._own.state_dict()
        entries = state["parameters"]
        names = sorted({name for entry in entries.values() for name in entry["state"]})
        for name in names:
            memory = np.zeros(self._layout.total, self._layout.dtype)
            shards = [
                entry["state"].get(name, np.zeros(view.size, self._layout.dtype)).reshape(-1)
                for entry, view in zip(entries.values(), self._views.values(), strict=True)
            ]
            memory[self._begin : self._end] = np.concatenate(shards)
            self._group.gather_shards(memory, self._shards.saved)
            for path, part in zip(self._layout.paths, self._layout.parts(memory), strict=True):
                if name in entries[path]["state"]:
                    entries[path]["state"][name] = part.copy()
        return state if self._group.rank == 0 else None

    def load_state_dict(self, state: Mapping[str, Any], **options: Any) -> Any:
        """Goes on from the state of the rule, or of any number of ranks; the same on every rank.

        Takes the arguments of the rule's own ``load_state_dict``, and raises what that does.
        """
        spans = dict(
            zip(self._layout.paths, self._layout.spans(self._begin, self._end), strict=True)
        )
        sizes = {p: a.size for p, a in zip(self._layout.paths, self._layout.arrays, strict=True)}
        entries = {}
        for path, entry in state["parameters"].items():
            first, last = spans.get(path, (0, 0))
            arrays = {}
            for name, array in entry["state"].items():
                if path in sizes and array.size != sizes[path]:
                    raise _core.StateError(
                        f"{foreign.where('params', path)} state.{name}: has {array.size} elements, "
                        f"the parameter {sizes[path]}"
                    )
                part = array.reshape(-1)[first:last]
                arrays[name] = part.reshape(self._views[path].shape) if path in sizes else part
            entries[path] = {**entry, "state": arrays}
        loaded = self._own.load_state_dict({**state, "parameters": entries}, **options)
        self._gradients.forget()
        return loaded
