"""Expressions from text: only names of the vocabulary are ever called."""

from __future__ import annotations

import ast
import operator
import reprlib
import sys
from collections.abc import Callable
from typing import Any

from .combinators import METHODS
from .nodes import Expression, expression
from .traversal import folded
from .vocabulary import NAMES, VOCABULARY, known

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


# Python 3.10 makes a syntax tree as deep as it is told to, and crashes; later ones raise
_MOST_OPERATORS = 100_000 if sys.version_info < (3, 11) else sys.maxsize


def parse(text: str) -> Expression:
    """The expression that a text types, in the words of `fusestep.expression`, `schedules` and
    `control`. Nothing else can be called: it is safe for text from anywhere.

    Parts may be named before they are used, on lines of their own or before a semicolon, as in
    ``a = step / 100; a * a``: so a text can be as long as it must, while Python's parser takes only
    some levels of parentheses, and what is used twice is computed once.

    Raises:
        ValueError: the text is not an expression, holds an unknown name, or is too deep.
        TypeError: an argument does not fit.

    Example:
        >>> import fusestep as fs
        >>> fs.expression.parse("cosine(start=0.1, length=100) * 2")(step=50)
        0.1
    """
    if not isinstance(text, str):
        raise TypeError(f"an expression is read from text, not {reprlib.repr(text)}")
    if sum(map(text.count, "+-*/%<>~(.")) > _MOST_OPERATORS:
        raise ValueError(f"not an expression: {reprlib.repr(text)} (it is too long)")
    try:
        statements = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"not an expression: {reprlib.repr(text)} ({error})") from None
    parts: dict[str, Any] = {}
    for statement in statements[:-1]:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                if name in NAMES or name in VOCABULARY:
                    raise ValueError(f"{name} can't be the name of a part: it has a meaning")
                parts[name] = _value(value, parts, text)
            case _:
                raise _not_a_part(statement, text)
    if not statements or not isinstance(statements[-1], ast.Expr):
        raise ValueError(f"not an expression: {reprlib.repr(text)} (it ends without one)")
    return expression(_value(statements[-1].value, parts, text))


def _value(tree: ast.expr, named: dict[str, Any], text: str) -> Any:
    """What a syntax tree stands for: an expression, or an argument."""
    builds: dict[int, Callable[..., Any]] = {}

    def parts(node: ast.AST) -> list[ast.expr]:
        found = _opened(node, named)
        if found is None:
            raise _not_a_part(node, text)
        builds[id(node)] = found[0]
        return found[1]

    return folded(tree, parts, lambda node, values: builds[id(node)](*values))


def _opened(
    node: ast.AST, named: dict[str, Any]
) -> tuple[Callable[..., Any], list[ast.expr]] | None:
    """What builds a node's value, and the nodes whose values that takes."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return lambda: value, []
        case ast.Name(id=name):
            found = named[name] if name in named else known(name, NAMES, "name")
            return lambda: found, []
        case ast.List(elts=entries) | ast.Tuple(elts=entries):
            return lambda *values: list(values), entries
        case ast.UnaryOp(op=symbol, operand=operand) if type(symbol) in _OPERATORS:
            return _OPERATORS[type(symbol)], [operand]
        case ast.BinOp(op=symbol, left=left, right=right) if type(symbol) in _OPERATORS:
            return _between(symbol), [left, right]
        case ast.Compare(left=left, ops=[symbol], comparators=[right]) if (
            type(symbol) in _OPERATORS
        ):
            return _between(symbol), [left, right]
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            return _call(known(name, VOCABULARY, "function"), args, keywords)
        case ast.Call(func=ast.Attribute(value=receiver, attr=name), args=args, keywords=keywords):
            method = known(name, METHODS, "method")
            return _call(
                lambda first, *rest, **more: method(expression(first), *rest, **more),
                [receiver, *args],
                keywords,
            )
    return None


def _between(symbol: ast.AST) -> Callable[..., Any]:
    return lambda left, right: _OPERATORS[type(symbol)](expression(left), right)


def _call(
    call: Callable[..., Any], args: list[ast.expr], keywords: list[ast.keyword]
) -> tuple[Callable[..., Any], list[ast.expr]]:
    if any(isinstance(arg, ast.Starred) for arg in args) or any(k.arg is None for k in keywords):
        raise ValueError("arguments can't be unpacked with * in an expression")
    names = [str(k.arg) for k in keywords]
    n = len(args)
    return (
        lambda *values: call(*values[:n], **dict(zip(names, values[n:], strict=True))),
        [*args, *(k.value for k in keywords)],
    )


def _not_a_part(node: ast.AST, text: str) -> ValueError:
    source = ast.get_source_segment(text.strip(), node) or text
    return ValueError(f"not a part of an expression: {source[:80]}")
