"""One optimizer over a group of processes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from .. import _core, foreign
from ..clock import Clock
from ..engines import StepInfo
from ..gradients.splitting import cut
from ..gradients.statistics import GradientStatistics
from ..memory import Changes, claimed
from ..optim import Optimizer
from .groups import Group, Leaves, RankError, RankTimeout, leaf_bounds
from .header import Flags, Header, exchanged
from .layout import Layout
from .leaves import LeafGradients
from .reduction import Reduction
from .saving import SavedInFolders

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

    Every rank has all parameters and updates a part of them. ``step`` adds the gradients of all
    leaves of a batch along a tree that ``leaves`` alone decides, so parameters, state, norms and
    losses have the same bits for any number of ranks, any shares and any engine, given the same
    gradients of leaves. An ordinary optimizer that is fed with the sums of that tree has them, too.

    Args:
        rule: `fusestep.AdamW`, `fusestep.SGD` or another class of optimizers that does not sum over
            single arrays; its arguments follow as keywords, groups and schedules among them.
        params: arrays of NumPy of one dtype, in any nesting: all of them, with the same values on
            every rank. Parameters from `flatten` are exchanged without copies.
        group: from `mpi`, `torch`, `threads` or `alone`.
        leaves: into how many parts a batch is cut: at least the number of ranks, at most 4096.
            Where leaves / ranks is a power of two, no more is sent than by any other reduction.
        shares: how many leaves each rank has; default even.
        memory: how much of the state each rank has, in any unit: numbers of at least 0, 0 for a
            rank that computes gradients alone; default even.

    Raises:
        TypeError, ValueError: named by the argument, before anything was exchanged.

    Settings are read and set as those of the rule: ``opt.lr = 0.1``, on every rank alike.
    ``opt.state`` has this rank's shard.

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
        **settings: Any,
    ) -> None:
        self._group, self.leaves = group, leaves
        self._layout = layout = Layout(params)
        self._leaf_bounds = leaf_bounds(group.world, leaves, shares)
        self._bounds = layout.cut(group.world, memory)
        self._begin, self._end = self._bounds[group.rank : group.rank + 2]
        self._gradients = LeafGradients(params, layout, self.share)
        self._reduction = Reduction(group, layout, self._leaf_bounds, self._bounds)
        self._views = layout.views(self._begin, self._end)
        self._own = rule(self._views, **settings)
        refuse_sums(self._own)
        ends = list(accumulate(view.size for view in self._views.values()))
        self._shard = np.split(self._reduction.gradient, ends[:-1])  # for each parameter
        self._memory = layout.memory()
        is_staged = self._memory is None and group.world > 1
        self._staged: Any = np.empty(layout.total if is_staged else 0, layout.dtype)
        self._copies = layout.elsewhere(self._staged, self._begin, self._end) if is_staged else []
        self._identity = self._identify()
        self._is_checked = False
        self._error: Exception | None = None
        self.loss = math.nan

    def _identify(self) -> str:
        """Of what must be the same on every rank."""
        layout, own = self._layout, self._own
        shapes = [array.shape for array in layout.arrays]
        described = json.dumps(own.state_dict()["settings"], sort_keys=True, default=str)
        parts = [type(own).__qualname__, described, layout.paths, shapes, layout.dtype]
        parts += [self._leaf_bounds, self._bounds]
        return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()

    # settings and counts, which are those of the shard's optimizer

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__.get("_own")
        if own is not None and (name in _SHARED or name in own._declared.fields):
            return getattr(own, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__.get("_own")
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
            heard = self._tell(clock)
            records = [record for one in heard for record in one.leaves if record[0] > 0]
            holds = np.logical_or.reduce([one.held for one in heard])
            samples = math.fsum(count for count, _, _ in records)
            self.loss = math.fsum(count * loss for count, loss, _ in records) / samples
            try:
                self._reduction.add(self._gradients.finish(), heard)
            finally:
                self._gradients.forget()
            info = self._update(holds, samples, records, clock, statistics)
        if info.applied:
            self._gather()
        return info

    def _tell(self, clock: Clock | None) -> list[Header]:
        """What every rank says before anything moves; raises on every rank if one can't go on."""
        error, self._error = self._error, None
        if error is None and (missing := self._gradients.missing):
            error = _core.StateError(f"{missing} leaves of this rank have not been accumulated")
        told = Header(
            self._identify_step(clock),
            self._own.steps_attempted,
            None if error is None else f"{type(error).__name__}: {error}"[:1000],
            self._gradients.records,
            self._gradients.held,
        )
        try:
            heard = exchanged(self._group, told)
        except RankError:
            self._gradients.forget()
            if error is not None:
                raise error from None
            raise
        except RankTimeout as timeout:
            raise timeout from error or timeout.__cause__
        self._is_checked = True
        return heard

    def _identify_step(self, clock: Clock | None) -> str:
        """Of what must be the same on every rank at this step; at the first of all parameters."""
        own = self._own
        values = "" if self._is_checked else self._values()
        parts = [self._identity, clock, own.nonfinite, own._plan.settings.tobytes(), values]
        return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()

    def _values(self) -> str:
        """A hash of all parameters."""
        digest = hashlib.blake2b(digest_size=8)
        for array in self._layout.arrays:
            digest.update(array.reshape(-1).view(np.uint8))
        return digest.hexdigest()

    def _update(
        self,
        holds: Flags,
        samples: float,
        records: Sequence[Sequence[float]],
        clock: Clock | None,
        statistics: GradientStatistics | None,
    ) -> StepInfo:
        own, plan = self._own, self._own._plan
        squared_norm = None
        if statistics is not None or own.clip_norm is not None or own.nonfinite != "propagate":
            squared_norm = self._reduction.squared_norm()
            if own.nonfinite == "raise":
                self._refuse_nonfinite(squared_norm[0])
        grads: list[Any] = self._shard
        if not holds.all():
            grads = [g if held else None for g, held in zip(self._shard, holds, strict=True)]
        learn = None
        if statistics is not None:
            squares = math.fsum(b * s for b, _, s in records)
            count = sum(b > 0 for b, _, _ in records)

            def learn(norm: float) -> Changes:
                return statistics._adding(squares, samples, count, norm * norm)

        now, changes = own._expressions.before(clock, self.loss)
        return plan.step(grads, samples, now, statistics is not None, changes, learn, squared_norm)

    def _refuse_nonfinite(self, total: float) -> None:
        """Raises on every rank, naming the first parameter that is not finite."""
        if math.isfinite(total):
            return
        bad = [
            path
            for path, gradient in zip(self._layout.paths, self._shard, strict=True)
            if not np.isfinite(gradient).all()
        ]
        told = self._group.gather_bytes(json.dumps(bad[:1]).encode())
        found = [path for one in told for path in json.loads(one)]
        where = foreign.where("params", found[0]) if found else "params"
        raise ValueError(f"{where}: the gradient holds NaN or infinity; nothing was updated")

    def _gather(self) -> None:
        """Every rank gets the parameters that the others have updated."""
        if self._group.world == 1:
            return
        if self._memory is not None:
            self._group.gather_shards(self._memory, self._bounds)
            return
        memory = self._staged
        np.concatenate(list(self._views.values()), out=memory[self._begin : self._end])
        self._group.gather_shards(memory, self._bounds)
        for array, part in self._copies:
            np.copyto(array, part)

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
                e["state"].get(name, v)
                for e, v in zip(entries.values(), self._views.values(), strict=True)
            ]
            memory[self._begin : self._end] = np.concatenate(shards)
            self._group.gather_shards(memory, self._bounds)
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
                arrays[name] = array.reshape(-1)[first:last]
            entries[path] = {**entry, "state": arrays}
        loaded = self._own.load_state_dict({**state, "parameters": entries}, **options)
        self._gradients.forget()
        return loaded


