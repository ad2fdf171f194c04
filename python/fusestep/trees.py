"""Parameters as named leaves of a nesting of dict, list and tuple."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any


class Structure:
    """The nesting of a tree without its leaves: which containers, with which keys.

    Whatever is not a dict, list or tuple is a leaf. A leaf's path joins the keys and indices that
    lead to it with slashes, as in ``dense1/w``; a tree that is one leaf has the path ``""``.
    """

    __slots__ = ("_children", "_keys", "_path", "_width", "paths")

    paths: tuple[str, ...]
    _path: str
    _width: int | None  # entries of this container; None for a leaf
    _keys: tuple[Any, ...] | None  # None for a list or tuple
    _children: tuple[Structure, ...] | None  # None: leaves all, taken in one sweep

    def __init__(self, tree: Any, path: str = "", *, is_root: bool = True) -> None:
        self._path, self._width, self._keys, self._children = path, None, None, None
        self.paths = (path,)
        if not isinstance(tree, (dict, list, tuple)):
            return
        self._width = len(tree)
        if isinstance(tree, dict):
            self._keys = tuple(tree)
        entries = tree.items() if isinstance(tree, dict) else enumerate(tree)
        prefix = "" if is_root else f"{path}/"
        children = tuple(
            Structure(child, f"{prefix}{key}", is_root=False) for key, child in entries
        )
        self.paths = tuple(path for child in children for path in child.paths)
        if any(child._width is not None for child in children):
            self._children = children

    def leaves(self, tree: Any, what: str) -> Sequence[Any]:
        """The leaves of a tree with this nesting, in the order of ``paths``.

        Raises TypeError or ValueError where the nesting differs; ``what`` names the tree there.
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
        if self._keys is None:
            if isinstance(tree, (list, tuple)) and len(tree) == self._width:
                return tree
        elif isinstance(tree, dict) and len(tree) == self._width:
            try:
                return list(map(tree.__getitem__, self._keys))
            except KeyError:
                pass
        raise self._mismatch(tree, what)

    def _mismatch(self, tree: Any, what: str) -> Exception:
        where = f"{what}[{self._path!r}]" if self._path else what
        kind = (list, tuple) if self._keys is None else dict
        if not isinstance(tree, kind):
            expected = "list or tuple" if self._keys is None else "dict"
            given = type(tree).__name__
            return TypeError(f"{where}: must be a {expected} as in params, not {given}")
        if self._keys is None:
            expected = f"{self._width} entries as in params"
            return ValueError(f"{where}: must have {expected}, not {len(tree)}")
        missing = [key for key in self._keys if key not in tree]
        unexpected = [key for key in tree if key not in self._keys]
        return ValueError(
            f"{where}: must have the keys of params; missing {missing}, unexpected {unexpected}"
        )


def flatten(params: Any) -> tuple[Structure, list[Any]]:
    """The nesting of a tree of parameters, and its leaves in the order of ``paths``.

    Raises ValueError for a tree without leaves, and for two leaves of one path.
    """
    structure = Structure(params)
    if not structure.paths:
        raise ValueError("params: must hold at least one array")
    seen: set[str] = set()
    for path in structure.paths:
        if path in seen:
            raise ValueError(f"params: two arrays have the path {path!r}; rename one of the keys")
        seen.add(path)
    return structure, list(structure.leaves(params, "params"))


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern matches: ``*`` is any characters, ``?`` one, ``[ab]`` one of a set."""
    return any(fnmatchcase(path, pattern) for pattern in patterns)
