"""float32 masters of parameters that are elsewhere, updated by a worker in parts of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from .. import _core
from ..engines import StepInfo
from ..optim import Optimizer, ScheduleFreeAdamW, ScheduleFreeSGD
from .staging import CudaStaging, HostStaging, Leaf, Staging

PART = 2**18  # elements that make a part worth a call during backward
_LARGE_PART = 2**22  # and in a step
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_PLAIN = (torch.Tensor, torch.nn.Parameter)
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
        form = {}
        for g, (parameters, _) in reversed(list(enumerate(groups))):
            form.update(self._group(g, parameters))
        (_, of_first), *others = groups
        matched = [{"match": f"{g}/*", **own} for g, (_, own) in enumerate(others, 1)]
        self.own = rule(form, groups=matched, **of_first, **settings)
        self._worker = ThreadPoolExecutor(1, "fusestep-offload")
        self._pending: list[Future[None]] = []
        self.staging: Staging = (
            CudaStaging(self._submit) if self.leaves[0].parameter.is_cuda else HostStaging()
        )
        self.info: StepInfo | None = None
        self._begin_anew()

    def _group(self, g: int, parameters: Sequence[Any]) -> dict[str, dict[str, Any]]:
        """Masters by the numbers of group and parameter, in their order."""
        begin, masters = self.size, {}
        for i, p in reversed(list(enumerate(parameters))):
            master = torch.empty(p.shape, dtype=torch.float32).copy_(p.detach())
            end = begin + p.numel()
            leaf = Leaf(p, f"{g}/{i}", master, torch.zeros_like(master), begin, end)
            self.leaves.append(leaf)
            masters[str(i)] = master.numpy()
            begin = end
        return {str(g): masters}

    def add_group(self, parameters: Sequence[Any], own: Mapping[str, Any]) -> None:
        """Adds parameters behind all others."""
        known, g = len(self.leaves), len(self.own.groups)
        try:
            self.own.add_group(self._group(g, parameters), match=f"{g}/*", **own)
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
            self._pending.pop(0).result()

    # A step

    def _begin_anew(self) -> None:
        self.is_begun = False
        self.handed = 0  # elements whose update the worker was given
        self._next = 0  # the first leaf that is waited for
        self._staged = 0  # leaves, by the worker

    def is_handed(self, leaf: Leaf) -> bool:
        """Whether the update of some of its elements is the worker's."""
        return self.is_begun and leaf.is_expected and leaf.begin < self.handed

    def expect_again(self) -> list[Leaf]:
        """Waits anew for the gradients of all leaves whose update has not begun; those leaves."""
        left = [leaf for leaf in self.leaves if not self.is_handed(leaf)]
        for leaf in left:
            leaf.has_arrived = False
        self._next = 0
        return left

    def begin(self, grad_scale: float = 1.0) -> None:
        """Begins a step for the leaves whose gradients are expected, where it applies."""
        plan = self.own._plan
        self._before = plan.updates, plan.values, plan.attempted, plan.applied
        gradients = [leaf.gradient_array if leaf.is_expected else None for leaf in self.leaves]
        self.info = plan.begin_parts(gradients, grad_scale, None)
        self._begin_anew()
        self.is_begun = self.info.applied

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
        staged = self._staged
        while staged < len(self.leaves) and self.leaves[staged].end <= end:
            staged += 1
        self.staging.stage(self._arrived(self._staged, staged))
        self._staged = staged

    def _arrived(self, first: int, last: int) -> list[Leaf]:
        return [leaf for leaf in self.leaves[first:last] if leaf.has_arrived]

    def finish(self) -> None:
        """Ends the step: what has arrived is updated and written to parameters, nothing else."""
        missing = [leaf for leaf in self.leaves if leaf.is_expected and not leaf.has_arrived]
        late = [leaf for leaf in self.leaves if leaf.has_arrived and not leaf.is_expected]
        self.wait()
        kept = [
            (array, array.copy())
            for leaf in missing
            for array in (leaf.master.numpy(), *self.states(leaf).values())
        ]
        written = self._write_from(0)
        if self.handed < self.size or self.size == 0:
            ends = [*range(self.handed + _LARGE_PART, self.size, _LARGE_PART), self.size]
            self.handed = self.size
            for part in [self._submit(self._update, end) for end in ends]:
                part.result()
                written = self._write_from(written)
            self.wait()
        self.is_begun = False
        if late:
            self._update_late(late)
        if late or missing:
            self._take_back(missing, kept)

    def _write_from(self, first: int) -> int:
        """Parameters become masters that are updated; how many were."""
        last = self._staged
        self._write([leaf for leaf in self._arrived(first, last) if leaf.is_expected])
        return last

    def _write(self, leaves: Sequence[Leaf]) -> None:
        if leaves:
            self.staging.write(leaves)
        for leaf in leaves:
            leaf.note_parameter()

    def _update_late(self, late: Sequence[Leaf]) -> None:
        """Updates masters whose gradients nobody expected when the step began."""
        chosen = set(map(id, late))
        gradients = [leaf.gradient_array if id(leaf) in chosen else None for leaf in self.leaves]
        self.own._plan.step(gradients, 1.0, None)
        self.staging.stage(late)
        self._write(late)

    def _take_back(self, missing: Sequence[Leaf], kept: list[tuple[Any, Any]]) -> None:
        """Leaves masters without gradient, and their counts, as they were before the step."""
        plan = self.own._plan
        updates, values = plan.updates, plan.values
        before_updates, before_values, attempted, applied = self._before
        chosen = set(map(id, missing))
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
            leaf.parameter.copy_(master)
            leaf.note_parameter()
        self._begin_anew()


def check_rule(rule: Any) -> None:
    """Raises where it can't update masters, or this process has not all of the gradients."""
    if not (isinstance(rule, type) and issubclass(rule, Optimizer) and rule._rule):
        raise TypeError(f"rule must be a class such as fusestep.AdamW, not {rule!r}")
    if issubclass(rule, (ScheduleFreeAdamW, ScheduleFreeSGD)):
        raise TypeError(f"{rule.__name__}: what parameters hold changes for its evaluation")
    group = torch.distributed
    if group.is_available() and group.is_initialized() and group.get_world_size() > 1:
        raise RuntimeError(
            "Offload is for one process: those of a group add up gradients after backward has told "
            "of them. fusestep.distributed.Sharded has a shard of the state in each"
        )


def check_parameter(where: str, p: Any, device: Any) -> None:
    """Raises where a parameter can't have a master."""
    if type(p) not in _PLAIN or p.layout is not torch.strided or p.is_inference():
        raise TypeError(f"{where} must be a dense tensor of torch that backward reaches")
    if p.dtype not in _DTYPES:
        dtype = str(p.dtype).removeprefix("torch.")
        raise TypeError(f"{where} must be bfloat16, float16 or float32, not {dtype}")
    if p.device != device or p.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{where} is on {p.device}: all must be on the CPU, or on one CUDA device")
