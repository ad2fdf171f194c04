"""The other libraries: torch, DeepSpeed and optax."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import fusestep as fs

from .agreement import Contestant, Rule
from .models import Array, Problem


class Torch(Contestant):
    """Parameters and gradients as torch makes them; who writes gradients has its own."""

    def __init__(self, problem: Problem, writes_gradients: bool) -> None:
        self.torch: Any = importlib.import_module("torch")
        self.torch.set_num_threads(fs.get_num_threads())
        self.problem = problem
        self.parameters = [
            self.torch.nn.Parameter(self.torch.tensor(p)) for p in problem.parameters
        ]
        gradients = None if writes_gradients else problem.converted.get("torch")
        if gradients is None:
            gradients = [self.torch.tensor(g) for g in problem.gradients]
        if not writes_gradients:
            problem.converted["torch"] = gradients
        for p, g in zip(self.parameters, gradients, strict=True):
            p.grad = g

    def parameter(self, i: int) -> Array:
        return np.asarray(self.parameters[i].detach().numpy())

    def refresh(self) -> None:
        for p, g in zip(self.parameters, self.problem.gradients, strict=True):
            p.grad.copy_(self.torch.from_numpy(g))


class _TorchOptim(Torch):
    """torch.optim; clipping is torch's own, before the step."""

    options: ClassVar[Mapping[str, bool]]

    def __init__(self, problem: Problem, rule: Rule) -> None:
        super().__init__(problem, writes_gradients=rule.clip_norm is not None)
        shared = {"lr": rule.lr, "weight_decay": rule.weight_decay, **self.options}
        optim = self.torch.optim
        if rule.name == "AdamW":
            self.optimizer = optim.AdamW(self.parameters, betas=rule.betas, eps=rule.eps, **shared)
        else:
            self.optimizer = optim.SGD(self.parameters, momentum=rule.momentum, **shared)
        self.clip_norm = rule.clip_norm
        self.step = self.optimizer.step if rule.clip_norm is None else self.clip_then_step

    def clip_then_step(self) -> None:
        clip = self.torch.nn.utils.clip_grad_norm_
        clip(self.parameters, self.clip_norm, foreach=True)
        self.optimizer.step()


class TorchForeach(_TorchOptim):
    """One operation of the formula after the other, each over all arrays."""

    options: ClassVar[Mapping[str, bool]] = {"foreach": True}


class TorchFused(_TorchOptim):
    """The whole formula in one pass, one array after the other."""

    options: ClassVar[Mapping[str, bool]] = {"fused": True}


class DeepSpeed(Torch):
    """DeepSpeed's CPUAdam, which compiles itself on first use: that can take a minute."""

    def __init__(self, problem: Problem, rule: Rule) -> None:
        super().__init__(problem, writes_gradients=False)
        self.optimizer = deepspeed_adam()(
            self.parameters,
            lr=rule.lr,
            betas=rule.betas,
            eps=rule.eps,
            weight_decay=rule.weight_decay,
            adamw_mode=True,
        )
        self.step = self.optimizer.step


class Jitted(Contestant):
    """One function, with the memory of parameters and state donated."""

    def __init__(self, problem: Problem, make: Callable[[Any], Any]) -> None:
        """``make`` gives the transform, from optax."""
        self.jax: Any = importlib.import_module("jax")
        optax: Any = importlib.import_module("optax")
        transform = make(optax)
        self.problem = problem
        self.parameters = [self.jax.numpy.array(p) for p in problem.parameters]
        # a state may share memory with a parameter, which can be donated once only
        copy = functools.partial(self.jax.numpy.array, copy=True)
        self.state = self.jax.tree.map(copy, transform.init(self.parameters))
        self.refresh()

        @functools.partial(self.jax.jit, donate_argnums=(0, 1))
        def update(parameters: Any, state: Any, gradients: Any) -> tuple[Any, Any]:
            updates, state = transform.update(gradients, state, parameters)
            return optax.apply_updates(parameters, updates), state

        self.update = update

    def step(self) -> None:
        done = self.update(self.parameters, self.state, self.gradients)
        self.parameters, self.state = self.jax.block_until_ready(done)

    def parameter(self, i: int) -> Array:
        return np.asarray(self.parameters[i])

    def refresh(self) -> None:
        self.gradients = [self.jax.numpy.array(g) for g in self.problem.gradients]


class Optax(Jitted):
    """AdamW, with clipping by its own function."""

    def __init__(self, problem: Problem, rule: Rule) -> None:
        def make(optax: Any) -> Any:
            beta1, beta2 = rule.betas
            transform = optax.adamw(rule.lr, beta1, beta2, rule.eps, weight_decay=rule.weight_decay)
            if rule.clip_norm is None:
                return transform
            return optax.chain(optax.clip_by_global_norm(rule.clip_norm), transform)

        super().__init__(problem, make)


@functools.cache
def torch_absent() -> str:
    """The reason why torch cannot be here, or nothing; likewise the others below."""
    try:
        importlib.import_module("torch")
    except ImportError as error:
        return first_line(error)
    return ""


@functools.cache
def deepspeed_absent() -> str:
    if torch_absent():
        return torch_absent()
    try:
        torch: Any = importlib.import_module("torch")
        deepspeed_adam()([torch.nn.Parameter(torch.ones(1))])
    except Exception as error:  # whatever a build on this machine may raise
        return first_line(error)
    return ""


@functools.cache
def optax_absent() -> str:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        importlib.import_module("jax")
        importlib.import_module("optax")
    except ImportError as error:
        return first_line(error)
    return ""


@functools.cache
def deepspeed_adam() -> Any:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # its build looks for ninja on the path, where that of an environment not activated is missing
    os.environ["PATH"] += os.pathsep + str(Path(sys.executable).parent)
    return importlib.import_module("deepspeed.ops.adam").DeepSpeedCPUAdam


def first_line(error: BaseException) -> str:
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
