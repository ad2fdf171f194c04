"""fusestep.torch under every scheduler of torch, averages of weights, and usual loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
native = pytest.importorskip("fusestep.torch")
Pair: Any = pytest.importorskip("tables.torch_pairs").Pair
lr: Any = torch.optim.lr_scheduler

ROWS: dict[str, Callable[[Any], Any]] = {
    "ChainedScheduler": lambda opt: lr.ChainedScheduler(
        [lr.ConstantLR(opt, factor=0.1, total_iters=2), lr.ExponentialLR(opt, gamma=0.9)]
    ),
    "ConstantLR": lambda opt: lr.ConstantLR(opt, factor=0.5, total_iters=4),
    "CosineAnnealingLR": lambda opt: lr.CosineAnnealingLR(opt, T_max=10),
    "CosineAnnealingWarmRestarts": lambda opt: lr.CosineAnnealingWarmRestarts(opt, T_0=4),
    "CyclicLR": lambda opt: lr.CyclicLR(opt, base_lr=0.01, max_lr=0.1, step_size_up=3),
    "ExponentialLR": lambda opt: lr.ExponentialLR(opt, gamma=0.9),
    "LambdaLR": lambda opt: lr.LambdaLR(opt, lambda step: 1 / (1 + step)),
    "LinearLR": lambda opt: lr.LinearLR(opt, start_factor=0.5, total_iters=4),
    "MultiStepLR": lambda opt: lr.MultiStepLR(opt, milestones=[3, 8], gamma=0.1),
    "MultiplicativeLR": lambda opt: lr.MultiplicativeLR(opt, lambda step: 0.95),
    "OneCycleLR": lambda opt: lr.OneCycleLR(opt, max_lr=0.1, total_steps=20),
    "PolynomialLR": lambda opt: lr.PolynomialLR(opt, total_iters=10, power=2.0),
    "ReduceLROnPlateau": lambda opt: lr.ReduceLROnPlateau(opt, patience=1),
    "SWALR": lambda opt: torch.optim.swa_utils.SWALR(opt, swa_lr=0.05, anneal_epochs=4),
    "SequentialLR": lambda opt: lr.SequentialLR(
        opt,
        [lr.LinearLR(opt, start_factor=0.1, total_iters=3), lr.CosineAnnealingLR(opt, T_max=6)],
        milestones=[3],
    ),
    "StepLR": lambda opt: lr.StepLR(opt, step_size=4),
}


def test_every_scheduler_of_torch_has_a_row() -> None:
    assert {*lr.__all__, "SWALR"} - {"LRScheduler", "_LRScheduler"} == {*ROWS}


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("kind", ["AdamW", "SGD"])
@pytest.mark.parametrize("how", ["number", "tensor"])
def test_schedulers_are_followed(row: str, kind: str, how: str) -> None:
    rate = torch.tensor(0.02) if how == "tensor" else 0.02
    pair = Pair(kind, **({"momentum": 0.9, "lr": rate} if kind == "SGD" else {"lr": rate}))
    schedulers = [ROWS[row](opt) for opt, _ in pair.sides]
    for _ in range(18):
        pair.step(1)
        for scheduler in schedulers:
            scheduler.step(*((1.0,) if row == "ReduceLROnPlateau" else ()))
        groups = [opt.param_groups[0] for opt, _ in pair.sides]
        assert float(groups[0]["lr"]) == float(groups[1]["lr"])
    pair.check()
    assert pair.strangers == []


def test_averages_of_weights_see_every_update() -> None:
    averages = []
    for module in (native, torch.optim):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        opt = module.SGD(model.parameters(), lr=0.1)
        averaged = torch.optim.swa_utils.AveragedModel(model)
        for _ in range(5):
            opt.zero_grad()
            model(torch.ones(4, 3)).pow(2).sum().backward()
            opt.step()
            averaged.update_parameters(model)
        averages.append([*averaged.parameters()])
    torch.testing.assert_close(*averages)


def test_a_step_in_hooks_after_accumulation_is_that_of_torch() -> None:
    """An optimizer for each parameter, which steps inside backward and frees the gradient."""
    models = []
    for module in (native, torch.optim):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
        optimizers = {p: module.AdamW([p], lr=0.1) for p in model.parameters()}

        def step(p: Any, optimizers: dict[Any, Any] = optimizers) -> None:
            optimizers[p].step()
            optimizers[p].zero_grad()

        for p in model.parameters():
            p.register_post_accumulate_grad_hook(step)
        for _ in range(5):
            model(torch.ones(4, 3)).pow(2).sum().backward()
        models.append([*model.parameters()])
    torch.testing.assert_close(*models)


def test_clipped_and_accumulated_gradients_are_read_as_they_are() -> None:
    models = []
    for module in (native, torch.optim):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        opt = module.AdamW(model.parameters(), lr=0.1)
        for step in range(6):
            model(torch.ones(4, 3) * step).pow(2).sum().backward()
            if step % 2:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                opt.step()
                opt.zero_grad(set_to_none=step % 4 == 1)
        models.append([*model.parameters()])
    torch.testing.assert_close(*models)
