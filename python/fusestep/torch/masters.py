"""float32 masters of parameters that are elsewhere, updated by a worker in parts of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from .. import _core
from ..optim import Optimizer
from .staging import CudaStaging, HostStaging, Leaf, Staging

PART = 2**18  # elements that make a part worth a call
_BLOCK = 1024  # a part ends at a multiple of it


class Masters:
    """An optimizer of fusestep over masters, and a thread that updates them.

    The masters lie in the reverse order of the parameters, about that in which backward reaches
    them, and a part is updated once all gradients up to its end are there.
    """

    def __init__(
        self,
        rule: type[Optimizer],
        groups: Sequence[tuple[Sequence[Any], Mapping[str, Any]]],
        settings: Mapping[str, Any],
    ) -> None:
        self.leaves: list[Leaf] = []
        form = [
            self._group(at, parameters, own)
            for at, (parameters, own) in enumerate(reversed(groups))
        ]
        self.own = rule(form, **settings)
        self._worker = ThreadPoolExecutor(1, "fusestep-offload")
        self._pending: list[Future[None]] = []
        self.staging: Staging = (
            CudaStaging(self._submit) if self.leaves[0].parameter.is_cuda else HostStaging()
        )
        self._begin_anew()

    def _group(self, at: int, parameters: Sequence[Any], own: Mapping[str, Any]) -> dict[str, Any]:
        begin = self.size
        masters = []
        for i, p in enumerate(reversed(parameters)):
            master = torch.empty(p.shape, dtype=torch.float32).copy_(p.detach())
            end = begin + p.numel()
            leaf = Leaf(p, f"{at}/{i}", master, torch.zeros_like(master), begin, end)
            leaf.note_parameter()
            self.leaves.append(leaf)
            masters.append(master.numpy())
            begin = end
        return {"params": masters, **own}

    def add_group(self, parameters: Sequence[Any], own: Mapping[str, Any]) -> None:
        """Adds parameters behind all others."""
        known = len(self.leaves)
        try:
            self.own.add_group(self._group(len(self.own.groups), parameters, own))
        except BaseException:
            del self.leaves[known:]
            raise

    @property
    def size(self) -> int:
        """Elements of all masters."""
        return self.leaves[-1].end if self.leaves else 0

    def states(self, leaf: Leaf) -> dict[str, Any]:
        """The arrays of state of a master."""
        return self.own._states[leaf.path]

    def _submit(self, call: Callable[..., None], *given: Any) -> Future[None]:
        future = self._worker.submit(call, *given)
        self._pending.append(future)
        return future

    def wait(self) -> None:
        """Until the worker has done all that it was given; raises what it raised."""
        while self._pending:
            self._pending[0].result()
            del self._pending[0]

    # A step

    def _begin_anew(self) -> None:
        self.is_begun = False
        self.handed = 0  # elements whose update the worker was given
        self._next = 0  # the first leaf that is waited for
        self._staged = 0  # leaves, by the worker

    def is_handed(self, leaf: Leaf) -> bool:
        """Whether the update of some of its elements is the worker's."""
        return self.is_begun and leaf.begin < self.handed

    def begin(self, grad_scale: float = 1.0) -> Any:
        """Begins a step for the leaves whose gradients are expected; the info of the step."""
        plan = self.own._plan
        self._before = plan.updates, plan.values, plan.attempted, plan.applied
        gradients = [leaf.gradient_array if leaf.is_expected else None for leaf in self.leaves]
        info = plan.begin_parts(gradients, grad_scale, None)
        self._begin_anew()
        self.is_begun = info.applied
        return info

    def advance(self) -> None:
        """Has the worker update all whose gradients are there."""
        leaves, size = self.leaves, self.size
        while self._next < len(leaves) and (
            leaves[self._next].has_arrived or not leaves[self._next].is_expected
        ):
            self._next += 1
        end = size if self._next == len(leaves) else leaves[self._next].begin // _BLOCK * _BLOCK
        if end - self.handed >= PART or (end == size and self.handed < size):
            self.handed = end
            self._submit(self._update, end)

    def _update(self, end: int) -> None:
        self.own._plan.update_part(end)
        first = self._staged
        while self._staged < len(self.leaves) and self.leaves[self._staged].end <= end:
            self._staged += 1
        self.staging.stage([leaf for leaf in self.leaves[first : self._staged] if leaf.has_arrived])

    def finish(self) -> None:
        """Ends the step: what has arrived is updated, and nothing else."""
        plan = self.own._plan
        missing = [leaf for leaf in self.leaves if leaf.is_expected and not leaf.has_arrived]
        late = [leaf for leaf in self.leaves if leaf.has_arrived and not leaf.is_expected]
        self.wait()
        kept = [
            (array, array.copy())
            for leaf in missing
            for array in (leaf.master.numpy(), *self.states(leaf).values())
        ]
        if self.handed < self.size or self.size == 0:
            self.handed = self.size
            self._submit(self._update, self.size)
            self.wait()
        self.is_begun = False
        if late:
            chosen = {id(leaf) for leaf in late}
            plan.step(
                [leaf.gradient_array if id(leaf) in chosen else None for leaf in self.leaves],
                1.0,
                None,
            )
            self.staging.stage(late)
        if late or missing:
            self._take_back(missing, kept)

    def _take_back(self, missing: Sequence[Leaf], kept: list[tuple[Any, Any]]) -> None:
        """Leaves masters without gradient, and their counts, as they were before the step."""
        plan = self.own._plan
        updates, values = plan.updates, plan.values
        before_updates, before_values, attempted, applied = self._before
        chosen = {id(leaf) for leaf in missing}
        for i, leaf in enumerate(self.leaves):
            if id(leaf) in chosen:
                updates[i], values[i] = before_updates[i], before_values[i]
        plan.load(
            updates=updates,
            attempted=attempted + 1,
            applied=applied + 1,
            accumulated=plan.accumulated,
            settings=plan.settings,
            program=None,
            targets=[],
            nonfinite=plan.nonfinite,
            arrays=kept,
            values=values,
        )

    # Parameters

    def changed_parameters(self) -> list[Leaf]:
        """Those that others have written since they became their masters."""
        return [
            leaf
            for leaf in self.leaves
            if leaf.parameter._version != leaf.version or leaf.parameter.data_ptr() != leaf.address
        ]

    @staticmethod
    def read_parameter(leaf: Leaf) -> None:
        """The master takes over what of the parameter is not the master's, rounded."""
        there = leaf.parameter.detach().to("cpu")
        differs = leaf.master.to(there.dtype) != there
        torch.where(differs, there.to(torch.float32), leaf.master, out=leaf.master)
        leaf.note_parameter()

    def write_parameters(self, leaves: Sequence[Leaf]) -> None:
        """Parameters become their masters, rounded."""
        if leaves:
            self.staging.write(leaves)
        for leaf in leaves:
            leaf.note_parameter()

    # Saved state

    def state(self) -> dict[Any, dict[str, Any]]:
        """What `load` takes, of each parameter; the arrays themselves."""
        plan = self.own._plan
        return {
            leaf.parameter: {
                "step": torch.tensor(float(count)),
                "master": leaf.master,
                **{name: torch.from_numpy(array) for name, array in self.states(leaf).items()},
                **({"values": values} if values else {}),
            }
            for leaf, count, values in zip(self.leaves, plan.updates, plan.values, strict=True)
        }

    def load(self, saved: Sequence[tuple[Leaf, str, Any]], attempted: Any, applied: Any) -> None:
        """Takes over what leaves had saved, each with what it is called; parameters follow.

        Raises StateError, with nothing changed, where a state does not fit.
        """
        own, names = self.own, [value[0] for value in _core.rules()[self.own._rule].values]
        parameters, masters = {}, []
        for leaf, where, entry in saved:
            state, shape = dict(entry), leaf.master.shape
            master, count, values = (state.pop(k, None) for k in ("master", "step", "values"))
            if (
                not isinstance(master, torch.Tensor)
                or master.shape != shape
                or master.dtype != torch.float32
            ):
                raise _core.StateError(
                    f"{where}: the state must have a float32 master of shape {tuple(shape)}"
                )
            masters.append(master)
            parameters[leaf.path] = {
                "updates": int(count),
                "state": {name: array.detach().cpu().numpy() for name, array in state.items()},
                **({"values": dict(zip(names, values, strict=True))} if names else {}),
            }
        counts = {"attempted": attempted, "applied": applied}
        own.load_state_dict({**own._saved_form(), **counts, "parameters": parameters})
        for (leaf, _, _), master in zip(saved, masters, strict=True):
            leaf.master.copy_(master)
        self._submit(self.staging.stage, self.leaves).result()
        self.write_parameters(self.leaves)
