"""Parameters as named leaves of a nesting of containers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from .foreign import advice, where

_DEEPEST = 100  # containers inside each other


class Structure:
    """The nesting of a tree without its leaves: which containers, with which keys.

    Containers are mappings, lists, tuples, named tuples, and instances of dataclasses and of attrs
    classes; whatever else is a leaf. A leaf's path joins the keys, indices and names of fields that
    lead to it with slashes, as in ``dense1/w``; a tree that is one leaf has the path ``""``.

    Raises TypeError or ValueError, and ``what`` names the tree there, for a tree that contains
    itself or is nested more than 100 deep, and for keys without a name of their own.
    """

    __slots__ = ("_children", "_is_sequence", "_keys", "_path", "_type", "_width", "paths")

    paths: tuple[str, ...]
    _path: str
    _type: type
    _is_sequence: bool
    _width: int | None  # entries of this container; None for a leaf
    _keys: tuple[Any, ...]
    _children: tuple[Structure, ...] | None  # None: leaves all, taken in one sweep

    def __init__(
        self, tree: Any, what: str = "params", path: str = "", above: tuple[int, ...] = ()
    ) -> None:
        self._path, self._type, self._width, self._children = path, type(tree), None, None
        self._is_sequence = isinstance(tree, (list, tuple))
        self.paths, self._keys = (path,), ()
        entries = _entries(tree)
        if entries is None:
            return
        here = where(what, path)
        if id(tree) in above:
            raise ValueError(f"{here}: contains itself")
        if len(above) == _DEEPEST:
            raise ValueError(f"{here}: must be nested at most {_DEEPEST} deep")
        self._keys, self._width = tuple(entries), len(entries)
        prefix = f"{path}/" if above else ""
        above = (*above, id(tree))
        children = tuple(
            Structure(child, what, prefix + _name(key, here), above)
            for key, child in entries.items()
        )
        self.paths = tuple(path for child in children for path in child.paths)
        if any(child._width is not None for child in children):
            self._children = children

    def leaves(self, tree: Any, what: str) -> Sequence[Any]:
        """The leaves of a tree with this nesting, in the order of ``paths``.

        Any mapping with the same keys does for a mapping or an object, and any list or tuple of
        that length for another. Raises TypeError or ValueError where the nesting differs; ``what``
        names the tree there.
        """
        if self._width is None:
            return (tree,)
        entries = self._entries(tree, what)
        if self._children is None:
            return entries
        collected: list[Any] = []
        for child, entry in zip(self._children, entries, strict=True):
            if child._width is None:
                collected.append(entry)
            else:
                collected.extend(child.leaves(entry, what))
        return collected

    def _entries(self, tree: Any, what: str) -> Sequence[Any]:
        if self._is_sequence:
            if isinstance(tree, (list, tuple)) and len(tree) == self._width:
                return tree
        elif type(tree) is dict and len(tree) == self._width:
            try:
                return list(map(tree.__getitem__, self._keys))
            except KeyError:
                pass
        return self._entries_otherwise(tree, what)

    def _entries_otherwise(self, tree: Any, what: str) -> Sequence[Any]:
        """The entries of what is no list, tuple or dict, or an error."""
        if type(tree) is self._type and not isinstance(tree, (dict, list, tuple, Mapping)):
            return [getattr(tree, key) for key in self._keys]
        entries = _entries(tree)
        if entries is None or isinstance(tree, (list, tuple)) != self._is_sequence:
            expected = "list or tuple" if self._is_sequence else "dict"
            given = type(tree).__name__ + advice(tree)
            raise TypeError(
                f"{where(what, self._path)}: must be a {expected} as in params, not {given}"
            )
        if self._is_sequence:
            raise ValueError(
                f"{where(what, self._path)}: must have {self._width} entries as in params, "
                f"not {len(tree)}"
            )
        missing = [key for key in self._keys if key not in entries]
        unexpected = [key for key in entries if key not in self._keys]
        if missing or unexpected:
            raise ValueError(
                f"{where(what, self._path)}: must have the keys of params; missing {missing}, "
                f"unexpected {unexpected}"
            )
        return [entries[key] for key in self._keys]


def flatten(params: Any, what: str = "params") -> tuple[Structure, list[Any]]:
    """The nesting of a tree of parameters, and its leaves in the order of ``paths``.

    Raises ValueError for a tree without leaves, and for two leaves of one path; see `held`.
    """
    structure = Structure(params, what)
    if not structure.paths:
        raise ValueError(f"{what}: must hold at least one array")
    seen: set[str] = set()
    for path in structure.paths:
        if path in seen:
            raise ValueError(f"{what}: two arrays have the path {path!r}; rename one of the keys")
        seen.add(path)
    return structure, held(structure, params, what)


def held(structure: Structure, params: Any, what: str = "params") -> list[Any]:
    """The leaves of a tree of parameters, which its containers must hold.

    Raises TypeError where one makes up what it gives, as an `NpzFile` does: nobody would see the
    updates.
    """
    leaves = list(structure.leaves(params, what))
    again = structure.leaves(params, what)
    for path, leaf, other in zip(structure.paths, leaves, again, strict=True):
        if leaf is not other:
            raise TypeError(
                f"{where(what, path)}: is another object each time it is asked for: pass a dict of "
                "the arrays, and keep it"
            )
    return leaves


def snapshot(tree: Any, of_leaf: Callable[[Any], Any] = lambda leaf: leaf) -> Any:
    """The same nesting of the same leaves, which no change of the tree's containers changes.

    Or of what a function gives for each leaf, in the order of ``paths``.
    """
    found = _entries(tree)
    if found is None:
        return of_leaf(tree)
    copies = {key: snapshot(value, of_leaf) for key, value in found.items()}
    if not isinstance(tree, (list, tuple)):
        return copies
    make = getattr(type(tree), "_make", list if isinstance(tree, list) else tuple)
    return make(copies.values())


def merged(tree: Any, more: Any, what: str = "params", path: str = "") -> Any:
    """A tree with the entries of another one added: to its dicts, at any depth, and its lists.

    Raises TypeError or ValueError where that can't be done.
    """
    here = where(what, path)
    if isinstance(tree, list) and isinstance(more, (list, tuple)):
        return [*tree, *more]
    if not isinstance(tree, dict) or not isinstance(more, Mapping):
        raise TypeError(
            f"{here}: only the entries of a dict can be added to a dict, and a list to a list, not "
            f"{type(more).__name__} to {type(tree).__name__}"
        )
    grown = dict(tree)
    for key, value in more.items():
        inner = f"{path}/{key}" if path else str(key)
        if key not in tree:
            grown[key] = value
        elif _entries(value) is None:
            raise ValueError(f"{where(what, inner)}: is there already; pass what is new alone")
        else:
            grown[key] = merged(tree[key], value, what, inner)
    return grown


def escaped(path: str) -> str:
    """The pattern that matches this path alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)


