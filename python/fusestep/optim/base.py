"""What all optimizers share: groups, the step, saved state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn, TypeAlias, cast

from .. import foreign, trees
from ..engines import engine_for
from .attributes import CommonSettings
from .groups import Group, divide
from .limits import Limits
from .parameters import Parameters
from .resuming import Resuming
from .schedule import Schedule, is_scheduled
from .settings import Number, Settings
from .stepping import Stepping

NonFinite: TypeAlias = Literal["propagate", "skip", "raise"]


class Optimizer(CommonSettings, Parameters, Resuming, Stepping):
    """Updates parameters in place, all of them in one native call.

    Not used by itself: `SGD`, `Adam` and the others bring the rule. What stands here holds for all.

    Args:
        params: float32 or float64 arrays, C-contiguous and writeable, in any nesting of dicts and
            other mappings, lists, tuples, named tuples and instances of dataclasses and attrs
            classes, or one array; all of NumPy, or all of CuPy on the current device. Or torch's
            form, a list of dicts, each with such a tree under "params" and settings of its own;
            gradients are then a list of trees.
        maximize: follow the gradient up instead of down.
        groups: settings for some of the parameters: dicts with a pattern on the path (or a list of
            patterns) under "match", as in ``{"match": "*/b", "weight_decay": 0.0}``. ``*`` is any
            characters; a parameter belongs to the first group that matches its path.
        clip_norm: if the norm of all gradients together exceeds this, they are scaled down to it:
            multiplied by ``clip_norm / norm``. None: no clipping. ``math.inf`` clips nothing and
            reports the norm. Under a finite one an infinite gradient makes the finite ones 0, and a
            NaN makes all NaN, as in torch (see ``nonfinite``).
        clip_value: gradient elements are clamped to [-clip_value, clip_value], after ``clip_norm``.
        nonfinite: for a gradient that holds NaN or infinity: "propagate" it, "skip" the step, or
            "raise" ValueError. The last two read all gradients once more, and then change neither
            parameters nor state nor counts of updates. Finite gradients are finite however large
            their squares and their sum: the norm is then taken of gradients scaled down, and is
            infinite only if it is itself beyond double.

    A number that float32 makes 0 or infinite is refused where a parameter is float32: when it is
    set, or, for an expression, by the step that meets it, which then changes nothing.

    Every number may also be an expression (see `fusestep.schedules`), or a Python function of the
    step, which can't be saved. Each step evaluates it for the number of updates applied so far.

    Every setting is an attribute: assigning ``opt.lr`` between steps holds for all groups without a
    value of their own, assigning ``opt.groups[1].lr`` for that group. Reading gives what the last
    step used; before the first what that is going to, or None where only the step is told. A number
    does not end a schedule: ``opt.lr = opt.schedules["lr"] * 0.5`` goes on with another one, and
    ``opt.lr = schedules.constant(0.1)`` ends it. What decides the arithmetic itself (True or False,
    and ``eps_mode``) is fixed when the optimizer is built.

    Parameters are checked then, and kept alive. A step looks whether their dicts and lists still
    hold them, and raises StateError if not; `rebind` goes on with other arrays, `add_group` with
    more of them.

    Raises:
        TypeError, ValueError: a parameter that cannot be updated in place, or a setting out of
            range. No array has changed.
    """

    __slots__ = (
        "__weakref__",
        "_accumulator",
        "_containers",
        "_division",
        "_engine",
        "_limits",
        "_parameters",
        "_plan",
        "_schedule",
        "_settings",
        "_states",
        "_structure",
        "groups",
    )

    _group = Group

    def __init__(
        self,
        params: Any,
        settings: Mapping[str, Any],
        *,
        groups: Sequence[Mapping[str, Any]],
        clip_norm: Number | None,
        clip_value: Number | None,
        nonfinite: NonFinite,
        fixed: Mapping[str, float] | None = None,
    ) -> None:
        division = divide(params, groups, list(settings))
        structure, leaves = trees.flatten(division.tree)
        containers = division.containers(params)
        division = division._replace(tree=trees.snapshot(division.tree))
        foreign.check_parameters(structure.paths, leaves)
        narrow = division.narrow(structure.paths, leaves)
        schedule = Schedule()
        typed = Settings(self._rule, settings, division.own, fixed or {}, schedule, narrow)
        for own in division.own:
            self._check_together({**settings, **own})
        limits = Limits(schedule, narrow)
        limits.put("clip_norm", clip_norm)
        limits.put("clip_value", clip_value)
        self._engine = engine_for(leaves)
        self._states = {}
        for name, made in self._made(
            structure, leaves, division, containers, typed, limits
        ).items():
            setattr(self, name, made)
        self.nonfinite = nonfinite

    def _get(self, name: str) -> Any:
        return self._settings.get(name)

    def _set(self, name: str, value: Any) -> None:
        self._settings.set(name, value)

    @property
    def clip_norm(self) -> float | None:
        """The largest norm of all gradients together, or None."""
        return self._limits.get("clip_norm")

    @clip_norm.setter
    def clip_norm(self, value: Number | None) -> None:
        self._limits.set("clip_norm", value)

    @property
    def clip_value(self) -> float | None:
        """The largest absolute value of a gradient element, or None."""
        return self._limits.get("clip_value")

    @clip_value.setter
    def clip_value(self, value: Number | None) -> None:
        self._limits.set("clip_value", value)

    @property
    def schedules(self) -> dict[str, Any]:
        """The settings that are expressions, as they were set; groups have theirs likewise."""
        typed = {**self._settings.defaults, **self._limits.typed}
        return {name: value for name, value in typed.items() if is_scheduled(value)}

    @property
    def nonfinite(self) -> NonFinite:
        """What happens at a gradient with NaN or infinity: "propagate", "skip" or "raise"."""
        return cast("NonFinite", self._plan.nonfinite)

    @nonfinite.setter
    def nonfinite(self, value: NonFinite) -> None:
        self._plan.nonfinite = value

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be copied or pickled: it writes arrays that others "
            "hold; build a new one and load_state_dict(state_dict())"
        )

    def __repr__(self) -> str:
        typed = {**self._settings.defaults, **self._limits.typed}
        shown = ", ".join(f"{name}={v!r}" for name, v in typed.items() if v is not None)
        groups = f" in {len(self.groups)} groups" if len(self.groups) > 1 else ""
        return f"{type(self).__name__}({len(self._states)} parameters{groups}, {shown})"
