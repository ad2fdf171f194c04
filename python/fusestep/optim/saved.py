"""What an optimizer saves, and how it goes on from it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from .. import _core
from ..control.base import tell_unseen
from ..engines import Engine, Plan
from ..engines.states import first_value
from ..memory import Changes
from .accumulation import Accumulator
from .expressions import Expressions, controls_of
from .formats import FORMAT
from .groups import Group
from .loading import Loaded, Reading, Request, as_json
from .settings import Place, Settings


class Saved:
    """What an optimizer does with its state as a whole."""

    __slots__ = ()

    _accumulator: Accumulator
    _copied: dict[str, Any]
    _engine: Engine
    _expressions: Expressions
    _groups: tuple[Group, ...]
    _parameters: dict[str, Any]
    _plan: Plan
    _rule: ClassVar[str]
    _settings: Settings
    _states: dict[str, dict[str, Any]]

    def state_dict(self) -> dict[str, Any]:
        """All that decides later steps but the parameters: copies of arrays, and JSON values.

        ``json.dumps(..., allow_nan=False)`` takes all but the arrays. Python functions in it are
        names.
        """
        with self._state_in_place() as state:
            for entry in state["parameters"].values():
                copies = {name: self._engine.to_numpy(a) for name, a in entry["state"].items()}
                entry["state"] = copies
            sums = state["accumulated"]["gradients"]
            held = {path: sum for path, sum in sums.items() if sum is not None}
            sums.update({path: self._engine.to_numpy(sum) for path, sum in held.items()})
            return state

    @contextmanager
    def _state_in_place(self) -> Iterator[dict[str, Any]]:
        """The state with the arrays themselves, while no other thread takes a step."""
        with self._plan.held():
            tell_unseen(self._expressions.controls, None, self._plan.applied, now=True)
            self._plan.flush()
            yield self._saved_form()

    def load_state_dict(
        self,
        state: Mapping[str, Any],
        *,
        keep: Sequence[str] = (),
        strict: bool = True,
        rename: Mapping[str, str] | None = None,
    ) -> Loaded:
        """Goes on from a ``state_dict``: later steps have the bits of the run that never stopped.

        Args:
            state: what ``state_dict`` gave, for an optimizer of this class, of the same parameters
                and groups. JSON may have been in between.
            keep: settings whose present values stay, as in ``keep=("lr",)``, and what the controls
                in them remember.
            strict: False takes what the state has of this optimizer's parameters and groups: the
                state of other parameters begins anew, and other groups keep their settings. To
                leave a parameter out, delete its entry from ``state["parameters"]``.
            rename: paths in the state and what they are called here.

        Returns:
            ``new``, ``renamed`` and ``unused``: the parameters in which the two differ.

        Raises:
            StateError: names every difference between the two. Nothing has changed.
            ValueError: ``keep`` names no setting.

        Warns:
            UserWarning: a saved setting takes the place of another schedule that this optimizer was
                built with. Where warnings are errors, nothing has changed.

        Example:
            >>> import numpy as np, fusestep as fs
            >>> state = fs.Adam({"body": np.ones(2), "old": np.ones(3)}).state_dict()
            >>> opt = fs.Adam({"body": np.ones(2), "new": np.ones(5)})
            >>> opt.load_state_dict(state, strict=False)
            Loaded(new=('new',), renamed=(), unused=('old',))
        """
        unknown = set(keep) - {*self._settings.rule.fields, "nonfinite"}
        if unknown:
            raise ValueError(f"keep: no setting {sorted(unknown)}")
        with self._plan.held():
            reading = Reading(
                state,
                Request(
                    self._saved_form(),
                    self._settings,
                    self._parameters,
                    self._written(),
                    keep,
                    strict,
                    rename or {},
                ),
            )
            for text in reading.replaced:
                warnings.warn(text, stacklevel=2)
            accumulated, copies = self._accumulator.load(reading.totals, reading.sums)
            self._commit(
                reading.settings,
                reading.changes,
                nonfinite=reading.nonfinite,
                updates=reading.updates,
                values=reading.values,
                attempted=reading.attempted,
                applied=reading.applied,
                accumulated=accumulated,
                arrays=[*self._copies(reading.arrays), *copies],
            )
            return reading.loaded

    def reset(self) -> None:
        """Begins anew: state arrays, counts and what controls remember are those of the beginning.

        What is accumulated is forgotten. Parameters and settings stay as they are.
        """
        with self._plan.held():
            accumulated, _ = self._accumulator.load((0.0, 0, 0.0), {})
            values = self._settings.values
            controls = {id(c): c for value in values.values() for c in controls_of(value)}
            self._commit(
                values,
                [change for control in controls.values() for change in control._resetting()],
                nonfinite=self._plan.nonfinite,
                updates=[0] * len(self._states),
                attempted=0,
                applied=0,
                accumulated=accumulated,
                arrays=self._copies({}),
            )

    def _returning(self, changes: Changes) -> Callable[[], None]:
        """A call that makes all as it is now, as often as wanted: parameters, state, settings.

        What settings read is among it, and the changes are made too: on a CPU in one native call.
        Room for accumulated gradients must not be made in between.
        """
        plan, settings = self._plan, self._settings
        with plan.held():
            if plan.is_in_place:
                raise _core.StateError(
                    "the parameters hold their averages: leave averaged_in_place() first"
                )
            plan.flush()
            state = {
                "updates": plan.updates,  # waits for what writes the arrays
                "values": plan.values,
                "attempted": plan.attempted,
                "applied": plan.applied,
                "accumulated": plan.accumulated,
                "nonfinite": plan.nonfinite,
            }
            arrays = [*self._parameters.values(), *self._copied.values(), *self._accumulator.arrays]
            arrays += [array for states in self._states.values() for array in states.values()]
            state["arrays"] = [(array, array.copy()) for array in arrays]
            changes = [*changes, (settings, "values", settings.values)]
            return self._expressions.returning(settings.scheduled(), changes, state)

    def _commit(self, settings: Mapping[Place, Any], changes: Changes, **state: Any) -> None:
        """Takes over settings and a state; all of it or, raising, nothing."""
        try:
            draft = self._settings.replaced(settings)
        except (TypeError, ValueError, _core.StateError) as error:
            raise _core.StateError(f"the state does not fit this optimizer:\n  {error}") from None
        self._settings.take(draft, changes, state)

    def _copies(self, saved: Mapping[tuple[str, str], Any]) -> list[tuple[Any, Any]]:
        """State arrays and what they take over: saved ones, or as they begin; None for zeros."""
        pairs = []
        for path, arrays in self._states.items():
            for name, array in arrays.items():
                source = saved.get((path, name))
                if source is None:
                    first = first_value(self._rule, name)
                    if first is None:
                        source = self._engine.to_numpy(self._parameters[path])
                    elif first != 0:
                        source = np.full(array.shape, first, array.dtype)
                pairs.append((array, source))
        return pairs

    def _written(self) -> list[Any]:
        """The memory of NumPy that a load writes: arrays lie side by side in a few allocations."""
        arrays = [array for state in self._states.values() for array in state.values()]
        arrays += self._accumulator.arrays
        found = [a if a.base is None else a.base for a in arrays if isinstance(a, np.ndarray)]
        return list({id(memory): memory for memory in found}.values())

    def _class_name(self) -> str:
        """Of the class of this package: one that a user derives from it has its arithmetic."""
        package = __name__.partition(".")[0]
        classes = type(self).__mro__
        return next(c.__name__ for c in classes if c.__module__.partition(".")[0] == package)

    def _saved_form(self) -> dict[str, Any]:
        """The state as it is saved, with the arrays themselves."""
        settings = self._settings
        held = {str(place): list(controls_of(value)) for place, value in settings.values.items()}
        plan = self._plan
        names = [value[0] for value in _core.rules()[self._rule].values]
        parameters: dict[str, dict[str, Any]] = {}
        for (path, arrays), updates, values in zip(
            self._states.items(), plan.updates, plan.values, strict=True
        ):
            parameters[path] = {"updates": updates, "state": arrays}
            if names:
                parameters[path]["values"] = dict(zip(names, values, strict=True))
        return {
            "format": FORMAT,
            "class": self._class_name(),
            "rule": self._rule,
            "settings": {name: as_json(value) for name, value in settings.of(None).items()},
            "groups": [
                {
                    "match": group.match and list(group.match),
                    "settings": {name: as_json(value) for name, value in settings.own(g).items()},
                }
                for g, group in enumerate(self._groups)
            ],
            "nonfinite": self._plan.nonfinite,
            "control": {
                where: [control.state_dict() for control in controls]
                for where, controls in held.items()
                if controls
            },
            "attempted": self._plan.attempted,
            "applied": self._plan.applied,
            "accumulated": self._accumulator.saved_form(),
            "parameters": parameters,
        }
