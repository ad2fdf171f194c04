"""Expressions as one types them."""

from __future__ import annotations

from typing import Any

# name: symbol, precedence; equal precedences associate to the left, ** to the right
INFIX = {
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


def typed(expression: Any) -> str:
    """The text that gives the same expression when it is typed."""
    return _text(expression)[0]


def _text(node: Any) -> tuple[str, int]:
    """The text of a node, and how tightly it holds together."""
    if node.kind == "constant":
        return repr(node.value), _NEGATIVE if repr(node.value)[0] == "-" else _NUMBER
    if node.kind == "input":
        return node.name, _CALL
    if node.kind == "function":
        return f"function({node.call!r}, time={typed(node.time)})", _CALL
    if node.kind == "operation":
        return _operation(node.name, node.operands)
    if node.is_method:
        receiver, *rest = node.arguments.values()
        return f"{_held(receiver, _CALL)}.{node.name}({', '.join(map(repr, rest))})", _CALL
    if node.arguments is None:
        return node.name, _CALL
    given = (f"{k}={v!r}" for k, v in node.arguments.items() if not node.is_default(k))
    return f"{node.name}({', '.join(given)})", _CALL


def _operation(name: str, operands: Any) -> tuple[str, int]:
    if name == "negative":
        return f"-{_held(operands[0], _NEGATIVE)}", _NEGATIVE
    if name == "absolute":
        return f"abs({typed(operands[0])})", _CALL
    if name not in INFIX:
        return f"{name}({', '.join(map(typed, operands))})", _CALL
    symbol, level = INFIX[name]
    left, right = operands
    # Python would read a < b < c, and a ** b ** c, otherwise than as they stand here
    to_the_right = symbol == "**"
    left_needs = level + (to_the_right or level == _COMPARISON)
    right_needs = level if to_the_right else level + 1
    return f"{_held(left, left_needs)} {symbol} {_held(right, right_needs)}", level


def _held(node: Any, level: int) -> str:
    """The text, in parentheses if it holds together less tightly than it must."""
    text, own = _text(node)
    return text if own >= level else f"({text})"
