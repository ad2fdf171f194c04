"""Expressions from JSON and from text: only names of the vocabulary are ever called."""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Callable, Mapping
from typing import Any

from .combinators import METHODS
from .nodes import Expression, Operation, expression
from .saved import KEY, VERSION
from .vocabulary import NAMES, VOCABULARY

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
# operations and how many operands they have
_OPERATIONS = {
    **dict.fromkeys(("add", "subtract", "multiply", "divide", "power", "minimum", "maximum"), 2),
    **dict.fromkeys(("floor_divide", "remainder", "less", "less_equal"), 2),
    **dict.fromkeys(("negative", "absolute", "floor", "sqrt", "exp", "log", "cospi"), 1),
    "where": 3,
}


def from_json(text: str | Mapping[str, Any]) -> Expression:
    """The expression that ``to_json`` wrote.

    Args:
        text: JSON text, or what it holds.

    Raises:
        ValueError: it is no expression, of a newer version, or holds an unknown name.
        TypeError: an argument does not fit.

    Example:
        >>> import fusestep as fs
        >>> lr = fs.schedules.cosine(start=0.1, length=100) * 2
        >>> fs.expression.from_json(lr.to_json()) == lr
        True
    """
    value = json.loads(text) if isinstance(text, str) else text
    if not isinstance(value, Mapping) or KEY not in value or "value" not in value:
        raise ValueError(f"a saved expression is a dict with {KEY!r} and 'value', not {value!r}")
    if value[KEY] != VERSION:
        raise ValueError(
            f"the expression is saved in form {value[KEY]!r}; this version knows {VERSION}"
        )
    return expression(_node(value["value"]))


def _node(value: Any) -> Any:
    """A node, or an argument of one."""
    if isinstance(value, list):
        return [_node(entry) for entry in value]
    if not isinstance(value, Mapping):
        return value
    if "input" in value:
        return _known(value["input"], NAMES, "clock input")
    if "operation" in value:
        count = _known(value["operation"], _OPERATIONS, "operation")
        operands = [_node(operand) for operand in value.get("of", ())]
        if len(operands) != count:
            raise ValueError(f"{value['operation']} takes {count} operands, not {len(operands)}")
        return Operation(value["operation"], tuple(operands))
    if "call" not in value:
        raise ValueError(f"not a part of an expression: {value!r}")
    name = value["call"]
    if "with" not in value:
        return _known(name, NAMES, "name")
    arguments = {k: _node(v) for k, v in value["with"].items()}
    if name in METHODS:
        method = _known(name, METHODS, "method")
        return method(expression(arguments.pop("expression", None)), **arguments)
    return _known(name, VOCABULARY, "function")(**arguments)


def _known(name: Any, names: Mapping[str, Any], what: str) -> Any:
    if not isinstance(name, str) or name not in names:
        raise ValueError(f"no {what} {name!r}; known are {', '.join(sorted(names))}")
    return names[name]


def parse(text: str) -> Expression:
    """The expression that a text types, in the words of `fusestep.expression`, `schedules` and
    `control`. Nothing else can be called: it is safe for text from anywhere.

    Raises:
        ValueError: the text is not an expression, or holds an unknown name.
        TypeError: an argument does not fit.

    Example:
        >>> import fusestep as fs
        >>> fs.expression.parse("cosine(start=0.1, length=100) * 2")(step=50)
        0.1
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"not an expression: {text!r} ({error})") from None
    return expression(_read(tree.body))


def _read(node: ast.AST) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return node.value
        case ast.Name(id=name):
            return _known(name, NAMES, "name")
        case ast.List(elts=entries) | ast.Tuple(elts=entries):
            return [_read(entry) for entry in entries]
        case ast.UnaryOp(op=symbol, operand=operand) if type(symbol) in _OPERATORS:
            value = _read(operand)
            return _OPERATORS[type(symbol)](value)
        case ast.BinOp(op=symbol, left=left, right=right) if type(symbol) in _OPERATORS:
            return _OPERATORS[type(symbol)](expression(_read(left)), _read(right))
        case ast.Compare(left=left, ops=[symbol], comparators=[right]) if (
            type(symbol) in _OPERATORS
        ):
            return _OPERATORS[type(symbol)](expression(_read(left)), _read(right))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            return _call(_known(name, VOCABULARY, "function"), args, keywords)
        case ast.Call(func=ast.Attribute(value=receiver, attr=name), args=args, keywords=keywords):
            method = _known(name, METHODS, "method")
            return _call(method, args, keywords, expression(_read(receiver)))
    raise ValueError(f"not a part of an expression: {ast.unparse(node)}")


def _call(call: Any, args: list[ast.expr], keywords: list[ast.keyword], *first: Any) -> Any:
    if any(isinstance(arg, ast.Starred) for arg in args) or any(k.arg is None for k in keywords):
        raise ValueError("arguments can't be unpacked with * in an expression")
    return call(*first, *map(_read, args), **{str(k.arg): _read(k.value) for k in keywords})
