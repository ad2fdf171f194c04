"""Walks over expressions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


def walk(node: Any) -> Iterator[Any]:
    """An expression and all that it was made of, each once, in the order they are typed."""
    seen: set[int] = set()
    pending = [node]
    while pending:
        node = pending.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            pending += reversed(list(node.parts()))
