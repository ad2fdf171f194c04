"""Expressions from JSON and from text: only names of the vocabulary are ever called."""

from __future__ import annotations

import ast
import json
import operator
import reprlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from .nodes import METHODS, Expression, Function, Operation, expression
from .traversal import folded, tabulated
from .vocabulary import NAMES, RENAMED, RENAMED_ARGUMENTS, VOCABULARY, known
from .writing import KEY, VERSION

# operations and how many operands they have
_OPERATIONS = {
    **dict.fromkeys(("add", "subtract", "multiply", "divide", "power", "minimum", "maximum"), 2),
    **dict.fromkeys(("floor_divide", "remainder", "less", "less_equal"), 2),
    **dict.fromkeys(("negative", "absolute", "floor", "sqrt", "exp", "log", "cospi"), 1),
    "where": 3,
}
_NUMBERS = {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}
_ROOMS = ("presets", "scaling")  # what dotted names begin with
_DEEPEST = 100  # lists and dicts in each other
_short = reprlib.repr

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


# Python 3.10 crashes on a syntax tree that is too deep; later versions raise
_MOST_OPERATORS = 100_000 if sys.version_info < (3, 11) else sys.maxsize


def from_json(
    text: str | Mapping[str, Any],
    *,
    functions: Mapping[str, Callable[[Any], float]] | None = None,
    like: Expression | None = None,
) -> Expression:
    """The expression that ``to_json`` wrote.

    Args:
        text: JSON text, or what it holds.
        functions: the Python functions it may call, by the names they are saved under (see
            `function`).
        like: an expression that has these functions, for example the one that a resumed program
            has built: those of the same name are taken from it, in the order they are written.

    Raises:
        ValueError: it is no expression, of a newer version, or holds an unknown name; or it calls a
            Python function of which neither ``functions`` nor ``like`` has the name.
        TypeError: an argument does not fit.

    Example:
        >>> import fusestep as fs
        >>> lr = fs.schedules.cosine(start=0.1, length=100) * 2
        >>> fs.expression.from_json(lr.to_json()) == lr
        True
    """
    try:
        value = json.loads(text) if isinstance(text, str) else text
    except RecursionError:
        raise ValueError("a saved expression is not that deep: it is a list of nodes") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {_short(text)} ({error})") from None
    body = {1: "value", VERSION: "nodes"}  # form 1 was one node with all others inside
    if not isinstance(value, Mapping) or KEY not in value:
        raise ValueError(
            f"a saved expression is a dict with {KEY!r} and 'nodes', not {_short(value)}"
        )
    form = value[KEY]
    if type(form) is not int or form not in body:
        raise ValueError(
            f"the expression is saved in form {_short(form)}; this version knows 1 and {VERSION}"
        )
    if body[form] not in value:
        raise ValueError(f"a saved expression of form {form} has {body[form]!r}: {_short(value)}")
    nodes = value[body[form]] if form == VERSION else [value["value"]]
    if not isinstance(nodes, list) or not nodes:
        raise ValueError(f"nodes must be a list of at least one, not {_short(nodes)}")
    reader = _Reader(dict(functions or {}), like)
    for node in nodes:
        reader.done.append(reader.read(node, 0))
    return expression(reader.done[-1])


