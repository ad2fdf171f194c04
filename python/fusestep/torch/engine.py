"""A plan over the tensors of an optimizer of torch, as they are at the moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .. import _core
from .rows import Row

_DTYPES = (torch.float32, torch.float64)
_PLAIN = (torch.Tensor, torch.nn.Parameter)


class Engine:
    """What can be updated natively, with its state; and what can't, with the reasons.

    It is built for what param_groups and state hold, and good until they hold something else:
    `gradients` looks at all of it. State that is missing becomes torch's with the first update.
    """

    def __init__(self, optimizer: Any, row: Row) -> None:
        self._row = row
        self._param_groups, self._state = optimizer.param_groups, optimizer.state
        self._lists = [group["params"] for group in self._param_groups]
        self._layout = _core.Snapshot(self._lists)
        self._flags = [row.flags_of(group) for group in self._param_groups]
        self.strangers: list[tuple[Any, str]] = []  # with what stands against them
        self._missing: list[int] = []  # parameters whose state is not torch's yet
        self._parameters: list[Any] = []
        self._states: list[dict[str, Any]] = []  # by torch's names
        self.plan: _core.CpuPlan | None = None
        self._build()
        self._look_at_groups()
        self._look_at_state()

    # Building

    def _build(self) -> None:
        row = self._row
        members: list[list[tuple[int, Any]]] = [[] for _ in self._lists]
        idle: list[Any] = []
        for g, parameters in enumerate(self._lists):
            refused = _refusal_of_group(self._param_groups[g])
            for i, p in enumerate(parameters):
                if p.grad is None and not self._state.get(p):
                    idle.append(p)
                elif reason := refused or _refusal_of(p):
                    self.strangers.append((p, reason))
                else:
                    members[g].append((i, p))
        self._groups = [g for g, some in enumerate(members) if some]
        settings = self._accepted(members)
        numbers: list[list[Any]] = []
        places: list[int] = []
        paths: list[str] = []
        updates: list[int] = []
        counters: list[Any] = []
        native: list[dict[str, Any]] = []
        for at, g in enumerate(self._groups):
            assert settings is not None
            names = {name: row.states[name] for name in settings.states[at]}
            for i, p in members[g]:
                taken = self._taken(p, names)
                if isinstance(taken, str):
                    self.strangers.append((p, taken))
                    continue
                state, count = taken
                if any(key not in (self._state.get(p) or ()) for key in state):
                    self._missing.append(len(self._parameters))
                self._parameters.append(p)
                self._states.append(state)
                native.append({name: state[key] for name, key in names.items()})
                numbers.append([state[key] for key in names.values()])
                counters.append(state.get("step"))
                updates.append(count)
                places.append(at)
                paths.append(f"{g}/{i}")
        self.tensors = _core.Tensors(
            parameters=self._parameters,
            states=numbers,
            counters=counters,
            updates=updates,
            idle=idle,
        )
        if settings is None or not self._parameters:
            return
        try:
            plan = _core.CpuPlan(
                row.name, paths, self._parameters, native, places, settings.table, [], []
            )
        except (TypeError, ValueError) as error:
            self._give_up(str(error), idle)
            return
        plan.load(
            updates=updates,
            attempted=0,
            applied=0,
            accumulated=(0.0, 0, 0.0, []),
            settings=settings.table,
            program=None,
            targets=[],
            nonfinite="propagate",
        )
        self.plan = plan
        self._targets = row.targets(settings)

    def _give_up(self, reason: str, idle: list[Any]) -> None:
        """Leaves all parameters to torch."""
        self.strangers += [(p, reason) for p in self._parameters]
        self._parameters, self._states, self._missing = [], [], []
        self.tensors = _core.Tensors(parameters=[], states=[], counters=[], updates=[], idle=idle)

    def _accepted(self, members: list[list[tuple[int, Any]]]) -> Any:
        """The settings of groups with members; what is out of range makes strangers of those."""
        row = self._row

        def settings_of(groups: list[int]) -> Any:
            narrow = [
                next((f"{g}/{i}" for i, p in members[g] if p.dtype == torch.float32), None)
                for g in groups
            ]
            return row.settings([self._param_groups[g] for g in groups], narrow)

        if not self._groups:
            return None
        try:
            return settings_of(self._groups)
        except (TypeError, ValueError, RuntimeError):
            pass
        for g in list(self._groups):
            try:
                settings_of([g])
            except (TypeError, ValueError, RuntimeError) as error:
                self.strangers += [(p, str(error)) for _, p in members[g]]
                self._groups.remove(g)
        return settings_of(self._groups) if self._groups else None

    def _taken(self, p: Any, names: Mapping[str, str]) -> tuple[dict[str, Any], int] | str:
        """The state tensors of a parameter by torch's names and its count; or what is wrong."""
        state = self._state.get(p) or {}
        counts, taken = self._row.counts, {}
        count = 0
        if counts:
            step = state.get("step")
            if not state:
                step = torch.tensor(0.0, dtype=_counter_dtype())
            if not isinstance(step, torch.Tensor):
                return f"its state has the step {step!r}, not a tensor"
            if step.device.type != "cpu" or step.dtype not in _DTYPES or step.numel() != 1:
                return "the step of its state is no float tensor of the CPU"
            number = float(step)
            if not 0 <= number < 2**53 or number != int(number):
                return f"its state has the step {number}"
            taken["step"], count = step, int(number)
        for key in names.values():
            tensor = state.get(key)
            if tensor is None:
                if counts and state:
                    return f"its state has no {key!r}"
                tensor = torch.zeros_like(
                    p, memory_format=torch.preserve_format, requires_grad=False
                )
            elif not counts:
                count = 1
            if type(tensor) is not torch.Tensor and type(tensor) is not torch.nn.Parameter:
                return f"{key!r} of its state is {type(tensor).__name__}"
            if tensor.dtype != p.dtype or tensor.device != p.device or tensor.shape != p.shape:
                return f"{key!r} of its state has another dtype, device or shape"
            if not _lie_alike(tensor, p):
                moved = torch.empty_like(p, memory_format=torch.preserve_format)
                tensor = state[key] = moved.requires_grad_(False).copy_(tensor.detach())
            taken[key] = tensor
        return taken, count

    # Looking

    def gradients(self, optimizer: Any) -> list[Any] | None:
        """The gradients of what is updated natively; None if this engine is good no more."""
        if optimizer.param_groups is not self._param_groups or optimizer.state is not self._state:
            return None
        if not self._layout.is_current() or not self._state_now.is_current():
            return None
        if (self._has_tensors or not self._groups_now.is_current()) and not self._follow():
            return None
        return self.tensors.gradients()

    def _follow(self) -> bool:
        """Goes on with what the groups say now, where that takes no other engine."""
        groups = self._param_groups
        if len(groups) != len(self._lists):
            return False
        for group, parameters, flags in zip(groups, self._lists, self._flags, strict=True):
            if group["params"] is not parameters or self._row.flags_of(group) != flags:
                return False
        try:
            numbers = self._numbers()
            if numbers != self._written and self.plan is not None:
                self.plan.set_numbers(self._targets, numbers)
        except (TypeError, ValueError, RuntimeError):  # out of range, or a state is missing
            return False
        self._look_at_groups()
        return True

    def _numbers(self) -> tuple[float, ...]:
        row, groups = self._row, self._param_groups
        if len(self._groups) == 1:
            return row.numbers_of(groups[self._groups[0]])
        return tuple(x for g in self._groups for x in row.numbers_of(groups[g]))

    def _look_at_groups(self) -> None:
        self._groups_now = _core.Snapshot(self._param_groups)
        self._written = self._numbers()
        # their values may change where the objects do not
        self._has_tensors = any(
            isinstance(x, torch.Tensor)
            for group in self._param_groups
            for name in self._row.numbers
            for x in (group[name] if isinstance(group[name], tuple) else (group[name],))
        )

    def _look_at_state(self) -> None:
        self._state_now = _core.Snapshot(self._state)

    # Stepping

    def others(self, gradients: list[Any]) -> list[tuple[Any, str]]:
        """What is left to torch of what has a gradient, with the reasons.

        Puts a copy in the place of a gradient that lies in another order, None where one is left.
        """
        left = [(p, reason) for p, reason in self.strangers if p.grad is not None]
        for i in self.tensors.unfit:
            p, gradient = self._parameters[i], gradients[i]
            reason = _refusal_of_gradient(gradient, p)
            gradients[i] = None
            if reason:
                left.append((p, reason))
            else:
                copy = torch.empty_like(p, memory_format=torch.preserve_format, requires_grad=False)
                gradients[i] = copy.copy_(gradient.detach())
        return left

    def with_gradient(self, gradients: list[Any], reason: str) -> list[tuple[Any, str]]:
        """The parameters that have one, each with a reason."""
        rows = zip(self._parameters, gradients, strict=True)
        return [(p, reason) for p, gradient in rows if gradient is not None]

    def step(self, gradients: list[Any], grad_scale: float) -> bool:
        """Updates what has a gradient; whether the engine is good for the next step, too.

        Raises ValueError, with nothing changed, where the numbers are beyond the dtype or a
        gradient shares memory with what is written.
        """
        assert self.plan is not None
        self.plan.step(gradients, grad_scale, None)
        updated = self._parameters
        if self.tensors.count(gradients) < len(updated):
            updated = [p for p, g in zip(updated, gradients, strict=True) if g is not None]
        torch.autograd.graph.increment_version(updated)
        if not self._missing:
            return True
        for i in self._missing:
            if gradients[i] is not None:
                self._state[self._parameters[i]].update(self._states[i])
        is_good = all(gradients[i] is not None for i in self._missing)
        self._missing = []
        self._look_at_state()
        return is_good


