"""Batches in parts, and the functions that take them."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import gradients, trees
from fusestep.gradients import split_step
from tables.models import Array
from test_split_step import Batch, Model, data


def of_params(params: Any, batch: Any) -> tuple[float, Any]:
    return float(len(batch)), {"w": params["w"] + batch["x"].mean(axis=0)}


class Bound:
    def of_params(self, params: Any, batch: Any) -> tuple[float, Any]:
        return of_params(params, batch)

    def __call__(self, params: Any, batch: Any, scale: float = 1.0) -> tuple[float, Any]:
        return of_params(params, batch)


@pytest.mark.parametrize(
    "function",
    [of_params, Bound().of_params, Bound(), partial(of_params), lambda p, b: of_params(p, b)],
    ids=["function", "method", "object", "partial", "lambda"],
)
def test_a_function_may_take_the_parameters_and_a_part(function: Any) -> None:
    batch = {"x": np.arange(21.0).reshape(7, 3), "y": np.arange(7)}
    expected = {"w": np.ones(3)}
    fs.SGD(expected, lr=0.5).step(of_params(expected, batch)[1])
    for given in (False, True):
        params = {"w": np.ones(3)}
        opt = fs.SGD(params, lr=0.5)
        _, loss = split_step(opt, function, batch, params=params if given else None)
        assert loss == pytest.approx((3 * 3 + 4 * 4) / 7)  # the length of a part is its rows
        np.testing.assert_allclose(params["w"], expected["w"], rtol=1e-14)


@pytest.mark.parametrize(
    "params",
    [np.ones(3), [np.ones(3)], {"a": {"b": np.ones(3)}}, ({"w": np.ones(3)}, [np.ones(2)])],
    ids=["array", "list", "nested", "mixed"],
)
def test_a_function_is_given_the_parameters_as_they_are_nested(params: Any) -> None:
    seen = []

    def loss_and_grads(tree: Any, batch: Any) -> tuple[float, Any]:
        seen.append(tree)
        return 1.0, copy.deepcopy(tree)

    split_step(fs.SGD(params, lr=0.0), loss_and_grads, np.ones((2, 2)))
    for tree in seen:
        pairs = zip(trees.flatten(tree)[1], trees.flatten(params)[1], strict=True)
        assert all(given is own for given, own in pairs)
        assert type(tree) is type(params)


def test_a_function_of_one_argument_takes_parameters_where_they_are_given() -> None:
    given = []

    def variadic(*arguments: Any) -> tuple[float, Array]:
        given.append(len(arguments))
        return 0.0, np.ones(2)

    opt = fs.SGD(np.ones(2))
    split_step(opt, variadic, np.ones((2, 2)))
    split_step(opt, variadic, np.ones((2, 2)), params=np.ones(2))
    assert given == [1, 1, 2, 2]


def test_parts_of_a_batch_are_the_micro_batches_of_a_step() -> None:
    x, y = data(10)
    w, expected = np.zeros(5), np.zeros(5)
    opt, whole = fs.SGD(w, lr=0.1), fs.SGD(expected, lr=0.1)
    model = Model()
    for batch in fs.Loader({"x": x, "y": y}, 7, order="sequential"):
        rows = 0
        for micro_batch in gradients.split_batch(batch, 3):
            model.w = w
            _, grads = model.loss_and_grads({"x": micro_batch["x"], "y": micro_batch["y"]})
            opt.accumulate(grads, samples=len(micro_batch))
            assert len(micro_batch) == len(micro_batch["x"]) == len(micro_batch.indices)
            assert (x[micro_batch.indices] == micro_batch["x"]).all()
            assert micro_batch.clock == batch.clock
            rows += len(micro_batch)
        assert rows == len(batch["x"])
        opt.step(clock=batch.clock)
        model.w = expected
        whole.step(model.loss_and_grads({"x": batch["x"], "y": batch["y"]})[1])
        np.testing.assert_allclose(w, expected, rtol=1e-12)


@pytest.mark.parametrize("form", [tuple, list, Batch._make, lambda b: {"x": b[0], "y": [b[1]]}])
def test_parts_are_views_in_the_form_of_the_batch(form: Any) -> None:
    batch = form(data(5))
    sizes = []
    for part in gradients.split_batch(batch, 2):
        assert isinstance(part, type(batch))
        arrays = [*part.values()] if isinstance(part, dict) else list(part)
        assert arrays[0].base is not None
        sizes.append(len(arrays[0]))
        if isinstance(part, dict):
            assert (len(part), len(dict(part)), bool(part), [*part]) == (
                sizes[-1],
                2,
                True,
                ["x", "y"],
            )
    assert sizes == [2, 3]
    with pytest.raises(ValueError, match="n must be at least 1, not 0"):
        gradients.split_batch(batch, 0)


def test_the_loss_of_a_part_may_be_an_array_of_one_element() -> None:
    opt = fs.SGD(np.ones(2))
    _, loss = split_step(opt, lambda b: (np.array([[2.0]]), np.ones(2)), np.ones((4, 2)))
    assert loss == 2.0
    with pytest.raises(TypeError, match="loss must be a number, not None"):
        split_step(opt, lambda b: (None, np.ones(2)), np.ones((4, 2)))
    assert opt.accumulated == 0.0
