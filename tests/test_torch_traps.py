"""fusestep.torch under hands that change what optimizers hold: followed, refused, never missed."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
native = pytest.importorskip("fusestep.torch")
Pair: Any = pytest.importorskip("tables.torch_pairs").Pair


def move_parameter(opt: Any, params: list[Any]) -> None:
    params[1].data = params[1].data.clone() * 2


def move_state(opt: Any, params: list[Any]) -> None:
    for state in opt.state.values():
        for value in state.values():
            value.data = value.data.clone()
    opt.state[params[1]]["exp_avg"] *= 3


def replace_state(opt: Any, params: list[Any]) -> None:
    opt.state[params[1]]["exp_avg_sq"] = torch.full((4, 3), 0.5)


def edit_state(opt: Any, params: list[Any]) -> None:
    opt.state[params[1]]["exp_avg"].fill_(0.25)


def edit_step(opt: Any, params: list[Any]) -> None:
    opt.state[params[1]]["step"].fill_(40)


def replace_step(opt: Any, params: list[Any]) -> None:
    opt.state[params[1]]["step"] = torch.tensor(40.0)


def clear_state(opt: Any, params: list[Any]) -> None:
    opt.state.clear()


def clear_one(opt: Any, params: list[Any]) -> None:
    del opt.state[params[1]]


def empty_one(opt: Any, params: list[Any]) -> None:
    opt.state[params[1]].clear()


def replace_all_state(opt: Any, params: list[Any]) -> None:
    opt.state = defaultdict(dict, {p: copy.copy(state) for p, state in opt.state.items()})
    opt.state[params[0]]["step"] = opt.state[params[0]]["step"] + 5


def add_to_state(opt: Any, params: list[Any]) -> None:
    opt.state[params[1]]["of the user"] = torch.zeros(2)


def swap_parameter(opt: Any, params: list[Any]) -> None:
    params[1] = torch.nn.Parameter(params[1].detach().clone() + 1)
    opt.param_groups[0]["params"][1] = params[1]
    opt.state = defaultdict(dict, {p: opt.state[p] for p in (params[0], params[2])})


def remove_parameter(opt: Any, params: list[Any]) -> None:
    del opt.param_groups[0]["params"][1]


def replace_list(opt: Any, params: list[Any]) -> None:
    opt.param_groups[0]["params"] = [params[2], params[0]]


def set_numbers(opt: Any, params: list[Any]) -> None:
    opt.param_groups[0].update(lr=0.05, betas=(0.7, 0.9), eps=1e-4, weight_decay=0.3)


def set_flags(opt: Any, params: list[Any]) -> None:
    opt.param_groups[0].update(maximize=True)


def replace_groups(opt: Any, params: list[Any]) -> None:
    opt.param_groups = [{**opt.param_groups[0], "lr": 0.02}]


def set_list_of_betas(opt: Any, params: list[Any]) -> None:
    opt.param_groups[0]["betas"] = [0.5, 0.75]


def resize_parameter(opt: Any, params: list[Any]) -> None:
    params[1].data = params[1].data.t().contiguous().t()


CHANGES = [
    add_to_state,
    clear_one,
    clear_state,
    edit_state,
    edit_step,
    empty_one,
    move_parameter,
    move_state,
    remove_parameter,
    replace_all_state,
    replace_groups,
    replace_list,
    replace_state,
    replace_step,
    resize_parameter,
    set_flags,
    set_list_of_betas,
    set_numbers,
    swap_parameter,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_is_changed_between_steps_is_followed(change: Callable[..., Any]) -> None:
    pair = Pair()
    pair.step()
    pair.both(change)
    pair.step(3)
    pair.check()
    assert pair.strangers == []


@pytest.mark.parametrize("change", [edit_step, move_state, clear_state])
def test_what_nadam_hands_from_step_to_step_is_followed(change: Callable[..., Any]) -> None:
    pair = Pair("NAdam")
    pair.step()
    pair.both(change)
    pair.both(lambda opt, params: [s["mu_product"].mul_(0.5) for s in opt.state.values()])
    pair.step(3)
    pair.check()
    assert pair.strangers == []


def test_a_state_from_before_the_first_update_begins_once() -> None:
    pair = Pair("Rprop", lr=0.03)

    def begin(opt: Any, params: list[Any]) -> None:
        for p in params:
            sizes = {"prev": torch.zeros(4, 3), "step_size": torch.full((4, 3), 0.03)}
            opt.state[p].update(step=torch.tensor(0.0), **sizes)

    pair.both(begin)
    pair.step(3)
    pair.check()


def test_a_state_that_was_not_changed_is_kept_as_an_object() -> None:
    pair = Pair()
    opt, _ = pair.sides[0]
    pair.step()
    before = [value for state in opt.state.values() for value in state.values()]
    engine = opt._engine
    pair.step(3)
    assert opt._engine is engine
    after = [value for state in opt.state.values() for value in state.values()]
    assert all(one is other for one, other in zip(before, after, strict=True))


def test_backward_after_a_step_is_refused_as_with_torch() -> None:
    for module in (native, torch.optim):
        w = torch.nn.Parameter(torch.ones(3))
        opt = module.AdamW([w])
        loss = (w**2).sum()
        loss.backward(retain_graph=True)
        version = w._version
        opt.step()
        assert w._version > version
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_a_number_out_of_range_is_no_error_while_nothing_has_a_gradient() -> None:
    pair = Pair()
    pair.step()
    for opt, _ in pair.sides:
        opt.zero_grad()
        opt.param_groups[0]["betas"] = (1.5, 0.9)
        opt.step()
    pair.both(lambda opt, params: opt.param_groups[0].update(betas=(0.9, 0.9)))
    pair.step()
    pair.check()
    assert pair.strangers == []


def test_learning_rates_in_tensors_are_read_at_every_step() -> None:
    pair = Pair()
    pair.both(lambda opt, params: opt.param_groups[0].update(lr=torch.tensor(0.01)))
    pair.step()
    pair.both(lambda opt, params: opt.param_groups[0]["lr"].fill_(0.05))
    pair.step()
    pair.check()
    assert pair.strangers == []


def test_momentum_may_begin_in_the_middle() -> None:
    pair = Pair("SGD", lr=0.1)
    pair.step()
    pair.both(lambda opt, params: opt.param_groups[0].update(momentum=0.9, dampening=0.5))
    pair.step()
    pair.both(lambda opt, params: opt.param_groups[0].update(momentum=0.0))
    pair.step()
    pair.both(lambda opt, params: opt.param_groups[0].update(momentum=0.5))
    pair.step()
    pair.check()
    assert pair.strangers == []


def test_a_model_that_is_cast_goes_on_in_its_new_dtype() -> None:
    pair = Pair("SGD", lr=0.1)
    pair.step()

    def widen(opt: Any, params: list[Any]) -> None:
        for p in params:
            p.grad = None
            p.data = p.data.double()

    pair.both(widen)
    pair.step()
    pair.check()
    assert pair.strangers == []


def test_parameters_without_gradient_wait_without_state() -> None:
    pair = Pair()
    opt, params = pair.sides[0]
    frozen = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    opt.add_param_group({"params": frozen})
    pair.step()
    assert not any(p in opt.state for p in frozen)
    frozen[1].grad = torch.ones(2)
    pair.step()
    assert [p in opt.state for p in frozen] == [False, True, False]
    torch.testing.assert_close(params, pair.sides[1][1])


def test_a_step_inside_a_compiled_function_runs_as_it_is() -> None:
    pair = Pair()
    opt, params = pair.sides[0]

    @torch.compile(backend="eager")
    def step() -> None:
        opt.step()

    pair.step(1)
    for p in params:
        p.grad = torch.ones_like(p)
    step()
    for p in pair.sides[1][1]:
        p.grad = torch.ones_like(p)
    pair.sides[1][0].step()
    pair.check()
