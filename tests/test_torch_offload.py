"""fusestep.torch.Offload: the bits of the rule over float32 masters, rounded to the parameters."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from tables import pages
from tables.models import assert_same_bits

torch = pytest.importorskip("torch")
offload = pytest.importorskip("fusestep.torch")
Offload = offload.Offload

SHAPES = ((3, 4), (5,), (2, 3, 4, 5), (), (0,), (3000,), (700, 800))
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
RULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "AdamW": (fs.AdamW, {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1, "amsgrad": True}),
    "SGD": (fs.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    "NAdam": (fs.NAdam, {"lr": 0.01, "weight_decay": 0.1}),
    "Lion": (fs.Lion, {"lr": 0.01}),
    "LAMB": (fs.LAMB, {"lr": 0.01, "weight_decay": 0.1}),
    "Rprop": (fs.Rprop, {"lr": 0.01}),
}
each_rule = pytest.mark.parametrize("name", RULES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def parameters(dtype: Any = torch.bfloat16) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator) for shape in SHAPES]
    values[2] = values[2].to(memory_format=torch.channels_last)
    return [torch.nn.Parameter(v.to(dtype)) for v in values]


def masters_of(params: list[Any]) -> list[Any]:
    """In the order that Offload has them in."""
    return [p.detach().float().contiguous().numpy().copy() for p in reversed(params)]


def backward(params: list[Any], step: int, without: tuple[int, ...] = ()) -> None:
    """Gradients of different values for each element and step."""
    generator = torch.Generator().manual_seed(step)
    total = torch.zeros(())
    for i, p in enumerate(params):
        weights = torch.randn(p.shape, generator=generator).to(p.dtype)
        if i not in without:
            total = total + (p * weights).float().sum()
    total.backward()


def gradients(params: list[Any]) -> list[Any]:
    return [
        None if p.grad is None else p.grad.float().contiguous().numpy().copy()
        for p in reversed(params)
    ]


def rounded(master: Any, dtype: Any) -> Any:
    """To nearest, ties to even, by the bits."""
    if dtype != torch.bfloat16:
        return master.astype({torch.float16: np.float16, torch.float32: np.float32}[dtype])
    bits = np.ascontiguousarray(master).view(np.uint32)
    high = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return high.astype(np.uint32).view(np.float32).reshape(master.shape)


def assert_offloaded(opt: Any, params: list[Any], masters: list[Any]) -> None:
    """Masters and parameters have these bits."""
    for p, master in zip(reversed(params), masters, strict=True):
        assert_same_bits([opt.state[p]["master"].numpy()], [master])
        there = p.detach() if p.dtype == torch.float16 else p.detach().float()
        assert_same_bits([there.contiguous().numpy()], [rounded(master, p.dtype)])


@each_dtype
@each_rule
def test_masters_have_the_bits_of_the_rule_and_parameters_those_rounded(
    name: str, dtype: Any
) -> None:
    rule, settings = RULES[name]
    params = parameters(dtype)
    masters = masters_of(params)
    expected, opt = rule(masters, **settings), Offload(params, rule, **settings)
    for step in range(6):
        assert opt.overlaps == (step > 0)
        opt.zero_grad()
        # after the fourth step the one that had none has one, and another has none
        backward(params, step, {2: (), 3: (1, 6), 4: (1,), 5: ()}.get(step, (4,)))
        expected.step(gradients(params))
        opt.step()
        assert_offloaded(opt, params, masters)
    assert opt._masters.own._plan.updates == expected._plan.updates
    assert opt._masters.own._plan.values == expected._plan.values
    assert opt._masters.own.steps_attempted == opt._masters.own.steps_applied == 6


@pytest.mark.parametrize("overlap", [True, False])
def test_a_run_goes_on_exactly_from_what_it_saved(overlap: bool) -> None:
    def run(opt: Any, params: list[Any], steps: range) -> None:
        for step in steps:
            opt.zero_grad()
            backward(params, step)
            opt.step()
            scheduler.step()

    rule, settings = RULES["NAdam"]
    params = parameters()
    opt = Offload(params, rule, **settings, overlap=overlap)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)
    run(opt, params, range(3))
    file = io.BytesIO()
    torch.save([opt.state_dict(), scheduler.state_dict()], file)
    values = [p.detach().clone() for p in params]
    run(opt, params, range(3, 6))

    file.seek(0)
    state, schedule = torch.load(file, weights_only=True)
    others = [torch.nn.Parameter(torch.zeros_like(p)) for p in params]
    resumed = Offload(others, rule, lr=0.5, overlap=overlap)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(resumed, 0.9)
    resumed.load_state_dict(state)
    scheduler.load_state_dict(schedule)
    for p, value in zip(others, values, strict=True):
        assert torch.equal(p, value)
    run(resumed, others, range(3, 6))
    assert_offloaded(resumed, others, [opt.state[p]["master"].numpy() for p in reversed(params)])
    assert resumed.param_groups[0]["lr"] == opt.param_groups[0]["lr"] != 0.5


def test_a_scheduler_and_the_groups_decide_the_next_step() -> None:
    params = parameters()
    masters = masters_of(params)
    form = [{"params": masters[2:], "weight_decay": 0.5}, {"params": masters[:2]}]
    expected = fs.AdamW(list(reversed(form)), lr=0.1)
    groups = [{"params": params[:-2], "weight_decay": 0.5}, {"params": params[-2:]}]
    opt = Offload(groups, fs.AdamW, lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=10)
    for step in range(5):
        opt.zero_grad()
        backward(params, step)
        for mine, group in zip(reversed(expected.groups), opt.param_groups, strict=True):
            mine.lr, mine.betas = group["lr"], group["betas"]
        found = gradients(params)
        expected.step([found[:2], found[2:]])
        opt.step()
        scheduler.step()
        assert_offloaded(opt, params, masters)
    assert opt.overlaps


def test_the_page_runs_as_pasted() -> None:
    names: dict[str, Any] = {}
    overlaps = []
    for block in pages.blocks("docs/offload.md"):
        pages.run(block, "docs/offload.md", names)
        overlaps.append(names["opt"].overlaps)
    assert overlaps == [True, False]