def entries(tree: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Each container of a tree, with a key and what stands there, from the outermost inwards.

    For an object, the dict of its attributes is the container.
    """
    for key, value in (_entries(tree) or {}).items():
        has_keys = isinstance(tree, (Mapping, list, tuple))
        yield tree if has_keys else getattr(tree, "__dict__", ()), key, value
        yield from entries(value)


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern matches: ``*`` is any characters, ``?`` one, ``[ab]`` one of a set."""
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _entries(tree: Any) -> Mapping[Any, Any] | None:
    """What a container holds, by key, index or name; None for a leaf."""
    if isinstance(tree, Mapping):
        return dict(tree.items()) if not isinstance(tree, dict) else tree
    if isinstance(tree, (list, tuple)):
        return dict(zip(getattr(tree, "_fields", range(len(tree))), tree, strict=True))
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in dataclasses.fields(tree)]
    elif hasattr(type(tree), "__attrs_attrs__"):
        names = [field.name for field in type(tree).__attrs_attrs__]
    else:
        return None
    return {name: getattr(tree, name) for name in names}


def _name(key: Any, here: str) -> str:
    """A key as it stands in a path."""
    if repr(key) == object.__repr__(key):
        raise TypeError(f"{here}: keys must be text or numbers, not {key!r}")
    return str(key)
