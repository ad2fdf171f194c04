"""The NumPy contestants: as people write it, and without allocations."""

from __future__ import annotations

import math

import numpy as np

from .agreement import Contestant, Rule
from .models import Array, Problem


class _NumPy(Contestant):
    def __init__(self, problem: Problem, rule: Rule) -> None:
        self.rule = rule
        self.parameters = problem.fresh_parameters()
        self.gradients = problem.gradients
        self.m = [np.zeros_like(p) for p in self.parameters]  # of SGD the momentum buffer
        self.v = [np.zeros_like(p) for p in self.parameters if rule.name == "AdamW"]
        self.updates = 0
        self.step = self.adamw if rule.name == "AdamW" else self.sgd

    def adamw(self) -> None:
        raise NotImplementedError

    def sgd(self) -> None:
        raise NotImplementedError

    def parameter(self, i: int) -> Array:
        return self.parameters[i]


class NumPy(_NumPy):
    """As people write it: the formulas, one array after the other."""

    def adamw(self) -> None:
        rule, (beta1, beta2) = self.rule, self.rule.betas
        self.updates += 1
        c1, c2 = 1 - beta1**self.updates, 1 - beta2**self.updates
        for i, g in enumerate(self._clipped()):
            self.m[i] = beta1 * self.m[i] + (1 - beta1) * g
            self.v[i] = beta2 * self.v[i] + (1 - beta2) * g**2
            m_hat, v_hat = self.m[i] / c1, self.v[i] / c2
            self.parameters[i] -= rule.lr * rule.weight_decay * self.parameters[i]
            self.parameters[i] -= rule.lr * m_hat / (np.sqrt(v_hat) + rule.eps)

    def sgd(self) -> None:
        rule = self.rule
        for i, g in enumerate(self._clipped()):
            g = g + rule.weight_decay * self.parameters[i]
            self.m[i] = rule.momentum * self.m[i] + g
            self.parameters[i] -= rule.lr * self.m[i]

    def _clipped(self) -> list[Array]:
        if self.rule.clip_norm is None:
            return self.gradients
        norm = math.sqrt(sum(float(np.sum(g**2)) for g in self.gradients))
        if norm <= self.rule.clip_norm:
            return self.gradients
        return [g * (self.rule.clip_norm / norm) for g in self.gradients]


class NumPyOut(_NumPy):
    """Every operation writes into memory that exists already."""

    def __init__(self, problem: Problem, rule: Rule) -> None:
        super().__init__(problem, rule)
        largest = max(p.size for p in self.parameters)
        scratch = [np.empty(largest, np.float32) for _ in range(2)]
        self.scratch = [
            tuple(memory[: p.size].reshape(p.shape) for memory in scratch) for p in self.parameters
        ]

    def adamw(self) -> None:
        rule, (beta1, beta2) = self.rule, self.rule.betas
        self.updates += 1
        c1, c2 = 1 - beta1**self.updates, 1 - beta2**self.updates
        factor = self._clip_factor()
        arrays = zip(self.parameters, self.gradients, self.m, self.v, self.scratch, strict=True)
        for p, g, m, v, (clipped, d) in arrays:
            if factor < 1:
                g = np.multiply(g, factor, out=clipped)
            p *= 1 - rule.lr * rule.weight_decay
            m *= beta1
            m += np.multiply(g, 1 - beta1, out=d)
            v *= beta2
            np.multiply(g, g, out=d)
            d *= 1 - beta2
            v += d
            np.sqrt(v, out=d)
            d *= 1 / math.sqrt(c2)
            d += rule.eps
            np.divide(m, d, out=d)
            d *= rule.lr / c1
            p -= d

    def sgd(self) -> None:
        rule = self.rule
        factor = self._clip_factor()
        arrays = zip(self.parameters, self.gradients, self.m, self.scratch, strict=True)
        for p, g, b, (clipped, d) in arrays:
            if factor < 1:
                g = np.multiply(g, factor, out=clipped)
            b *= rule.momentum
            b += g
            b += np.multiply(p, rule.weight_decay, out=d)
            p -= np.multiply(b, rule.lr, out=d)

    def _clip_factor(self) -> float:
        if self.rule.clip_norm is None:
            return 1.0
        squares = sum(float(np.vdot(g, g)) for g in self.gradients)
        return min(1.0, self.rule.clip_norm / math.sqrt(squares))
