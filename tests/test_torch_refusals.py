"""fusestep.torch and what it can't update natively: left to torch's own step, or refused."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest

import fusestep as fs

torch = pytest.importorskip("torch")
native = pytest.importorskip("fusestep.torch")
Pair: Any = pytest.importorskip("tables.torch_pairs").Pair


def test_a_number_that_fusestep_refuses_is_left_to_torch_until_it_is_one_again() -> None:
    pair = Pair(eps=0.0)
    pair.step()
    assert all("eps must be greater than 0" in reason for reason in pair.strangers)
    pair.both(lambda opt, params: opt.param_groups[0].update(eps=1e-8))
    pair.step()
    assert pair.strangers == []
    pair.both(lambda opt, params: opt.param_groups[0].update(eps=0.0))
    pair.step()
    pair.check()
    assert len(pair.strangers) == 3


def test_what_is_refused_raises_where_that_is_asked_for() -> None:
    good, narrow = (torch.nn.Parameter(torch.ones(2, dtype=d)) for d in (None, torch.bfloat16))
    opt = native.AdamW([good, narrow], on_unsupported="raise")
    opt.step()
    good.grad = torch.ones(2)
    opt.step()
    before = good.tolist()
    narrow.grad = torch.ones(2, dtype=torch.bfloat16)
    message = "parameter 1 of group 0 can't be updated natively: its dtype is bfloat16"
    with pytest.raises(ValueError, match=message):
        opt.step()
    assert good.tolist() == before
    assert len(opt.state) == 1
    opt = native.AdamW([good], lr=1e39, on_unsupported="raise")
    with pytest.raises(ValueError, match=r"lr must be 0 or between 1\.4e-45 and 3\.4e"):
        opt.step()
    assert good.tolist() == before
    with pytest.raises(ValueError, match="on_unsupported must be"):
        native.AdamW([good], on_unsupported="ignore")


def test_gradients_that_share_the_parameters_memory_are_left_to_torch() -> None:
    def step(module: Any) -> list[float]:
        w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        w.grad = w.data
        module.SGD([w], lr=0.5).step()
        values: list[float] = w.tolist()
        return values

    assert step(native) == step(torch.optim)


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64])
def test_other_dtypes_are_torchs(name: str, dtype: Any) -> None:
    settings = {"momentum": 0.9} if name == "SGD" else {}
    pair = Pair(name, dtype, **settings)
    pair.step(4)
    pair.check()
    assert len(pair.strangers) == 3
    # resumed, the state has the dtype of the parameter
    for opt, _ in pair.sides:
        opt.load_state_dict(copy.deepcopy(opt.state_dict()))
    pair.step()
    pair.check()


def test_a_state_of_bfloat16_that_torch_left_goes_on_in_float32() -> None:
    pair = Pair(dtype=torch.bfloat16)
    pair.step()
    saved = [copy.deepcopy(opt.state_dict()) for opt, _ in pair.sides]
    resumed = Pair()
    for (opt, _), state in zip(resumed.sides, saved, strict=True):
        opt.load_state_dict(state)
    resumed.step()
    resumed.check()
    assert resumed.strangers == []


def test_sparse_gradients_are_torchs() -> None:
    sides = []
    for module in (native, torch.optim):
        torch.manual_seed(0)
        table = torch.nn.Embedding(10, 3, sparse=True)
        dense = torch.nn.Linear(3, 1)
        opt = module.SGD([*table.parameters(), *dense.parameters()], lr=0.1, momentum=0.9)
        for step in range(4):
            opt.zero_grad()
            dense(table(torch.tensor([step, 3]))).sum().backward()
            opt.step()
        sides.append([*table.parameters(), *dense.parameters()])
    torch.testing.assert_close(*sides)
    w = torch.nn.Parameter(torch.ones(3))
    w.grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match="sparse gradients"):
        native.AdamW([w]).step()


def test_differentiable_and_capturable_are_torchs() -> None:
    pair = Pair(differentiable=True)
    for opt, params in pair.sides:
        for p in params:
            p.grad = torch.ones_like(p)
        with pytest.raises(RuntimeError, match="leaf Variable"):
            opt.step()
    w = torch.nn.Parameter(torch.ones(2))
    w.grad = torch.ones(2)
    with pytest.raises(AssertionError, match="capturable"):
        native.AdamW([w], capturable=True).step()


def test_a_parameter_that_is_there_twice_is_updated_as_by_torch() -> None:
    values = []
    for module in (native, torch.optim):
        w = torch.nn.Parameter(torch.ones(3))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opt = module.SGD([w, w], lr=0.1)
        w.grad = torch.ones(3)
        opt.step()
        values.append(w.tolist())
    assert values[0] == values[1]


def test_an_expression_is_refused_with_what_makes_a_scheduler_of_it() -> None:
    curve = fs.schedules.linear(start=1.0, end=0.0, length=10)
    w = torch.nn.Parameter(torch.ones(2))
    opt = native.AdamW([w])
    for call in (
        lambda: native.AdamW([w], lr=curve),
        lambda: native.AdamW([w], curve),
        lambda: native.AdamW([{"params": [w], "lr": curve}]),
        lambda: opt.add_param_group({"params": [torch.nn.Parameter(w.data)], "lr": curve}),
    ):
        with pytest.raises(TypeError, match=r"lr must be a number .*as_scheduler\(opt"):
            call()
    opt.param_groups[0]["lr"] = curve
    w.grad = torch.ones(2)
    with pytest.raises(TypeError, match="as_scheduler"):
        opt.step()
    assert w.tolist() == [1.0, 1.0]
