"""Expressions as JSON and as text: what is refused, and how deep and how shared they may be."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest

import fusestep as fs
import fusestep.expression as fe
from fusestep import control, schedules
from fusestep.expression.traversal import walk


def form_1(value: str) -> str:
    return f'{{"fusestep_expression": 1, "value": {value}}}'


def form_2(*nodes: str) -> str:
    return f'{{"fusestep_expression": 2, "nodes": [{", ".join(nodes)}]}}'


BAD_NODES = {
    '{"call": "cosin", "with": {}}': "no function 'cosin'; did you mean 'cosine'",
    '{"call": ["by"], "with": {}}': r"no function \['by'\]; kn",
    '{"call": null, "with": {}}': "no function None; kn",
    '{"call": "linear", "with": null}': "'with' must be a dict of arguments: ",
    '{"call": "linear", "with": [1]}': "'with' must be a dict of arguments: ",
    '{"call": "linear", "with": {"start": 1}}': "linear: missing .*'end'",
    '{"call": "by", "with": {"unit": "epoch"}}': "numbers and expressions, not None",
    '{"call": "power", "with": {"a": 1, "scale": 1}}': "an argument stands under two names: ",
    '{"operation": "system", "of": []}': "no operation 'sys",
    '{"operation": ["add"], "of": []}': r"no operation \['add'\]",
    '{"operation": "add", "of": [1]}': "add takes 2 operands",
    '{"operation": "add", "of": "ab"}': "add takes 2 operands",
    '{"operation": "add", "of": null}': "add takes 2 operands",
    '{"operation": "add"}': "add takes 2 operands",
    '{"input": "time"}': "no clock input 'time'; known are",
    '{"input": {}}': "no clock input {}; known are",
    '{"node": 0}': "a node must stand before its use: {'node': 0}",
    '{"node": -1}': "a node must stand before its use",
    '{"node": true}': "a node must stand before its use",
    '{"number": "1"}': "no number '1'; known are -inf, inf, nan",
    '{"function": null, "time": 1}': "the name of a function must be text, not None",
    '{"function": "f"}': "made of numbers and expressions, not None",
    '{"x": 1}': "not a part of an expression",
    '"text"': "an expression is made of numbers",
    "null": "an expression is made of numbers and expressions, not None",
    "true": "an expression is made of numbers and expressions, not True",
    "[]": r"an expression is made of numbers and expressions, not \[\]",
    "NaN": "a number in an expression must be finite",
    "1e400": "a number in an expression must be finite",
    "1" + "0" * 400: "a number in an expression must be finite",
    "[" * 102 + "]" * 102: "lists and dicts at most 100 deep",
    "[" * 10**5 + "]" * 10**5: "is not that deep: it is a list of nodes",
}
BAD_JSON = [
    ("3", "a saved expression is a dict with 'fusestep_expression' and 'nodes', not 3"),
    ("{", "Expecting property name"),
    ('{"fusestep_expression": 3, "nodes": [1]}', "is saved in form 3; this version knows 1 and 2"),
    ('{"fusestep_expression": [1], "value": 1}', r"is saved in form \[1\]; this version knows"),
    ('{"fusestep_expression": 2, "value": 1}', "a saved expression of form 2 has 'nodes'"),
    (form_2(), r"nodes must be a list of at least one, not \[\]"),
    ('{"fusestep_expression": 2, "nodes": null}', "nodes must be a list of at least one, not None"),
    *((form_1(node), message) for node, message in BAD_NODES.items()),
    *((form_2(node), message) for node, message in BAD_NODES.items()),
]


@pytest.mark.parametrize(("text", "message"), BAD_JSON)
def test_json_that_is_no_expression_is_refused(text: str, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        fe.from_json(text)


BAD_TEXT = [
    ("cosin(1)", ValueError, "no function 'cosin'; did you mean 'cosine'"),
    ("curve(1)", ValueError, "no function 'curve'; known are BestOf, .*cosine, cosine_restarts"),
    ("__import__('os').system('true')", ValueError, "no method 'system'; known are by, repeated"),
    ("().__class__", ValueError, "not a part of an expression"),
    ("open('x')", ValueError, "no function 'open'"),
    ("[x for x in step]", ValueError, "not a part of an expression"),
    ("lambda: 1", ValueError, "not a part of an expression"),
    ("f'{step}'", ValueError, "not a part of an expression"),
    ("step if step else 1", ValueError, "not a part of an expression"),
    ("0 < step < 3", ValueError, "not a part of an expression"),
    ("maximum(*[1, 2])", ValueError, "can't be unpacked"),
    ("step +", ValueError, "not an expression: 'step \\+'"),
    ("'text'", TypeError, "an expression is made of numbers and expressions, not 'text'"),
    ("1e999", ValueError, "must be finite"),
    ("(" * 500 + "1" + ")" * 500, ValueError, "not an expression"),
    ("(" * 10**5 + "1" + ")" * 10**5, ValueError, "not an expression"),
    ("-" * 10**5 + "step", ValueError, "not an expression"),
    ("[x for x in " + "+".join(["step"] * 450) + "]", ValueError, "not a part of an expression: "),
    ("\udc80", ValueError, "not an expression"),
    ("step\0", ValueError, "not an expression"),
    ("", ValueError, "it ends without one"),
    ("a = 1", ValueError, "it ends without one"),
    ("step\n+1", ValueError, "not a part of an expression: step"),
    ("step = 1; step", ValueError, "step can't be the name of a part: it has a meaning"),
    ("scaling = 1; scaling", ValueError, "scaling can't be the name of a part"),
    ("cosine = 1; cosine", ValueError, "cosine can't be the name of a part"),
    ("a.b = 1; 2", ValueError, "not a part of an expression: a.b = 1"),
    ("a = b = 1; a", ValueError, "not a part of an expression"),
    ("import os; step", ValueError, "not a part of an expression: import os"),
    ("b * 2; b = step", ValueError, "not a part of an expression: b \\* 2"),
    ("a = b; b = step; a", ValueError, "no name 'b'"),
    (3, TypeError, "an expression is read from text, not 3"),
    ("cosine(1, length=2, speed=3)", TypeError, "speed"),
    ("9 ** 9 ** 9 ** 9", None, ""),
]


@pytest.mark.parametrize(("text", "error", "message"), BAD_TEXT)
def test_text_that_is_no_expression_is_refused_and_nothing_is_called(
    text: str, error: type[Exception] | None, message: str
) -> None:
    if error is None:
        assert fe.parse(text)() == math.inf
        return
    with pytest.raises(error, match=message):
        fe.parse(text)


def test_json_is_plain_and_says_its_version() -> None:
    lr = schedules.cosine(start=0.1, length=100) * control.LossGap(reference=1.0)
    assert json.loads(lr.to_json())["fusestep_expression"] == 2
    assert "NaN" not in lr.to_json()


def test_a_text_that_is_too_deep_for_the_parser_of_python_is_refused_or_right() -> None:
    for n in (100, 450, 1000, 10**5):
        try:
            assert fe.parse("+".join(["step"] * n))(step=2) == 2 * n
        except ValueError as error:
            assert n > 450 and "not an expression" in str(error)  # noqa: PT017, PT018


def test_an_older_form_is_still_read() -> None:
    lr = '{"call": "cosine", "with": {"start": 0.1, "length": 100}}'
    old = form_1(f'{{"operation": "add", "of": [{{"input": "step"}}, {lr}]}}')
    assert fe.from_json(old) == fe.step + schedules.cosine(0.1, length=100)


def built_in_a_loop(rounds: int) -> fs.Expression:
    lr = fe.step
    for k in range(rounds):
        lr = lr * 0.5 + 1.0 if k % 2 else fe.maximum(-lr, lr)
    return lr


def doubled(rounds: int) -> fs.Expression:
    lr = fe.step
    for _ in range(rounds):
        lr = lr + lr
    return lr


def nested(rounds: int) -> fs.Expression:
    lr = fe.step
    for _ in range(rounds):
        lr = 2 / (lr + 1)
    return lr


BUILDS = [lambda: built_in_a_loop(4000), lambda: doubled(500), lambda: nested(1000)]


@pytest.mark.parametrize("build", BUILDS)
def test_an_expression_may_be_as_deep_as_a_loop_builds_it_and_share_its_parts(
    build: Callable[[], fs.Expression],
) -> None:
    lr = build()
    value, text, form, number = lr(step=3), repr(lr), lr.to_json(), hash(lr)
    assert max(len(text), len(form)) < 2_000_000
    others = [build(), fe.parse(text), fe.from_json(form), copy.copy(lr), copy.deepcopy(lr)]
    others.append(pickle.loads(pickle.dumps(lr)))
    for other in others:
        assert other == lr
        assert hash(other) == number
        assert repr(other) == text
        assert other.to_json() == form
        assert other(step=3) == value
    assert lr != lr + 1
    assert lr.shifted(3)(step=6) == lr.by("epoch")(epoch=3) == value
    assert lr.repeated(4)(step=[3, 7]).tolist() == [value, value]
    assert schedules.sequence([lr, lr * 0], at=[4])(step=[3, 4]).tolist() == [value, 0]
    opt = fs.SGD(np.ones(2), lr=fe.clip(lr, 0, 0.5))
    other_opt = fs.SGD(np.ones(2), lr=0.1)
    opt.step(np.ones(2))
    other_opt.load_state_dict(opt.state_dict())
    json.dumps(opt.state_dict()["settings"], allow_nan=False)
    assert other_opt.step(np.ones(2)).lr == opt.step(np.ones(2)).lr


def test_what_is_used_twice_is_saved_once_and_typed_once_where_it_is_long() -> None:
    lr = doubled(22)
    assert lr(step=1) == 2.0**22
    assert len(lr.to_json()) < 2000
    assert len(repr(lr)) < 2000
    assert repr(doubled(2)) == "step + step + (step + step)"
    long = fe.maximum(*(fe.step * 10.0**k for k in range(20)))
    assert repr(long * 2 + long).startswith("part1 = maximum(")
    assert repr(long * 2 + long).endswith("; part1 * 2 + part1")
    table = schedules.table([0.5] * 1000)
    assert len((table * table).to_json()) < 1.01 * len(table.to_json()) + 200
    plateau = control.Plateau(patience=3)
    alike = control.Plateau(patience=3)
    for pair, count in ((plateau * plateau, 1), (plateau * alike, 2)):
        again = fe.from_json(pair.to_json())
        assert again == pair
        assert len({id(n) for n in walk(again) if isinstance(n, control.Plateau)}) == count


def test_copies_share_what_remembers_only_with_each_other() -> None:
    plateau = control.Plateau(factor=0.5, patience=0)
    lr = (plateau * schedules.linear(1, 0, length=10)).shifted(2)
    both = copy.deepcopy([lr, plateau, lr * plateau])
    for loss in (1.0, 2.0):
        both[1].observe(loss)
    assert [e(step=2) for e in both] == [0.5, 0.5, 0.25]
    assert (lr(step=2), plateau(step=2)) == (1.0, 1.0)
    again = pickle.loads(pickle.dumps(both))
    again[1].observe(3.0)
    assert [e(step=2) for e in again] == [0.25, 0.25, 0.0625]
    assert both[0](step=2) == 0.5


def test_the_sign_of_a_zero_is_kept_apart_everywhere() -> None:
    plus, minus = fe.minimum(0.0), fe.minimum(-0.0)
    tables = (schedules.table([value, value]) for value in (0.0, -0.0))
    for a, b in ((plus, minus), tuple(tables)):
        for one, other in ((a, b), (b, a)):
            signs = np.signbit(fe.where(fe.step < 1, one, other)(step=[0, 1])).tolist()
            assert signs == ([False, True] if one is a else [True, False])
        assert a != b
        assert repr(a) != repr(b)
        assert a.to_json() != b.to_json()
    lines = [schedules.cosine(1.0, end=end, length=4) for end in (0.0, -0.0)]
    assert lines[0] != lines[1]
    assert repr(lines[1]) == "cosine(start=1.0, end=-0.0, length=4)"
    assert [fe.parse(repr(line)) for line in lines] == lines
    assert [fe.from_json(line.to_json()) for line in lines] == lines
    assert (fe.step + 0.0) != (fe.step - -0.0)