def _refusal_of_group(group: Mapping[str, Any]) -> str:
    """What a group asks for that only torch's own step does."""
    asked = [name for name in ("differentiable", "capturable") if group.get(name)]
    return f"{asked[0]}=True is torch's own" if asked else ""


def _refusal_of(p: Any) -> str:
    """Why a parameter can't be updated natively."""
    if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        return f"torch {torch.__version__} does not tell native code where tensors are; 2.10 does"
    if type(p) not in _PLAIN:
        return f"it is a {type(p).__name__}"
    if p.layout is not torch.strided or p.device.type != "cpu":
        return f"it is {str(p.layout).removeprefix('torch.')} on {p.device}"
    if p.dtype not in _DTYPES:
        return f"its dtype is {str(p.dtype).removeprefix('torch.')}, not float32 or float64"
    if p.is_neg() or not _is_dense(p):
        return "its elements are not dense in memory"
    return ""


def _is_dense(p: Any) -> bool:
    """Whether the elements lie side by side, each once, in some order of the axes."""
    run = 1
    for stride, extent in sorted(zip(p.stride(), p.shape, strict=True)):
        if extent > 1:
            if stride != run:
                return False
            run *= extent
    return True


def _lie_alike(tensor: Any, p: Any) -> bool:
    rows = zip(tensor.stride(), p.stride(), p.shape, strict=True)
    return all(one == other for one, other, extent in rows if extent > 1)


def _counter_dtype() -> Any:
    """That of torch's counts."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def _refusal_of_gradient(gradient: Any, p: Any) -> str:
    """Why a gradient can't be taken, not even by a copy."""
    if type(gradient) not in _PLAIN or gradient.layout is not torch.strided:
        return f"its gradient is a {type(gradient).__name__} of {gradient.layout}"
    if gradient.dtype != p.dtype or gradient.device != p.device or gradient.shape != p.shape:
        return "its gradient has another dtype, device or shape"
    return ""
