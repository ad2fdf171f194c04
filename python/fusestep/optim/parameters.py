"""The arrays that an optimizer updates: looking at them, replacing them, adding more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from .. import _core, foreign, trees
from ..engines import Engine, Plan
from .accumulation import Accumulator
from .expressions import Expressions
from .groups import Division, Group
from .settings import Settings


class Parameters:
    """What an optimizer does with the arrays themselves."""

    __slots__ = ()

    _accumulator: Accumulator
    _containers: list[tuple[Any, Any, Any]]
    _copied: dict[str, Any]
    _division: Division
    _engine: Engine
    _expressions: Expressions
    _groups: tuple[Group, ...]
    _parameters: dict[str, Any]
    _plan: Plan
    _kind_of_group: ClassVar[type[Group]]
    _rule: ClassVar[str]
    _settings: Settings
    _states: dict[str, dict[str, Any]]
    _structure: trees.Structure

    @property
    def tree(self) -> Any:
        """The parameters in the nesting they were given in; objects with fields are dicts."""
        return trees.snapshot(self._division.tree)

    @property
    def state(self) -> dict[str, dict[str, Any]]:
        """The state arrays by path and name: the arrays themselves, not copies.

        Rows that have missed updates (see ``lazy``) catch up first.
        """
        self._plan.flush()
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
        if self._division.by_position:
            is_entry = isinstance(params, Mapping) and "params" in params
            added = [params if is_entry else {"params": params}]
        else:
            added = params
        division = self._division.extended(added, match, settings, self._settings.rule.group_names)
        structure, leaves = trees.flatten(division.tree)
        foreign.check_parameters(structure.paths, leaves)
        assigned = dict(zip(structure.paths, division.assign(structure.paths), strict=True))
        for g, group in enumerate(self._groups):
            for path in group.paths:
                if assigned[path] != g:
                    raise ValueError(
                        f"add_group: {match!r} matches {foreign.where('params', path)}, which is "
                        f"in groups[{g}] already"
                    )
        self._check_together({**self._settings.of(None), **division.own[-1]})
        more = self._division.containers(added)
        # those that stand in the user's own dicts as well
        dicts = {id(held): held for held, _, _ in self._containers if isinstance(held, dict)}
        more += [(d, k, v) for _, k, v in more for d in dicts.values() if d.get(k) is v]
        self._grow(structure, leaves, division, [*self._containers, *more])

    @classmethod
    def _check_together(cls, settings: Mapping[str, Any]) -> None:
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
            if plan.is_in_place:
                raise _core.StateError(
                    "the parameters hold their averages: leave averaged_in_place() first"
                )
            if plan.is_bound:
                raise _core.StateError("gradients are bound: bind(None) first")
            if plan.accumulated_samples > 0:
                raise _core.StateError(
                    "gradients are accumulated: step() or discard_accumulated() first"
                )
            if plan.is_captured:
                raise _core.StateError(
                    "a graph has captured a step of these parameters: build a new optimizer"
                )
            narrow = division.narrow(structure.paths, leaves)
            expressions = Expressions(self._expressions)
            settings = self._settings.extended(division.own[-1], narrow, expressions)
            plan.flush()
            updates = dict(zip(self._parameters, plan.updates, strict=True))
            values = dict(zip(self._parameters, plan.values, strict=True))
            first = [value[1] for value in _core.rules()[self._rule].values]
            state = {
                "updates": [updates.get(path, 0) for path in structure.paths],
                "values": [values.get(path, first) for path in structure.paths],
                "attempted": plan.attempted,
                "applied": plan.applied,
                "accumulated": (0.0, 0, 0.0, []),
                "nonfinite": plan.nonfinite,
            }
            made = self._made(structure, leaves, division, containers, settings, state)
            changes = [(group, "_settings", settings) for group in self._groups]
            for group, fresh in zip(self._groups, made["_groups"], strict=False):
                changes.append((group, "_paths", fresh.paths))
            made["_plan"].history = plan.history
            made["_groups"] = (*self._groups, *made["_groups"][len(self._groups) :])
            _core.commit([*changes, *((self, name, value) for name, value in made.items())])

    def _made(
        self,
        structure: trees.Structure,
        leaves: Sequence[Any],
        division: Division,
        containers: list[tuple[Any, Any, Any]],
        settings: Settings,
        state: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The attributes of an optimizer of these parameters, with the state that there is.

        ``state`` has the counts that it begins with, as `_core.CpuPlan.load` takes them.
        """
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
            kept,
            containers,
            [self._copied.get(path) for path in paths] if self._copied else [],
        )
        settings.expressions.attach(plan, settings.scheduled(), settings.table, state)
        parameters = dict(zip(paths, leaves, strict=True))
        groups = [
            self._kind_of_group(
                settings,
                g,
                match,
                tuple(p for p, at in zip(paths, assigned, strict=True) if at == g),
            )
            for g, match in enumerate(division.matches)
        ]
        return {
            "_accumulator": Accumulator(self._engine, plan, parameters),
            "_containers": containers,
            "_division": division,
            "_expressions": settings.expressions,
            "_groups": tuple(groups),
            "_parameters": parameters,
            "_paths": paths,
            "_plan": plan,
            "_settings": settings,
            "_states": dict(zip(paths, states, strict=True)),
            "_structure": structure,
        }
