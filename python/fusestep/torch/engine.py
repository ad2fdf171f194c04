"""A plan over the tensors of an optimizer of torch, as they are at the moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from .. import _core
from ..optim.settings import Settings
from . import refusals
from .rows import Row, refuse_expressions

# a parameter, and why it can't be updated natively
Stranger = tuple[Any, str]


class _Leaf(NamedTuple):
    """A parameter with its state by torch's names, and how often it was updated."""

    parameter: Any
    path: str
    group: int  # of those with leaves
    states: dict[str, Any]  # arrays
    scalars: dict[str, Any]  # tensors of one element
    updates: int
    is_new: bool  # something of the state is not the optimizer's yet

    @property
    def state(self) -> dict[str, Any]:
        return {**self.scalars, **self.states}


class Engine:
    """What of an optimizer can be updated natively, and what can't, with the reasons.

    It is built for what param_groups and state hold, and good until they hold something else:
    `gradients` looks at all of it. State that is missing becomes the optimizer's with the first
    update, and parameters without gradient have none before, as in torch.
    """

    def __init__(self, optimizer: Any, row: Row) -> None:
        self._row = row
        self._param_groups, self._state = optimizer.param_groups, optimizer.state
        self._lists = [group["params"] for group in self._param_groups]
        self._layout = _core.Snapshot(self._lists)
        self._flags = [row.flags_of(group) for group in self._param_groups]
        self._strangers: list[Stranger] = []
        self._leaves: list[_Leaf] = []
        self._has_refused = False  # whether the numbers of a group were refused
        members, idle = self._divided()
        settings = self._settings(members)
        self._plan = None if settings is None else self._planned(settings, members)
        self._parameters = [leaf.parameter for leaf in self._leaves]
        self._tensors = _core.Tensors(
            parameters=self._parameters,
            states=[[t for key, t in leaf.state.items() if key != "step"] for leaf in self._leaves],
            counters=[leaf.scalars.get("step") for leaf in self._leaves],
            updates=[leaf.updates for leaf in self._leaves],
            idle=idle,
            # other tensors over the same memory, which stays where a tensor is given another
            kept=[tensor.detach() for leaf in self._leaves for tensor in leaf.state.values()],
        )
        self._handed = self._values()
        self._new = [i for i, leaf in enumerate(self._leaves) if leaf.is_new]
        self._look_at_groups()
        self._state_now = _core.Snapshot(self._state)

    def _divided(self) -> tuple[dict[int, list[tuple[str, Any]]], list[Any]]:
        """The parameters to update by group, each with its path, and those that take no part."""
        members: dict[int, list[tuple[str, Any]]] = {}
        idle: list[Any] = []
        for g, group in enumerate(self._param_groups):
            refuse_expressions(group)
            refused = refusals.of_group(group)
            for i, p in enumerate(group["params"]):
                if p.grad is None and not self._state.get(p):
                    idle.append(p)
                elif reason := refused or refusals.of_parameter(p):
                    self._strangers.append((p, reason))
                else:
                    members.setdefault(g, []).append((f"{g}/{i}", p))
        return members, idle

    def _settings(self, members: dict[int, list[tuple[str, Any]]]) -> Settings | None:
        """Those of the groups with members, less the groups whose numbers are refused."""

        def settings_of(*groups: int) -> Settings:
            narrow = [
                next((path for path, p in members[g] if p.dtype == torch.float32), None)
                for g in groups
            ]
            return self._row.settings([self._param_groups[g] for g in groups], narrow)

        refused = (TypeError, ValueError, RuntimeError)
        try:
            return settings_of(*members) if members else None
        except refused:
            self._has_refused = True
        for g in list(members):
            try:
                settings_of(g)
            except refused as error:
                self._strangers += [(p, str(error)) for _, p in members.pop(g)]
        return settings_of(*members) if members else None

    def _planned(
        self, settings: Settings, members: Mapping[int, list[tuple[str, Any]]]
    ) -> _core.CpuPlan | None:
        """A plan, whose leaves are kept too; None where all is left to torch."""
        row = self._row
        self._groups = [self._param_groups[g] for g in members]
        names = [
            {name: key for name, key in row.states.items() if name in used}
            for used in settings.states
        ]
        for at, some in enumerate(members.values()):
            for path, p in some:
                leaf = self._leaf(p, path, at, list(names[at].values()))
                if isinstance(leaf, str):
                    self._strangers.append((p, leaf))
                else:
                    self._leaves.append(leaf)
        leaves = self._leaves
        if not leaves:
            return None
        try:
            plan = _core.CpuPlan(
                row.name,
                [leaf.path for leaf in leaves],
                [leaf.parameter for leaf in leaves],
                [{n: leaf.states[key] for n, key in names[leaf.group].items()} for leaf in leaves],
                [leaf.group for leaf in leaves],
                settings.table,
            )
        except (TypeError, ValueError) as error:  # such as parameters that share memory
            self._strangers += [(leaf.parameter, str(error)) for leaf in leaves]
            self._leaves = []
            return None
        plan.load(
            updates=[leaf.updates for leaf in leaves],
            attempted=0,
            applied=0,
            accumulated=(0.0, 0, 0.0, []),
            settings=settings.table,
            program=None,
            targets=[],
            nonfinite="propagate",
            values=self._values(),
        )
        self._targets = row.targets(settings)
        return plan

    def _leaf(self, p: Any, path: str, group: int, keys: list[str]) -> _Leaf | str:
        """A parameter with the state that it has, or zeros; or what is wrong with that."""
        row, state = self._row, self._state.get(p) or {}
        step = value = None
        updates = int(not row.counts and any(state.get(key) is not None for key in keys))
        if row.counts:
            step = state.get("step") if state else torch.tensor(0.0, dtype=_count_dtype())
            if reason := refusals.of_scalar("step", step):
                return reason
            assert step is not None
            updates = int(step.item())
            if state and updates == 0 and row.begins_from_lr:
                return "its state is that before the first update"
        if row.value:
            value = state.get(row.value) if state else torch.tensor(1.0, dtype=_count_dtype())
            if reason := refusals.of_scalar(row.value, value):
                return reason
        states: dict[str, Any] = {}
        for key in keys:
            tensor = state.get(key)
            if tensor is None:
                if state and row.counts:
                    return f"its state has no {key!r}"
                tensor = _zeros(p)
            elif reason := refusals.of_state(key, tensor, p):
                return reason
            elif not refusals.lie_alike(tensor, p):
                tensor = state[key] = _zeros(p).copy_(tensor.detach())
            states[key] = tensor
        is_new = any(state.get(key) is None for key in keys) or (row.counts and not state)
        scalars = {key: t for key, t in (("step", step), (row.value, value)) if t is not None}
        return _Leaf(p, path, group, states, scalars, updates, is_new)

    # Looking

    def gradients(self, optimizer: Any) -> list[Any] | None:
        """The gradients of what is updated natively; None if this engine is good no more."""
        if (
            optimizer.param_groups is not self._param_groups
            or optimizer.state is not self._state
            or not self._layout.is_current()
            or not self._state_now.is_current()
        ):
            return None
        if (self._has_tensors or not self._groups_now.is_current()) and not self._follow():
            return None
        if self._row.value and self._values() != self._handed:
            return None
        return self._tensors.gradients()

    def _values(self) -> list[list[float]]:
        """What updates hand on, as the state has it."""
        key = self._row.value
        return [[leaf.scalars[key].item()] for leaf in self._leaves] if key else []

    def _follow(self) -> bool:
        """Goes on with what the groups say now, where that takes no other engine."""
        if self._has_refused or len(self._param_groups) != len(self._lists):
            return False
        rows = zip(self._param_groups, self._lists, self._flags, strict=True)
        for group, parameters, flags in rows:
            if group["params"] is not parameters or self._row.flags_of(group) != flags:
                return False
        if self._plan is not None:
            try:
                numbers = self._numbers()
                if numbers != self._written:
                    self._plan.set_numbers(self._targets, numbers)
            except (TypeError, ValueError, RuntimeError):  # out of range, or a state is missing
                return False
        self._look_at_groups()
        return True

    def _numbers(self) -> tuple[float, ...]:
        return tuple(x for group in self._groups for x in self._row.numbers_of(group))

    def _look_at_groups(self) -> None:
        self._groups_now = _core.Snapshot(self._param_groups)
        self._written = () if self._plan is None else self._numbers()
        # the numbers of these change where the objects do not
        self._has_tensors = any(map(self._row.has_tensors, self._param_groups))

    # Stepping

    def others(self) -> list[Stranger]:
        """What can't be updated natively of what has a gradient."""
        return [stranger for stranger in self._strangers if stranger[0].grad is not None]

    def _hand_on(self, gradients: list[Any]) -> None:
        """Writes what the updates hand on to the state, and goes on with that, rounded."""
        assert self._plan is not None
        rows = zip(self._leaves, gradients, self._plan.values, strict=True)
        for leaf, gradient, (value,) in rows:
            if gradient is not None:
                leaf.scalars[self._row.value].fill_(value)
        self._handed = self._values()
        self._plan.set_values(self._handed)

    def mend(self, gradients: list[Any], reason: str) -> list[Stranger]:
        """Makes of gradients that a step has refused, for a reason, some that it takes.

        Puts a copy in the place of one that lies in another order, and None where there can be
        none. Returns whose these are: all, where it is none of them that can't be read.
        """
        unfit = self._tensors.unfit(gradients)
        left: list[Stranger] = []
        for i in unfit or range(len(gradients)):
            p, gradient = self._parameters[i], gradients[i]
            why = refusals.of_gradient(gradient, p) if unfit else reason
            if gradient is None:
                continue
            gradients[i] = None if why else _zeros(p).copy_(gradient.detach())
            if why:
                left.append((p, why))
        return left

    def step(self, gradients: list[Any], grad_scale: float) -> bool:
        """Updates what has a gradient; whether the engine is good for the next step, too.

        Raises TypeError or ValueError, with nothing changed, where a gradient can't be read as it
        is or shares memory with what is written, or a number is beyond the dtype.
        """
        assert self._plan is not None
        self._plan.step(gradients, grad_scale, None)
        if self._row.value:
            self._hand_on(gradients)
        updated = self._parameters
        if self._tensors.count(gradients) < len(updated):
            updated = [p for p, g in zip(updated, gradients, strict=True) if g is not None]
        torch.autograd.graph.increment_version(updated)
        if not self._new:
            return True
        found = [i for i in self._new if gradients[i] is not None]
        for i in found:
            if state := self._leaves[i].state:
                self._state[self._parameters[i]].update(state)
        is_good = len(found) == len(self._new)
        self._new = []
        self._state_now = _core.Snapshot(self._state)
        return is_good


def _zeros(p: Any) -> Any:
    """In the order of a parameter."""
    return torch.zeros_like(p, memory_format=torch.preserve_format, requires_grad=False)


def _count_dtype() -> Any:
    """That of torch's counts."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
