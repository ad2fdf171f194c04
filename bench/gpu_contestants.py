"""Who is timed on the GPU: fusestep, torch, optax, CuPy as people write it, and a copy."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import peers
from .agreement import Contestant, Rule
from .contestants import adamw
from .models import Array, Problem
from .peers import first_line

REPLAYS = 100  # that are prepared at once


def _cupy() -> Any:
    return importlib.import_module("cupy")


class DeviceContestant(Contestant):
    """Arrays on the GPU. ``step`` returns before the GPU is done; ``wait`` does not."""

    rule: Rule

    def wait(self) -> None:
        _cupy().cuda.Device().synchronize()


class Fusestep(DeviceContestant):
    """Gradients passed at every step."""

    exact_norm = True

    def __init__(self, problem: Problem, rule: Rule) -> None:
        cupy = _cupy()
        self.problem = problem
        self.parameters = [cupy.asarray(p) for p in problem.parameters]
        self.gradients = [cupy.asarray(g) for g in problem.gradients]
        self.optimizer = adamw(self.parameters, rule)
        self.step: Callable[[], object] = functools.partial(self.optimizer.step, self.gradients)

    def parameter(self, i: int) -> Array:
        return np.asarray(self.parameters[i].get())

    def refresh(self) -> None:
        for gradient, values in zip(self.gradients, self.problem.gradients, strict=True):
            gradient.set(values)


class FusestepBound(Fusestep):
    """Gradients bound once."""

    def __init__(self, problem: Problem, rule: Rule) -> None:
        super().__init__(problem, rule)
        self.optimizer.bind(self.gradients)
        self.step = self.optimizer.step


class FusestepReplayed(FusestepBound):
    """Captured once and replayed; the preparation of replays counts."""

    def __init__(self, problem: Problem, rule: Rule) -> None:
        super().__init__(problem, rule)
        self.stream = _cupy().cuda.Stream(non_blocking=True)
        with self.stream:
            self.optimizer.prepare_replays(REPLAYS)
            self.stream.synchronize()
            self.stream.begin_capture()
            self.optimizer.step()
            self.graph = self.stream.end_capture()
        self.left = REPLAYS
        self.step = self.replay

    def replay(self) -> None:
        with self.stream:
            if self.left == 0:
                self.optimizer.prepare_replays(REPLAYS)
                self.left = REPLAYS
            self.graph.launch(self.stream)
        self.left -= 1

    def refresh(self) -> None:
        self.wait()
        super().refresh()
        self.wait()


class Torch(DeviceContestant):
    """torch.optim.AdamW with one of its implementations."""

    def __init__(self, problem: Problem, rule: Rule, **options: bool) -> None:
        self.torch: Any = importlib.import_module("torch")
        self.problem = problem
        tensor = functools.partial(self.torch.tensor, device="cuda")
        self.parameters = [self.torch.nn.Parameter(tensor(p)) for p in problem.parameters]
        for p, g in zip(self.parameters, problem.gradients, strict=True):
            p.grad = tensor(g)
        settings = {"betas": rule.betas, "eps": rule.eps, "weight_decay": rule.weight_decay}
        self.optimizer = self.torch.optim.AdamW(self.parameters, lr=rule.lr, **settings, **options)
        self.clip_norm = rule.clip_norm
        self.step = self.optimizer.step if rule.clip_norm is None else self.clip_then_step

    def clip_then_step(self) -> None:
        clip = self.torch.nn.utils.clip_grad_norm_
        clip(self.parameters, self.clip_norm, foreach=True)
        self.optimizer.step()

    def wait(self) -> None:
        self.torch.cuda.synchronize()

    def parameter(self, i: int) -> Array:
        return np.asarray(self.parameters[i].detach().cpu().numpy())

    def refresh(self) -> None:
        for p, g in zip(self.parameters, self.problem.gradients, strict=True):
            p.grad.copy_(self.torch.from_numpy(g))


class TorchReplayed(Torch):
    """Fused and capturable, captured once and replayed."""

    def __init__(self, problem: Problem, rule: Rule) -> None:
        super().__init__(problem, rule, fused=True, capturable=True)
        eager = self.step
        before = [p.detach().clone() for p in self.parameters]
        side = self.torch.cuda.Stream()
        with self.torch.cuda.stream(side):
            eager()  # makes the state
        side.synchronize()
        with self.torch.no_grad():
            for p, values in zip(self.parameters, before, strict=True):
                p.copy_(values)
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()
        del before
        self.graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(self.graph):
            eager()
        self.step = self.graph.replay
        self.refresh()


class Optax(peers.Optax, DeviceContestant):
    """Jitted as one function, with the memory of parameters and state donated."""

    def step(self) -> None:
        self.parameters, self.state = self.update(self.parameters, self.state, self.gradients)

    def wait(self) -> None:
        self.jax.block_until_ready((self.parameters, self.state))


class CuPyAsWritten(DeviceContestant):
    """The formula in array expressions, one array after the other."""

    def __init__(self, problem: Problem, rule: Rule) -> None:
        cupy = _cupy()
        self.cupy, self.problem, self.rule = cupy, problem, rule
        self.parameters = [cupy.asarray(p) for p in problem.parameters]
        self.gradients = [cupy.asarray(g) for g in problem.gradients]
        self.m = [cupy.zeros_like(p) for p in self.parameters]
        self.v = [cupy.zeros_like(p) for p in self.parameters]
        self.t = 0

    def step(self) -> None:
        rule, (beta1, beta2) = self.rule, self.rule.betas
        self.t += 1
        factor = 1.0
        if rule.clip_norm is not None:
            total = sum((g * g).sum() for g in self.gradients)
            factor = self.cupy.minimum(1.0, rule.clip_norm / (self.cupy.sqrt(total)))
        c1, c2 = 1 - beta1**self.t, 1 - beta2**self.t
        for i, p in enumerate(self.parameters):
            g = self.gradients[i] if rule.clip_norm is None else self.gradients[i] * factor
            p *= 1 - rule.lr * rule.weight_decay
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g * g
            p -= rule.lr * (self.m[i] / c1) / (self.cupy.sqrt(self.v[i] / c2) + rule.eps)

    def parameter(self, i: int) -> Array:
        return np.asarray(self.parameters[i].get())

    def refresh(self) -> None:
        for gradient, values in zip(self.gradients, self.problem.gradients, strict=True):
            gradient.set(values)


class Copy(DeviceContestant):
    """Reads and writes, from one array to another, the 28 bytes that each parameter costs."""

    def __init__(self, problem: Problem, rule: Rule) -> None:
        cupy = _cupy()
        size = 14 * problem.model.parameters // 16 * 4
        self.source, self.target = cupy.zeros(size, np.float32), cupy.empty(size, np.float32)

    def step(self) -> None:
        self.target[...] = self.source


@dataclass(frozen=True)
class Entry:
    """A contestant by name; ``absent`` gives the reason why it cannot be here, or nothing."""

    name: str
    build: Callable[[Problem, Rule], DeviceContestant]
    absent: Callable[[], str] = lambda: ""
    peer: bool = True
    computes: bool = True


@functools.cache
def gpu_absent() -> str:
    """The reason why nothing can run here, or nothing; likewise the others below."""
    try:
        return "" if _cupy().is_available() else "CuPy finds no GPU"
    except ImportError as error:
        return first_line(error)


@functools.cache
def torch_absent() -> str:
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        return first_line(error)
    return "" if torch.cuda.is_available() else "this torch finds no GPU"


@functools.cache
def optax_absent() -> str:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # memory is for all
    try:
        jax: Any = importlib.import_module("jax")
        importlib.import_module("optax")
        return "" if jax.default_backend() == "gpu" else "this jax finds no GPU"
    except (ImportError, RuntimeError) as error:
        return first_line(error)


COPY = "copy"
ENTRIES = (
    Entry("fusestep", Fusestep, peer=False),
    Entry("fusestep bound", FusestepBound, peer=False),
    Entry("fusestep replayed", FusestepReplayed, peer=False),
    Entry("torch foreach", functools.partial(Torch, foreach=True), torch_absent),
    Entry("torch fused", functools.partial(Torch, fused=True), torch_absent),
    Entry("torch fused, replayed", TorchReplayed, torch_absent),
    Entry("optax", Optax, optax_absent),
    Entry("CuPy", CuPyAsWritten),
    Entry(COPY, Copy, peer=False, computes=False),
)
