"""Walks over expressions, none of them recursive: they may be tens of thousands of nodes deep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple


class Node:
    """What walks know of an expression."""

    __slots__ = ()

    _kind: ClassVar[str]
    _remembers: ClassVar[bool] = False  # has a state of its own

    def _written_with(self) -> tuple[Any, ...]:
        """What tells it from others of its kind, with the expressions that it was made of."""
        raise NotImplementedError

    def _rebuilt_from(self) -> tuple[Any, ...]:
        """What its class is called with to make the same again."""
        return self._written_with()

    def _parts(self) -> Iterator[Any]:
        """The expressions that this one was made of."""
        return expressions_in(self._written_with())


def folded(
    root: Any,
    parts: Callable[[Any], Iterable[Any]],
    combine: Callable[[Any, list[Any]], Any],
    done: dict[int, Any] | None = None,
) -> Any:
    """``combine(node, results of its parts)`` of a node, computed once for each and parts first.

    ``done`` has the results by identity; whoever passes one keeps the nodes alive.
    """
    results: dict[int, Any] = {} if done is None else done
    pending = [(root, list(parts(root)))]
    while pending:
        node, own = pending[-1]
        missing = [part for part in own if id(part) not in results]
        if id(node) in results:
            pending.pop()
        elif missing:
            pending += [(part, list(parts(part))) for part in reversed(missing)]
        else:
            results[id(node)] = combine(node, [results[id(part)] for part in own])
            pending.pop()
    return results[id(root)]


def computed_from(node: Any) -> tuple[Any, ...]:
    """The expressions whose values a node's value is computed from."""
    if node._kind == "named":
        return (node._body,)
    if node._kind == "function":
        return (node._time,)
    operands: tuple[Any, ...] = node._operands if node._kind == "operation" else ()
    return operands


def substituted(node: Any, inputs: Mapping[str, Any]) -> Any:
    """What a node stands for, with ``inputs[name]`` in place of each of these inputs."""

    def fresh(node: Any, parts: list[Any]) -> Any:
        if node._kind == "input":
            return inputs.get(node._name, node)
        if node._kind == "named":
            return parts[0]
        if node._kind == "operation":
            return type(node)(node._name, tuple(parts), node._table)
        if node._kind == "function":
            return type(node)(node._call, parts[0], node._name)
        return node

    return folded(node, computed_from, fresh)


def walk(node: Any) -> Iterator[Any]:
    """An expression and all that it was made of, each once, in the order they are written."""
    seen: set[int] = set()
    pending = [node]
    while pending:
        node = pending.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            pending += reversed(list(node._parts()))


class Entry(NamedTuple):
    """A node, and where in the table the expressions stand that it was written with."""

    node: Any
    parts: list[int]


def tabulated(root: Any, *, exact: bool = True) -> tuple[list[Any], list[Entry]]:
    """An expression as a table with each part once, before its use, and the expression last.

    What is written alike is one entry: two expressions are written the same way if their keys,
    which come first, are equal. ``exact`` tells 1 from 1.0, and apart what has a state of its own.
    """
    known: dict[Any, int] = {}
    entries: list[Entry] = []

    def place(node: Any, parts: list[int]) -> int:
        own = id(node) if exact and node._remembers else None
        key = (node._kind, own, mapped(node._written_with(), lambda _: _Part, exact), *parts)
        if key not in known:
            known[key] = len(entries)
            entries.append(Entry(node, parts))
        return known[key]

    folded(root, lambda node: node._parts(), place)
    return list(known), entries


class _Part:
    """Stands for an expression in a key."""


def mapped(item: Any, of_expression: Callable[[Any], Any], exact: bool | None = None) -> Any:
    """An argument with something else in place of each expression in it.

    With ``exact`` it is a key: tuples for lists, and -0.0 is not 0.0.
    """
    if isinstance(item, Node):
        return of_expression(item)
    if isinstance(item, (list, tuple)):
        entries = [mapped(entry, of_expression, exact) for entry in item]
        return entries if exact is None and isinstance(item, list) else tuple(entries)
    if isinstance(item, Mapping):
        pairs = {name: mapped(entry, of_expression, exact) for name, entry in item.items()}
        return pairs if exact is None else tuple(pairs.items())
    if exact is None:
        return item
    text = repr(item) if isinstance(item, (int, float)) else item
    return text if exact or text == "-0.0" else item


def expressions_in(item: Any) -> Iterator[Any]:
    """The expressions in an argument, in the order they are written."""
    if isinstance(item, Node):
        yield item
    elif isinstance(item, (list, tuple)):
        for entry in item:
            yield from expressions_in(entry)
    elif isinstance(item, Mapping):
        for entry in item.values():
            yield from expressions_in(entry)
