"""The arrays that an optimizer updates: looking at them, replacing them, adding more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from .. import _core, foreign, trees
from ..engines import CudaPlan, Plan
from .accumulation import Accumulator
from .groups import Division, Group
from .limits import Limits
from .schedule import Schedule
from .settings import Settings


class Parameters:
    """The part of `Optimizer` that holds parameters and their state."""

    __slots__ = ()

    _accumulator: Accumulator
    _containers: list[tuple[Any, Any, Any]]
    _division: Division
    _engine: ModuleType
    _group: type[Group]
    _limits: Limits
    _parameters: dict[str, Any]
    _plan: Plan
    _rule: str
    _schedule: Schedule
    _settings: Settings
    _states: dict[str, dict[str, Any]]
    _structure: trees.Structure
    groups: tuple[Group, ...]

    @property
    def params(self) -> dict[str, Any]:
        """The parameters by path: the arrays themselves, not copies."""
        return dict(self._parameters)

    @property
    def tree(self) -> Any:
        """The parameters in the nesting they were given in; objects with fields are dicts."""
        return trees.snapshot(self._division.tree)

    @property
    def state(self) -> dict[str, dict[str, Any]]:
        """The state arrays by path and name: the arrays themselves, not copies."""
        return {path: dict(arrays) for path, arrays in self._states.items()}

    def rebind(self, params: Any) -> None:
        """Goes on with other arrays in place of the parameters, as after ``params["w"] = w2``.

        State, counts, settings and gradients that are bound or accumulated stay as they are. A step
        that a CUDA graph has captured goes on with the arrays before.

        Args:
            params: in the nesting that the optimizer was built with, and the shapes and dtypes.

        Raises TypeError or ValueError where an array does not fit, or can't be updated in place;
        then nothing has changed.

        Example:
            >>> import numpy as np, fusestep as fs
            >>> params = {"w": np.zeros(2)}
            >>> opt = fs.SGD(params, lr=1.0)
            >>> params["w"] = params["w"] + 5.0         # another array
            >>> opt.rebind(params)
            >>> opt.step({"w": np.ones(2)}).applied, params["w"]
            (True, array([4., 4.]))
        """
        division, tree = self._division, self._division.tree_of(params)
        leaves = trees.held(self._structure, tree)
        foreign.check_parameters(self._structure.paths, leaves)
        parameters = dict(zip(self._structure.paths, leaves, strict=True))
        containers = division.containers(params)
        changes = [
            (self, "_division", division._replace(tree=trees.snapshot(tree))),
            (self, "_containers", containers),
            (self, "_parameters", parameters),
            (self._accumulator, "_parameters", parameters),
        ]
        self._plan.rebind(leaves, containers, changes)

    def add_group(
        self, params: Any, *, match: str | Sequence[str] | None = None, **settings: Any
    ) -> None:
        """Adds parameters, which begin without state, as a group with settings of its own.

        The others keep their state, and all counts stay. The optimizer is then as if it had been
        built with both: gradients are nested like both together, and states may be loaded.

        Args:
            params: a dict whose entries are added to those of the parameters (at any depth), or a
                list that is appended. For an optimizer built in torch's form another tree, or a
                dict with it under "params" and settings of its own beside it.
            match: patterns for the paths of the new parameters. They follow those of ``groups``: a
                parameter that an earlier pattern matches belongs there. None: their paths.
            settings: as in an entry of ``groups``.

        Raises:
            TypeError, ValueError: parameters, patterns or settings that ``groups`` would not take,
                or that are there already.
            StateError: gradients are bound or accumulated, or a step was captured in a graph.
                In each case nothing has changed.

        Example:
            >>> import numpy as np, fusestep as fs
            >>> params = {"body": np.zeros(2)}
            >>> opt = fs.AdamW(params, lr=0.25)
            >>> params["head"] = np.zeros(1)
            >>> opt.add_group({"head": params["head"]}, lr=0.5)
            >>> opt.groups[1].lr, list(opt.params)
            (0.5, ['body', 'head'])
        """
        known = list(self._settings.defaults)
        if self._division.by_position:
            is_entry = isinstance(params, Mapping) and "params" in params
            added = [params if is_entry else {"params": params}]
        else:
            added = params
        division = self._division.extended(added, match, settings, known)
        structure, leaves = trees.flatten(division.tree)
        foreign.check_parameters(structure.paths, leaves)
        assigned = dict(zip(structure.paths, division.assign(structure.paths), strict=True))
        for g, group in enumerate(self.groups):
            for path in group.paths:
                if assigned[path] != g:
                    raise ValueError(
                        f"add_group: {match!r} matches {foreign.where('params', path)}, which is "
                        f"in groups[{g}] already"
                    )
        self._check_together({**self._settings.defaults, **division.own[-1]})
        more = self._division.containers(added)
        # those that stand in the user's own dicts as well
        dicts = {id(held): held for held, _, _ in self._containers if isinstance(held, dict)}
        more += [(d, k, v) for _, k, v in more for d in dicts.values() if d.get(k) is v]
        containers = [*self._containers, *more]
        self._grow(structure, leaves, division, containers)

    def _check_together(self, settings: Mapping[str, Any]) -> None:
        """Refuses settings that are good one by one but not together."""

    def _grow(
        self,
        structure: trees.Structure,
        leaves: Sequence[Any],
        division: Division,
        containers: list[tuple[Any, Any, Any]],
    ) -> None:
        """Goes on with one group more: checks all, then changes all at once."""
        plan = self._plan
        with plan.held():
            if plan.is_bound:
                raise _core.StateError("gradients are bound: bind(None) first")
            if plan.accumulated_samples > 0:
                raise _core.StateError(
                    "gradients are accumulated: step() or discard_accumulated() first"
                )
            if isinstance(plan, CudaPlan) and plan.is_captured:
                raise _core.StateError(
                    "a graph has captured a step of these parameters: build a new optimizer"
                )
            schedule = Schedule(before=self._schedule)
            narrow = division.narrow(structure.paths, leaves)
            settings = self._settings.extended(division.own[-1], schedule, narrow)
            limits = self._limits.for_plan(schedule, narrow)
            updates = dict(zip(self._parameters, plan.updates, strict=True))
            made = self._made(structure, leaves, division, containers, settings, limits)
            new = made["_plan"]
            new.updates = [updates.get(path, 0) for path in structure.paths]
            new.attempted, new.applied = plan.attempted, plan.applied
            new.nonfinite = plan.nonfinite
            changes = [(group, "_settings", settings) for group in self.groups]
            for group, fresh in zip(self.groups, made["groups"], strict=False):
                changes.append((group, "paths", fresh.paths))
            made["groups"] = (*self.groups, *made["groups"][len(self.groups) :])
            _core.commit([*changes, *((self, name, value) for name, value in made.items())])

    def _made(
        self,
        structure: trees.Structure,
        leaves: Sequence[Any],
        division: Division,
        containers: list[tuple[Any, Any, Any]],
        settings: Settings,
        limits: Limits,
    ) -> dict[str, Any]:
        """The attributes of an optimizer of these parameters, with the state that there is."""
        paths = structure.paths
        assigned = division.assign(paths)
        kept = [self._states.get(path, {}) for path in paths]
        plan, states = self._engine.build(
            self._rule,
            paths,
            leaves,
            assigned,
            settings.states,
            settings.table,
            limits.values,
            kept,
            containers,
        )
        settings.schedule.attach(plan)
        parameters = dict(zip(paths, leaves, strict=True))
        groups = [
            self._group(
                settings,
                g,
                match,
                tuple(p for p, at in zip(paths, assigned, strict=True) if at == g),
            )
            for g, match in enumerate(division.matches)
        ]
        return {
            "_containers": containers,
            "_accumulator": Accumulator(self._engine, plan, parameters),
            "_division": division,
            "_limits": limits,
            "_parameters": parameters,
            "_plan": plan,
            "_schedule": settings.schedule,
            "_settings": settings,
            "_states": dict(zip(paths, states, strict=True)),
            "_structure": structure,
            "groups": tuple(groups),
        }
