"""Expressions with inputs of the clock replaced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def substituted(node: Any, inputs: Mapping[str, Any]) -> Any:
    """What a node stands for, with ``inputs[name]`` in place of each of these inputs."""
    done: dict[int, Any] = {}

    def replaced(node: Any) -> Any:
        if id(node) not in done:
            done[id(node)] = fresh(node)
        return done[id(node)]

    def fresh(node: Any) -> Any:
        if node.kind == "input":
            return inputs.get(node.name, node)
        if node.kind == "named":
            return replaced(node.body)
        if node.kind == "operation":
            return type(node)(node.name, tuple(map(replaced, node.operands)), node.table)
        if node.kind == "function":
            return type(node)(node.call, replaced(node.time))
        return node

    return replaced(node)
