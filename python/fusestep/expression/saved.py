"""Expressions as JSON values: numbers, and dicts that name what was typed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VERSION = 1
KEY = "fusestep_expression"


def saved(expression: Any) -> dict[str, Any]:
    """An expression as a JSON value with the version of the form."""
    return {KEY: VERSION, "value": _value(expression)}


def is_saved(value: Any) -> bool:
    """Whether a JSON value is an expression that ``saved`` gave."""
    return isinstance(value, Mapping) and KEY in value


def _value(item: Any) -> Any:
    """A node or an argument of one."""
    kind = getattr(item, "kind", None)
    if kind is None:
        return [_value(entry) for entry in item] if isinstance(item, (list, tuple)) else item
    if kind == "constant":
        return item.value
    if kind == "input":
        return {"input": item.name}
    if kind == "function":
        raise TypeError(
            f"{item!r} can't be saved: it calls a Python function; write it as an expression"
        )
    if kind == "operation":
        return {"operation": item.name, "of": [_value(operand) for operand in item.operands]}
    if item.arguments is None:
        return {"call": item.name}
    return {"call": item.name, "with": {k: _value(v) for k, v in item.arguments.items()}}
