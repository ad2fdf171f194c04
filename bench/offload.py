"""A backward and a step of a model in bfloat16, with float32 masters: Offload, torch, DeepSpeed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

import fusestep as fs
from fusestep.torch import Offload

from . import report
from .agreement import Disagreement
from .measure import FULL, QUICK, Effort, singly
from .peers import deepspeed_absent, deepspeed_adam
from .report import Column, Table
from .step import spread

SETTINGS: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.01}
TOLERANCE = {"rtol": 2.0**-7, "atol": 2e-4}  # of bfloat16 after a step: its last bit
ROUNDS = 15
BACKWARD = "backward alone"
WITHIN = "Offload, overlap=False"


class Masters:
    """What programs do by hand: an optimizer of torch's interface over float32 copies."""

    def __init__(self, params: Sequence[Any], kind: Callable[..., Any]) -> None:
        self.params = list(params)
        self.masters = [torch.nn.Parameter(p.detach().float()) for p in self.params]
        for master in self.masters:
            master.grad = torch.empty_like(master)
        self.base = kind(self.masters, **SETTINGS)

    @torch.no_grad()
    def step(self) -> None:
        torch._foreach_copy_([m.grad for m in self.masters], [p.grad for p in self.params])
        self.base.step()
        torch._foreach_copy_(self.params, self.masters)


def kinds() -> dict[str, Callable[[Any], Any]]:
    """Optimizers of parameters of bfloat16."""
    found: dict[str, Callable[[Any], Any]] = {
        "Offload": lambda params: Offload(params, fs.AdamW, **SETTINGS),
        WITHIN: lambda params: Offload(params, fs.AdamW, overlap=False, **SETTINGS),
        "torch fused": lambda params: Masters(params, partial(torch.optim.AdamW, fused=True)),
    }
    if not deepspeed_absent():
        adam = partial(deepspeed_adam(), adamw_mode=True)
        found["DeepSpeed"] = lambda params: Masters(params, adam)
    return found


def model(width: int, layers: int) -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        *(
            part
            for _ in range(layers)
            for part in (torch.nn.Linear(width, width), torch.nn.LayerNorm(width), torch.nn.GELU())
        )
    ).to(torch.bfloat16)


def compare(effort: Effort) -> Table:
    """One row: seconds of a backward with its step, and how much of the step backward hides."""
    width, layers = (512, 4) if effort is QUICK else (2048, 8)
    inputs = torch.randn(32, width, generator=torch.Generator().manual_seed(1)).bfloat16()
    calls: dict[str, Callable[[], None]] = {}
    before: dict[str, Callable[[], None]] = {}
    models: dict[str, Any] = {}
    for name, kind in {BACKWARD: lambda params: None, **kinds()}.items():
        net = models[name] = model(width, layers)
        opt, losses = kind(net.parameters()), []

        def forward(net: Any = net, losses: list[Any] = losses) -> None:
            net.zero_grad()
            losses[:] = [net(inputs).float().pow(2).mean()]

        def train(opt: Any = opt, losses: list[Any] = losses) -> None:
            losses[0].backward()
            if opt is not None:
                opt.step()

        calls[name], before[name] = train, forward
        forward()
        train()
    expected = list(models["torch fused"].parameters())
    for name in kinds():
        for p, q in zip(models[name].parameters(), expected, strict=True):
            if not torch.allclose(p, q, **TOLERANCE):
                raise Disagreement(f"offload: {name} is not where torch fused is after a step")
    times = singly(calls, min(ROUNDS, effort.most) if effort is FULL else 5, before)
    alone = times[BACKWARD].median
    step = times[WITHIN].median - alone
    hidden = 1 - (times["Offload"].median - alone) / step
    title = f"{layers} layers of {width}"
    row = {"model": title, **{name: timing.median for name, timing in times.items()}}
    columns = [
        Column("model", "model"),
        *(Column(name, name, report.seconds) for name in times),
        Column("hidden", "hidden of the step", report.percent),
    ]
    notes = [f"Backward with its step, 32 samples. {spread({title: times})}"]
    rows = [{**row, "hidden": 100 * hidden}]
    return Table("offload", "AdamW, bfloat16 with float32 masters", columns, rows, notes)