def step(
    opt: Sharded,
    loss_and_grads: Callable[[Any], tuple[Any, Any]],
    batch: Any,
    *,
    statistics: GradientStatistics | None = None,
) -> tuple[StepInfo, float]:
    """Computes the gradients of this rank's leaves of a batch, and updates the parameters.

    Args:
        opt: whose ``share`` the loader has.
        loss_and_grads: ``loss, grads`` of some samples, means over them, in the user's own code.
        batch: of ``Loader(shard=opt.share)``.
        statistics: as for `Sharded.step`.

    Returns:
        What the step tells, and the mean loss over the batch on all ranks.

    Raises:
        As `Sharded.step`; an exception in ``loss_and_grads`` is told to the other ranks first.
    """
    share = opt.share
    begins = [batch.size * leaf // share.leaves for leaf in range(share.begin, share.end + 1)]
    with opt.guard():
        for first, last in pairwise(begins):
            if first == last:
                opt.skip()
                continue
            loss, grads = loss_and_grads(cut(batch, slice(first - begins[0], last - begins[0])))
            opt.accumulate(grads, last - first, loss=loss)
    info = opt.step(clock=batch.clock, statistics=statistics)
    return info, opt.loss


def refuse_sums(optimizer: Optimizer) -> None:
    """Shards cut arrays, over which some rules sum."""
    settings = optimizer._settings.of(None)
    asked = [name for name in ("cautious", "update_clip", "agc") if settings.get(name)]
    name = type(optimizer).__name__
    if name in ("LAMB", "LARS", "StableAdamW") or asked:
        what = f"{asked[0]} of {name}" if asked else name
        raise ValueError(
            f"{what} sums over single arrays, which shards cut: not for several processes"
        )
