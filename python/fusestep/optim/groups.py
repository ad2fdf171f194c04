"""Parameter groups: who belongs to which, and a group's own settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from .. import trees
from ..arguments import nearest
from .fields import Declared, Limit, Scalar, choice, flag, is_scheduled
from .outputs import Decay
from .rows import Lazy
from .settings import Settings
from .unit_clipping import Axis, Floor


class Group(Declared):
    """Some of an optimizer's parameters, with settings of their own.

    Every setting that an optimizer has for each group is an attribute here too: reading gives the
    value in force for the group, assigning sets it for this group alone.
    """

    __slots__ = ("_index", "_match", "_paths", "_settings")

    lr: Scalar = Scalar(1e-3)
    maximize: Final[bool] = flag(False)
    ema: Decay = Decay()
    agc: Limit = Limit(unset=0.0, is_global=False)
    agc_eps: Floor = Floor(1e-3)
    agc_axis: Final[int | None] = Axis.of(None)
    lazy: Final[Lazy] = choice(Lazy, "exact", column="lazy")

    def __init__(
        self, settings: Settings, index: int, match: tuple[str, ...] | None, paths: tuple[str, ...]
    ) -> None:
        self._settings = settings
        self._index = index
        self._match = match
        self._paths = paths

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the parameters."""
        return self._paths

    @property
    def match(self) -> tuple[str, ...] | None:
        """The patterns that chose the parameters, or None."""
        return self._match

    @property
    def schedules(self) -> dict[str, Any]:
        """The settings in force that are expressions, as they were set."""
        return {n: v for n, v in self._settings.of(self._index).items() if is_scheduled(v)}

    if not TYPE_CHECKING:  # a name that there is not is known to type checkers

        def __setattr__(self, name: str, value: Any) -> None:
            if not hasattr(type(self), name) and not type(self).__dictoffset__:
                raise _unknown(self, name)
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        own = "".join(f", {k}={v!r}" for k, v in self._settings.own(self._index).items())
        return f"Group({len(self.paths)} parameters, match={self.match!r}{own})"


def one_group(kind: type[Group]) -> type[Group]:
    """A class for groups alone, of one that an optimizer derives from.

    It has a ``__getattr__``, which would make each attribute of an optimizer slower.
    """

    def __getattr__(self: Group, name: str) -> Any:
        raise _unknown(self, name)

    return type(kind.__name__, (kind,), {"__slots__": (), "__getattr__": __getattr__})


def _unknown(holder: Group, name: str) -> AttributeError:
    known = [] if name[0] == "_" else holder._settings.of(holder._index)
    return AttributeError(f"no setting {name!r}{nearest(name, known)}")


class Division(NamedTuple):
    """How a user divided the parameters into groups."""

    tree: Any
    matches: list[tuple[str, ...] | None]
    own: list[dict[str, Any]]
    by_position: bool

    def tree_of(self, params: Any) -> Any:
        """The tree of parameters in what a user passes in the same form."""
        if not self.by_position or not isinstance(params, (list, tuple)):
            return params
        return [e["params"] if isinstance(e, Mapping) and "params" in e else e for e in params]

    def containers(self, params: Any) -> list[tuple[Any, Any, Any]]:
        """Where a user keeps parameters: containers, keys and what stands there."""
        if not self.by_position:
            return list(trees.entries(params))
        held = [(e, "params", e["params"]) for e in params if isinstance(e, Mapping)]
        return [*held, *(entry for tree in self.tree_of(params) for entry in trees.entries(tree))]

    def assign(self, paths: Sequence[str]) -> list[int]:
        """The group of each path; raises ValueError where a pattern chooses nothing."""
        if self.by_position:
            return [int(path.partition("/")[0]) for path in paths]
        assigned = [
            next((g for g, m in enumerate(self.matches) if m and trees.matches(path, m)), 0)
            for path in paths
        ]
        for g, match in enumerate(self.matches):
            if match is not None and g not in assigned:
                raise ValueError(
                    f"groups[{g - 1}]: no parameter matches {list(match)} that an earlier group "
                    f"has not; the paths are {_some(paths)}"
                )
        return assigned

    def narrow(self, paths: Sequence[str], leaves: Sequence[Any]) -> list[str | None]:
        """For each group the path of a parameter that is float32, or None."""
        found: list[str | None] = [None] * len(self.own)
        for path, group, leaf in zip(paths, self.assign(paths), leaves, strict=True):
            if found[group] is None and leaf.dtype == np.float32:
                found[group] = path
        return found

    def extended(
        self, params: Any, match: Any, settings: Mapping[str, Any], known: Sequence[str]
    ) -> Division:
        """With one more group, of parameters that are added to the others; see ``add_group``."""
        if self.by_position:
            if match is not None:
                raise ValueError("match: this optimizer was built with a list of groups, by place")
            added = divide(params, (), known)
            own = {**added.own[0], **_own_settings("add_group", settings, known)}
            return Division(
                [*self.tree, *added.tree], [*self.matches, None], [*self.own, own], True
            )
        own = _own_settings("add_group", settings, known)
        trees.flatten(params)  # there is at least one
        tree = trees.merged(self.tree, params)
        if match is None:
            present = set(trees.flatten(self.tree)[0].paths)
            paths = trees.flatten(tree)[0].paths
            match = [trees.escaped(path) for path in paths if path not in present]
        return Division(
            tree, [*self.matches, _patterns("add_group", match)], [*self.own, own], False
        )


def divide(params: Any, groups: Sequence[Mapping[str, Any]], known: Sequence[str]) -> Division:
    """Reads the two forms of groups.

    A list of dicts that each have the key "params" is torch's form: their trees, in a list, are the
    parameters. Otherwise group 0 holds what no pattern in ``groups`` matches.
    """
    by_position = isinstance(params, (list, tuple)) and any(
        isinstance(entry, dict) and "params" in entry for entry in params
    )
    if isinstance(groups, (str, Mapping)) or not isinstance(groups, Sequence):
        raise TypeError(f"groups must be a list of dicts, not {type(groups).__name__}")
    if by_position and groups:
        raise ValueError("groups: params is a list of groups already; use one form, not both")
    entries, name, key = (
        (params, "params", "params") if by_position else (groups, "groups", "match")
    )
    matches: list[tuple[str, ...] | None] = []
    own: list[dict[str, Any]] = []
    for i, entry in enumerate(entries):
        where = f"{name}[{i}]"
        if not isinstance(entry, Mapping) or key not in entry:
            raise ValueError(f"{where}: must be a dict with the key {key!r}, not {entry!r}")
        settings = {setting: value for setting, value in entry.items() if setting != key}
        matches.append(None if by_position else _patterns(where, entry["match"]))
        own.append(_own_settings(where, settings, known))
    if by_position:
        return Division([entry["params"] for entry in params], matches, own, True)
    return Division(params, [None, *matches], [{}, *own], False)


def _own_settings(where: str, settings: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    for setting in settings:
        if setting not in known:
            raise ValueError(f"{where}: no setting {setting!r}{nearest(setting, known)}")
    return dict(settings)


def _patterns(where: str, match: Any) -> tuple[str, ...]:
    patterns = (match,) if isinstance(match, str) else match
    if isinstance(patterns, (list, tuple)) and patterns and all(type(p) is str for p in patterns):
        return tuple(patterns)
    raise TypeError(f"{where}['match'] must be a pattern or a list of patterns, not {match!r}")


def _some(paths: Sequence[str]) -> str:
    shown = ", ".join(repr(path) for path in paths[:8])
    return shown + (", ..." if len(paths) > 8 else "")
