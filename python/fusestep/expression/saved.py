"""Expressions as JSON values: a table of nodes, each of which names what was typed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .traversal import mapped, tabulated

VERSION = 2
KEY = "fusestep_expression"


def saved(expression: Any) -> dict[str, Any]:
    """An expression as a JSON value with the version of the form.

    ``nodes`` has each part before its use, as ``{"node": place}``, and the expression last.
    """
    nodes: list[Any] = []
    references: list[Any] = []
    for node, parts in tabulated(expression)[1]:
        value = _value(node, [references[part] for part in parts])
        if not parts and node.kind in ("constant", "input"):
            references.append(value)
        else:
            references.append({"node": len(nodes)})
            nodes.append(value)
    return {KEY: VERSION, "nodes": nodes or references}


def is_saved(value: Any) -> bool:
    """Whether a JSON value is an expression that ``saved`` gave."""
    return isinstance(value, Mapping) and KEY in value


def _value(node: Any, parts: list[Any]) -> Any:
    if node.kind == "constant":
        return node.value
    if node.kind == "input":
        return {"input": node.name}
    if node.kind == "operation":
        return {"operation": node.name, "of": parts}
    if node.kind == "function":
        return {"function": node.name, "time": parts[0]}
    if node.arguments is None:
        return {"call": node.name}
    places = iter(parts)
    arguments = mapped(node.arguments, lambda _: next(places))
    return {"call": node.name, "with": {k: _strict(v) for k, v in arguments.items()}}


def _strict(item: Any) -> Any:
    """Infinity and NaN in a form that strict JSON has."""
    if isinstance(item, (list, tuple)):
        return [_strict(entry) for entry in item]
    if isinstance(item, float) and not math.isfinite(item):
        return {"number": repr(item)}
    return item
