"""Python functions in expressions: what they are called with, and the names they are saved by."""

from __future__ import annotations

import functools
import json
import math
import threading
import time

import numpy as np
import pytest

import fusestep.expression as fe
from fusestep import schedules


def test_a_python_function_is_called_once_for_each_clock() -> None:
    calls: list[object] = []

    def rate(t: float) -> float:
        calls.append(t)
        return 0.5 * t

    lr = fe.function(rate) * 2 + fe.function(rate, fe.epoch)
    assert lr(step=3, epoch=1.5) == 3.75
    assert calls == [3, 1.5]
    assert isinstance(calls[0], int)
    assert lr(np.arange(3), epoch=2.0).tolist() == [1.0, 2.0, 3.0]
    assert fe.function(rate).shifted(2)(step=5) == 1.5
    with pytest.raises(TypeError, match="call must be a function of one number, not 3"):
        fe.function(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name must be text, not 3"):
        fe.function(rate, name=3)  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"function\('none', time=step\) must give a number, not None"
    ):
        fe.function(lambda t: None, name="none")(1)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="must give a number that fits a double"):
        fe.function(lambda t: 10**400)(1)
    assert math.isnan(fe.function(math.sqrt, fe.sqrt(fe.step - 2))(1))


class Halves:
    def __call__(self, t: float) -> float:
        return t / 2

    def third(self, t: float) -> float:
        return t / 3


def test_a_python_function_is_known_by_its_name_and_never_by_an_address() -> None:
    names = {
        "builtins:abs": abs,
        "math:sqrt": math.sqrt,
        f"{__name__}:Halves": Halves(),
        f"{__name__}:Halves.third": Halves().third,
        "functools:partial": functools.partial(math.pow, 2),
        "builtins:list.__getitem__": [1.0, 2.0].__getitem__,
    }
    for name, call in names.items():
        lr = fe.function(call, fe.step + 1)
        assert repr(lr) == f"function({name!r}, time=step + 1)"
        assert json.loads(lr.to_json())["nodes"][-1]["function"] == name
    assert repr(fe.function(abs, name="size") * 2) == "function('size', time=step) * 2"


def test_a_python_function_is_saved_by_its_name_and_taken_from_what_the_program_has() -> None:
    f, g = (lambda t: t + 1.0), (lambda t: 10 * t)
    lr = fe.function(f, name="f") * schedules.linear(1, 0, length=10) - fe.function(f, name="f")
    again = [fe.from_json(lr.to_json(), functions={"f": f, "unused": g})]
    again += [fe.from_json(json.loads(lr.to_json()), like=lr)]
    again += [fe.from_json(lr.to_json(), like=fe.function(g, name="g") + fe.function(f, name="f"))]
    for other in again:
        assert other == lr
        assert other(step=5) == lr(step=5) == -3.0
    # what the program has counts, under the same name; a name given by hand goes first
    assert fe.from_json(lr.to_json(), like=fe.function(g, name="f"))(step=5) == 25.0 - 50.0
    assert fe.from_json(lr.to_json(), like=lr, functions={"f": g})(step=5) == 25.0 - 50.0
    with pytest.raises(ValueError, match="Python function 'f', of which only the name is saved: p"):
        fe.from_json(lr.to_json())
    with pytest.raises(ValueError, match="name is saved; the present one calls 'g': pass functio"):
        fe.from_json(lr.to_json(), like=fe.function(g, name="g"))


def test_functions_of_one_name_are_told_apart_by_their_places() -> None:
    calls = [lambda t: t + 1.0, lambda t: t * 7.0, lambda t: t - 3.0]
    lr = fe.function(calls[0]) * fe.function(calls[1], fe.function(calls[2])) + 1
    assert fe.from_json(lr.to_json(), like=lr) == lr
    assert fe.from_json(lr.to_json(), like=lr)(step=5) == lr(step=5) == 6.0 * 14.0 + 1


def test_threads_that_evaluate_one_expression_get_each_its_own_values() -> None:
    def slow(t: float) -> float:
        time.sleep(1e-4)  # others run
        return t

    lr = fe.function(slow) * 2 + fe.function(slow, fe.step + 1)
    assert (fe.function(lambda t: lr(step=0)) + lr)(step=5) == 1.0 + 16.0  # within itself, too
    wrong: list[object] = []

    def evaluate(first: int) -> None:
        steps = range(first, first + 50)
        wrong.extend(t for t in steps if lr(step=t) != 3.0 * t + 1)
        wrong.extend(lr(step=np.arange(first, first + 9)) - (3.0 * np.arange(first, first + 9) + 1))

    threads = [threading.Thread(target=evaluate, args=(1000 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(wrong)
