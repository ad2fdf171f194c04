"""Who is timed: fusestep, its peers, and the streaming limit of the machine."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import fusestep as fs

from .agreement import Contestant, Rule, assert_agreement
from .limit import Limit, limit_absent
from .models import Array, Problem
from .numpy_steps import NumPy, NumPyOut
from .peers import (
    DeepSpeed,
    Optax,
    TorchForeach,
    TorchFused,
    deepspeed_absent,
    optax_absent,
    torch_absent,
)


def adamw(parameters: Any, rule: Rule) -> fs.AdamW:
    """With the settings of the rule."""
    return fs.AdamW(
        parameters,
        lr=rule.lr,
        betas=rule.betas,
        eps=rule.eps,
        weight_decay=rule.weight_decay,
        clip_norm=rule.clip_norm,
    )


class Fusestep(Contestant):
    """Gradients passed at every step."""

    exact_norm = True

    def __init__(self, problem: Problem, rule: Rule) -> None:
        self.parameters = problem.fresh_parameters()
        self.optimizer: fs.AdamW | fs.SGD
        if rule.name == "AdamW":
            self.optimizer = adamw(self.parameters, rule)
        else:
            self.optimizer = fs.SGD(
                self.parameters,
                lr=rule.lr,
                momentum=rule.momentum,
                weight_decay=rule.weight_decay,
                clip_norm=rule.clip_norm,
            )
        self.step = functools.partial(self.optimizer.step, problem.gradients)

    def parameter(self, i: int) -> Array:
        return self.parameters[i]


class FusestepBound(Fusestep):
    """Gradients bound once."""

    def __init__(self, problem: Problem, rule: Rule) -> None:
        super().__init__(problem, rule)
        self.optimizer.bind(problem.gradients)
        self.step = self.optimizer.step


@dataclass(frozen=True)
class Entry:
    """A contestant by name; ``absent`` gives the reason why it cannot be here, or nothing."""

    name: str
    build: Callable[[Problem, Rule], Contestant]
    absent: Callable[[], str] = lambda: ""
    peer: bool = True  # one that fusestep is compared with
    fast: bool = False  # one of those that always run side by side
    computes: bool = True  # the limit does not


FUSESTEP = Entry("fusestep", Fusestep, peer=False, fast=True)
BOUND = Entry("fusestep bound", FusestepBound, peer=False, fast=True)
NUMPY = Entry("NumPy", NumPy)
NUMPY_OUT = Entry("NumPy out=", NumPyOut)
TORCH_FOREACH = Entry("torch foreach", TorchForeach, torch_absent)
TORCH_FUSED = Entry("torch fused", TorchFused, torch_absent, fast=True)
DEEPSPEED = Entry("DeepSpeed", DeepSpeed, deepspeed_absent, fast=True)
OPTAX = Entry("optax", Optax, optax_absent)
# after torch, whose OpenMP it then shares
LIMIT = Entry("limit", Limit, limit_absent, peer=False, fast=True, computes=False)


def usable(entries: Sequence[Entry]) -> tuple[list[Entry], dict[str, str]]:
    """The entries that can run here, and for each of the others the reason why not."""
    reasons = {entry.name: entry.absent() for entry in entries}
    present = [entry for entry in entries if not reasons[entry.name]]
    return present, {name: reason for name, reason in reasons.items() if reason}


def build(
    problem: Problem, rule: Rule, entries: Sequence[Entry]
) -> tuple[dict[str, Contestant], dict[str, float]]:
    """Contestants that agree, and their deviations; raises Disagreement."""
    gc.collect()  # optimizers hold cycles, and with them the memory of the model before
    contestants = {entry.name: entry.build(problem, rule) for entry in entries}
    computing = {entry.name: contestants[entry.name] for entry in entries if entry.computes}
    return contestants, assert_agreement(problem, rule, computing)