class _Reader:
    """Reads nodes, each from those before it."""

    def __init__(self, functions: Mapping[str, Any], like: Expression | None) -> None:
        self.done: list[Any] = []
        self._functions = functions
        entries = [] if like is None else tabulated(like)[1]
        self._present = [e.node for e in entries if isinstance(e.node, Function)]
        self._read: dict[int, Any] = {}  # by identity: a list or dict may stand in many places

    def read(self, value: Any, depth: int) -> Any:
        """A node, or an argument of one."""
        if depth > _DEEPEST:
            raise ValueError(f"a saved expression has lists and dicts at most {_DEEPEST} deep")
        if not isinstance(value, (list, tuple, Mapping)):
            return value
        if id(value) not in self._read:
            self._read[id(value)] = (
                self._node(value, depth)
                if isinstance(value, Mapping)
                else [self.read(entry, depth + 1) for entry in value]
            )
        return self._read[id(value)]

    def _node(self, value: Mapping[str, Any], depth: int) -> Any:
        if "node" in value:
            place = value["node"]
            if type(place) is not int or not 0 <= place < len(self.done):
                raise ValueError(f"a node must stand before its use: {_short(value)}")
            return self.done[place]
        if "input" in value:
            return known(value["input"], NAMES, "clock input")
        if "number" in value:
            return known(value["number"], _NUMBERS, "number")
        if "function" in value:
            time = expression(self.read(value.get("time"), depth + 1))
            return Function(self._function(value["function"]), time, value["function"])
        if "operation" in value:
            count = known(value["operation"], _OPERATIONS, "operation")
            operands = self.read(value.get("of"), depth + 1)
            if not isinstance(operands, list) or len(operands) != count:
                raise ValueError(f"{value['operation']} takes {count} operands: {_short(value)}")
            return Operation(value["operation"], tuple(operands))
        if "call" not in value:
            raise ValueError(f"not a part of an expression: {_short(value)}")
        name = value["call"]
        name = RENAMED.get(name, name) if isinstance(name, str) else name
        if "with" not in value:
            return known(name, NAMES, "name")
        if not isinstance(value["with"], Mapping) or not all(
            isinstance(argument, str) for argument in value["with"]
        ):
            raise ValueError(f"'with' must be a dict of arguments: {_short(value)}")
        arguments = {k: self.read(v, depth + 1) for k, v in value["with"].items()}
        if isinstance(name, str) and name in METHODS:
            return METHODS[name](expression(arguments.pop("expression", None)), **arguments)
        build = known(name, VOCABULARY, "function")
        earlier = RENAMED_ARGUMENTS.get(name, {})
        present = {earlier.get(k, k): argument for k, argument in arguments.items()}
        if len(present) < len(arguments):
            raise ValueError(f"an argument stands under two names: {_short(value)}")
        return build(**present)

    def _function(self, name: Any) -> Any:
        if not isinstance(name, str):
            raise ValueError(f"the name of a function must be text, not {_short(name)}")
        if name in self._functions:
            return self._functions[name]
        alike = [node for node in self._present if node._name == name]
        if not alike:
            others = ", ".join(sorted({repr(node._name) for node in self._present}))
            raise ValueError(
                f"the expression calls the Python function {name!r}, of which only the name is "
                f"saved{f'; the present one calls {others}' if others else ''}: pass "
                f"functions={{{name!r}: ...}}, or like=an expression that calls it"
            )
        if len(alike) > 1:  # the next of the same name for the next one that is saved
            self._present.remove(alike[0])
        return alike[0]._call


def parse(text: str) -> Expression:
    """The expression that a text stands for, in the words of `fusestep.expression`, `schedules`,
    `scaling`, `control` and, as in "presets.torch.StepLR", `schedules.presets`. Nothing else can be
    called: it is safe for text from anywhere.

    A part may get a name before its use, on a line of its own or before a semicolon, as in
    ``a = step / 100; a * a``. Python's parser limits how deep parentheses go; named parts keep a
    long expression below that limit.

    Raises:
        ValueError: the text is not an expression, holds an unknown name, or is too deep.
        TypeError: an argument does not fit.

    Example:
        >>> import fusestep as fs
        >>> fs.expression.parse("cosine(start=0.1, length=100) * 2")(step=50)
        0.1
    """
    if not isinstance(text, str):
        raise TypeError(f"an expression is read from text, not {_short(text)}")
    if sum(map(text.count, "+-*/%<>~(.")) > _MOST_OPERATORS:
        raise ValueError(f"not an expression: {_short(text)} (it is too long)")
    try:
        statements = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"not an expression: {_short(text)} ({error})") from None
    parts: dict[str, Any] = {}
    for statement in statements[:-1]:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                if name in NAMES or name in VOCABULARY or name in _ROOMS:
                    raise ValueError(f"{name} can't be the name of a part: it has a meaning")
                parts[name] = _value(value, parts, text)
            case _:
                raise _not_a_part(statement, text)
    if not statements or not isinstance(statements[-1], ast.Expr):
        raise ValueError(f"not an expression: {_short(text)} (it ends without one)")
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
        case ast.Call(func=ast.Attribute() as func, args=args, keywords=keywords) if (
            dotted := _in_a_room(func)
        ):
            return _call(known(dotted, VOCABULARY, "function"), args, keywords)
        case ast.Call(func=ast.Attribute(value=receiver, attr=name), args=args, keywords=keywords):
            method = known(name, METHODS, "method")
            return _call(
                lambda first, *rest, **more: method(expression(first), *rest, **more),
                [receiver, *args],
                keywords,
            )
    return None


def _in_a_room(node: ast.expr) -> str:
    """The dotted name that a tree is, as "scaling.linear"; "" where it does not begin in a room."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in _ROOMS:
        return ""
    return ".".join([node.id, *reversed(names)])


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
