"""Expressions as flat tables, for pickle and copy, which would walk them recursively."""

from __future__ import annotations

from typing import Any, NamedTuple

from .traversal import expressions_in, folded, mapped


class _Place(NamedTuple):
    """Stands for the expression at that place in the table."""

    at: int


def taken_apart(root: Any) -> list[tuple[Any, Any]]:
    """The class and the arguments of each node, parts first; or None and a node with memories."""
    rows: list[tuple[Any, Any]] = []

    def fields(node: Any) -> Any:
        return () if node.remembers else node.fields()

    def row(node: Any, parts: list[int]) -> int:
        places = map(_Place, parts)
        own = mapped(fields(node), lambda _: next(places))
        rows.append((None, node) if node.remembers else (type(node), own))
        return len(rows) - 1

    folded(root, lambda node: expressions_in(fields(node)), row)
    return rows


def assembled(rows: list[tuple[Any, Any]]) -> Any:
    """The expression that ``taken_apart`` took apart."""
    nodes: list[Any] = []
    for kind, fields in rows:
        nodes.append(fields if kind is None else kind(*_filled(fields, nodes)))
    return nodes[-1]


def _filled(item: Any, nodes: list[Any]) -> Any:
    if isinstance(item, _Place):
        return nodes[item.at]
    if isinstance(item, (list, tuple)):
        return type(item)(_filled(entry, nodes) for entry in item)
    if isinstance(item, dict):
        return {name: _filled(entry, nodes) for name, entry in item.items()}
    return item
