"""The time of a step over tensors of torch, and of Offload: beside torch itself and DeepSpeed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import fusestep as fs
import fusestep.torch as native

from . import command, offload, report
from .agreement import Disagreement
from .command import selected
from .measure import FULL, QUICK, Effort, Timing, in_turns, singly
from .models import MODELS, Shape
from .peers import deepspeed_absent, deepspeed_adam
from .report import Column, Table
from .step import spread

SHAPES: dict[str, tuple[Shape, ...]] = {
    "1x100": ((100,),),
    "1000x100": ((100,),) * 1000,
    **{model.name: model.shapes for model in MODELS if model.name in ("resnet50", "gpt2")},
}
SETTINGS: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.01}
TOLERANCE = 1e-6  # between the contestants, after three steps
ROUNDS = 41  # of steps after a backward of their own
KINDS: dict[str, Callable[..., Any]] = {
    "fusestep.torch": native.AdamW,
    "torch fused": partial(torch.optim.AdamW, fused=True),
    "torch foreach": partial(torch.optim.AdamW, foreach=True),
}
OFFLOAD = "offload"  # another table
ON_ARRAYS = "fusestep, NumPy"


class Problem:
    """Parameters with gradients, the same ones for every contestant."""

    def __init__(self, shapes: Sequence[Shape], last: bool) -> None:
        torch.manual_seed(0)
        order = torch.channels_last if last else torch.contiguous_format
        forms = [order if len(shape) == 4 else torch.contiguous_format for shape in shapes]
        self.parameters = [
            torch.randn(shape).mul_(0.05).to(memory_format=form)
            for shape, form in zip(shapes, forms, strict=True)
        ]
        self.gradients = [torch.randn_like(p).mul_(0.01) for p in self.parameters]

    def fresh(self) -> list[Any]:
        params = [torch.nn.Parameter(p.clone()) for p in self.parameters]
        for p, gradient in zip(params, self.gradients, strict=True):
            p.grad = gradient
        return params


def kinds() -> dict[str, Callable[..., Any]]:
    """The optimizers that can be here."""
    if deepspeed_absent():
        return KINDS
    return {**KINDS, "DeepSpeed": partial(deepspeed_adam(), adamw_mode=True)}


def _agree(title: str, results: Mapping[str, Sequence[Any]]) -> None:
    expected = results["torch foreach"]
    for name, params in results.items():
        worst = max(float((p - q).abs().max()) for p, q in zip(params, expected, strict=True))
        if worst > TOLERANCE:
            raise Disagreement(f"{title}: {name} is {worst:g} from torch foreach after 3 steps")


@torch.no_grad()
def warm(shapes: Sequence[Shape], last: bool, effort: Effort, title: str) -> dict[str, Timing]:
    """Steps with the gradients of the step before."""
    problem = Problem(shapes, last)
    steps: dict[str, Callable[[], Any]] = {}
    results: dict[str, list[Any]] = {}
    # DeepSpeed 0.19 is 0.003 off after 3 steps where parameters lie in channels_last
    for name, kind in (KINDS if last else kinds()).items():
        results[name] = problem.fresh()
        steps[name] = kind(results[name], **SETTINGS).step
    if not last:
        results[ON_ARRAYS] = problem.fresh()
        opt = fs.AdamW([p.detach().numpy() for p in results[ON_ARRAYS]], **SETTINGS)
        steps[ON_ARRAYS] = partial(opt.step, [g.numpy() for g in problem.gradients])
    for step in steps.values():
        for _ in range(3):
            step()
    _agree(title, results)
    return in_turns(steps, effort)


def after_backward(effort: Effort) -> dict[str, Timing]:
    """Steps of 400 small tensors, each with gradients that a backward has just made."""
    steps: dict[str, Callable[[], Any]] = {}
    before: dict[str, Callable[[], Any]] = {}
    inputs = torch.ones(8, 16)
    for name, kind in kinds().items():
        torch.manual_seed(0)
        layers = [torch.nn.Linear(16, 16) for _ in range(200)]
        opt = kind([p for layer in layers for p in layer.parameters()], **SETTINGS)

        def backward(layers: Any = layers, opt: Any = opt) -> None:
            opt.zero_grad()
            sum(layer(inputs).pow(2).mean() for layer in layers).backward()

        steps[name], before[name] = opt.step, backward
    for name, step in steps.items():
        before[name]()
        step()
    return singly(steps, min(ROUNDS, effort.most), before)


CASES: dict[str, tuple[str, Callable[[Effort], dict[str, Timing]]]] = {
    "1x100": ("1 tensor of 100", partial(warm, SHAPES["1x100"], False, title="1x100")),
    "1000x100": ("1000 of 100", partial(warm, SHAPES["1000x100"], False, title="1000x100")),
    "backward": ("400 after a backward", after_backward),
    "resnet50": ("ResNet-50", partial(warm, SHAPES["resnet50"], False, title="resnet50")),
    "channels_last": (
        "ResNet-50, channels_last",
        partial(warm, SHAPES["resnet50"], True, title="channels_last"),
    ),
    "gpt2": ("GPT-2 small", partial(warm, SHAPES["gpt2"], False, title="gpt2")),
}


def compare(names: Sequence[str], effort: Effort) -> Table:
    """One row for each model, and how much longer torch's fused step takes."""
    rows, timings = [], {}
    for name in names:
        title, measure = CASES[name]
        print(title, file=sys.stderr, flush=True)
        times = timings[title] = measure(effort)
        rows.append(
            {
                "model": title,
                **{kind: timing.median for kind, timing in times.items()},
                "ratio": times["torch fused"].median / times["fusestep.torch"].median,
            }
        )
    columns = [
        Column("model", "model"),
        *(Column(name, name, report.seconds) for name in (*kinds(), ON_ARRAYS)),
        Column("ratio", "torch fused / fusestep.torch", report.ratio),
    ]
    absent = deepspeed_absent()
    notes = [f"DeepSpeed is absent: {absent}."] if absent else []
    notes.append(f"All are within {TOLERANCE:g} of each other after 3 steps. {spread(timings)}")
    return Table("torch", "AdamW over tensors, float32", columns, rows, notes)


def run(options: argparse.Namespace) -> int:
    """Measures the models that the options ask for; 1 where the results differ."""
    names = selected(options, list(CASES), [OFFLOAD])
    if names is None:
        return 2
    if options.quick and not options.only:
        names = ["1x100", "1000x100", "backward"]
    torch.set_num_threads(fs.get_num_threads())
    effort = QUICK if options.quick else FULL
    parts = {"torch": partial(compare, names, effort), OFFLOAD: partial(offload.compare, effort)}
    if options.only and OFFLOAD not in options.only:
        del parts[OFFLOAD]
    if options.only == [OFFLOAD]:
        del parts["torch"]
    return command.run(options, "torch", parts, _draw)


def _draw(path: Path, tables: Sequence[Table], facts: Mapping[str, Any]) -> str:
    return "absent: the table is all there is"
