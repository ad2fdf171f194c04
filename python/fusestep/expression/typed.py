"""Expressions as one types them."""

from __future__ import annotations

from typing import Any, NamedTuple

from .traversal import tabulated

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


# A part gets a name of its own where it is used more than once and longer than this, or where it is
# deeper than this: so a text is about as long as the expression is large, and Python can parse it.
_LONGEST = 200
_DEEPEST = 30


class _Text(NamedTuple):
    """The text of a node, how tightly it holds together, and how deep it is."""

    text: str
    level: int
    depth: int = 0

    def held(self, level: int) -> str:
        """The text, in parentheses if it holds together less tightly than it must."""
        return self.text if self.level >= level else f"({self.text})"


def typed(expression: Any) -> str:
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
    if node.kind == "constant":
        return repr(node.value), _NEGATIVE if repr(node.value)[0] == "-" else _NUMBER
    if node.kind == "input":
        return node.name, _CALL
    if node.kind == "function":
        return f"function({node.name!r}, time={parts[0].text})", _CALL
    if node.kind == "operation":
        return _operation(node.name, parts)
    if node.kind == "cell":
        return "a value that changes", _CALL
    if node.arguments is None:
        return node.name, _CALL
    unused = iter(parts)
    texts = {name: _argument(value, unused) for name, value in node.arguments.items()}
    if node.is_method:
        receiver, *rest = texts.values()
        first = parts[0].held(_CALL) if parts else receiver
        return f"{first}.{node.name}({', '.join(rest)})", _CALL
    given = (f"{k}={text}" for k, text in texts.items() if not node.is_default(k))
    return f"{node.name}({', '.join(given)})", _CALL


def _argument(item: Any, parts: Any) -> str:
    if hasattr(item, "typed_with"):
        return str(next(parts).text)
    if isinstance(item, (list, tuple)):
        return f"[{', '.join(_argument(entry, parts) for entry in item)}]"
    return repr(item)


def _operation(name: str, operands: list[_Text]) -> tuple[str, int]:
    if name == "negative":
        return f"-{operands[0].held(_NEGATIVE)}", _NEGATIVE
    if name == "absolute":
        return f"abs({operands[0].text})", _CALL
    if name not in INFIX:
        return f"{name}({', '.join(operand.text for operand in operands)})", _CALL
    symbol, level = INFIX[name]
    left, right = operands
    # Python would read a < b < c, and a ** b ** c, otherwise than as they stand here
    to_the_right = symbol == "**"
    left_needs = level + (to_the_right or level == _COMPARISON)
    right_needs = level if to_the_right else level + 1
    return f"{left.held(left_needs)} {symbol} {right.held(right_needs)}", level
