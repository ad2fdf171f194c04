"""Expressions as text, as JSON values, and as flat tables for pickle and copy."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .traversal import Node, expressions_in, folded, mapped, tabulated

KEY = "fusestep_expression"
VERSION = 2  # of the JSON form

# name: symbol, precedence; equal precedences associate to the left, ** to the right
_INFIX = {
    "less": ("<", 1),
    "less_equal": ("<=", 1),
    "add": ("+", 2),
    "subtract": ("-", 2),
    "multiply": ("*", 3),
    "divide": ("/", 3),
    "floor_divide": ("//", 3),
    "remainder": ("%", 3),
    "power": ("**", 5),
}
_COMPARISON, _NEGATIVE, _NUMBER, _CALL = 1, 4, 6, 7


# A part gets a name of its own where it is used more than once and longer than this, or where it is
# deeper than this: so a text is about as long as the expression is large, and Python can parse it.
_LONGEST = 200
_DEEPEST = 30


class Call(NamedTuple):
    """How something was written: the name of a function, and what it was called with.

    Args:
        name: of the function.
        arguments: all of them by name, also those left at their defaults. None: a name alone.
        defaults: what an argument is if it is not given.
        is_method: written after the first argument.
    """

    name: str
    arguments: Mapping[str, Any] | None = None
    defaults: Mapping[str, Any] | None = None
    is_method: bool = False

    def is_default(self, name: str, value: Any) -> bool:
        """Whether an argument would have that value if it were not given."""
        default = (self.defaults or {}).get(name, inspect.Parameter.empty)
        return type(value) is type(default) and repr(value) == repr(default)

    def given(self) -> dict[str, Any]:
        """The arguments that differ from their defaults."""
        items = (self.arguments or {}).items()
        return {name: value for name, value in items if not self.is_default(name, value)}

    def text(self, of: Callable[[Any], str] = repr) -> str:
        """The call as one writes it; ``of(argument)`` is the text of an argument."""
        if self.arguments is None:
            return self.name
        return f"{self.name}({', '.join(f'{k}={of(v)}' for k, v in self.given().items())})"


class _Text(NamedTuple):
    """The text of a node, how tightly it holds together, and how deep it is."""

    text: str
    level: int
    depth: int = 0

    def held(self, level: int) -> str:
        """The text, in parentheses if it holds together less tightly than it must."""
        return self.text if self.level >= level else f"({self.text})"


def written(expression: Any) -> str:
    """The text that gives the same expression when it is parsed.

    Where it is deep or uses long parts more than once, these come first: ``part1 = ...; ...``.
    """
    entries = tabulated(expression)[1]
    uses = [0] * len(entries)
    for _, parts in entries:
        for part in parts:
            uses[part] += 1
    texts: list[_Text] = []
    lines: list[str] = []
    for (node, parts), used in zip(entries, uses, strict=True):
        own = [texts[part] for part in parts]
        text, level = _text(node, own)
        depth = 1 + max((part.depth for part in own), default=0)
        if used and (depth >= _DEEPEST or (used > 1 and len(text) > _LONGEST)):
            name = f"part{len(lines) + 1}"
            lines.append(f"{name} = {text}")
            text, level, depth = name, _CALL, 0
        texts.append(_Text(text, level, depth))
    return "; ".join([*lines, texts[-1].text])


def _text(node: Any, parts: list[_Text]) -> tuple[str, int]:
    if node._kind == "constant":
        return repr(node._value), _NEGATIVE if repr(node._value)[0] == "-" else _NUMBER
    if node._kind == "input":
        return node._name, _CALL
    if node._kind == "function":
        return f"function({node._name!r}, time={parts[0].text})", _CALL
    if node._kind == "operation":
        return _operation(node._name, parts)
    if node._kind == "cell":
        return "a value that changes", _CALL
    call: Call = node._call
    if call.arguments is None:
        return call.name, _CALL
    if call.is_method:
        receiver, *rest = call.arguments.values()
        first = parts[0].held(_CALL) if parts else repr(receiver)
        return f"{first}.{call.name}({', '.join(map(repr, rest))})", _CALL
    unused = iter(parts)
    return call.text(lambda item: _argument(item, unused)), _CALL


def _argument(item: Any, parts: Any) -> str:
    if isinstance(item, Node):
        return str(next(parts).text)
    if isinstance(item, (list, tuple)):
        return f"[{', '.join(_argument(entry, parts) for entry in item)}]"
    return repr(item)


def _operation(name: str, operands: list[_Text]) -> tuple[str, int]:
    if name == "negative":
        return f"-{operands[0].held(_NEGATIVE)}", _NEGATIVE
    if name == "absolute":
        return f"abs({operands[0].text})", _CALL
    if name not in _INFIX:
        return f"{name}({', '.join(operand.text for operand in operands)})", _CALL
    symbol, level = _INFIX[name]
    left, right = operands
    # Python would read a < b < c, and a ** b ** c, otherwise than as they stand here
    to_the_right = symbol == "**"
    left_needs = level + (to_the_right or level == _COMPARISON)
    right_needs = level if to_the_right else level + 1
    return f"{left.held(left_needs)} {symbol} {right.held(right_needs)}", level


def saved(expression: Any) -> dict[str, Any]:
    """An expression as a JSON value with the version of the form.

    ``nodes`` has each part before its use, as ``{"node": place}``, and the expression last.
    """
    nodes: list[Any] = []
    references: list[Any] = []
    for node, parts in tabulated(expression)[1]:
        value = _json(node, [references[part] for part in parts])
        if not parts and node._kind in ("constant", "input"):
            references.append(value)
        else:
            references.append({"node": len(nodes)})
            nodes.append(value)
    return {KEY: VERSION, "nodes": nodes or references}


def is_saved(value: Any) -> bool:
    """Whether a JSON value is an expression that ``saved`` gave."""
    return isinstance(value, Mapping) and KEY in value


def _json(node: Any, parts: list[Any]) -> Any:
    if node._kind == "constant":
        return node._value
    if node._kind == "input":
        return {"input": node._name}
    if node._kind == "operation":
        return {"operation": node._name, "of": parts}
    if node._kind == "function":
        return {"function": node._name, "time": parts[0]}
    call: Call = node._call
    if call.arguments is None:
        return {"call": call.name}
    places = iter(parts)
    arguments = mapped(call.arguments, lambda _: next(places))
    return {"call": call.name, "with": {k: _strict(v) for k, v in arguments.items()}}


def _strict(item: Any) -> Any:
    """Infinity and NaN in a form that strict JSON has."""
    if isinstance(item, (list, tuple)):
        return [_strict(entry) for entry in item]
    if isinstance(item, float) and not math.isfinite(item):
        return {"number": repr(item)}
    return item


class _Place(NamedTuple):
    """Stands for the expression at that place in the table."""

    at: int


def taken_apart(root: Any) -> list[tuple[Any, Any]]:
    """The class and the arguments of each node, parts first; or None and a node with a state.

    So pickle and copy need not walk an expression recursively.
    """
    rows: list[tuple[Any, Any]] = []

    def fields(node: Any) -> Any:
        return () if node._remembers else node._rebuilt_from()

    def row(node: Any, parts: list[int]) -> int:
        places = map(_Place, parts)
        own = mapped(fields(node), lambda _: next(places))
        rows.append((None, node) if node._remembers else (type(node), own))
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
