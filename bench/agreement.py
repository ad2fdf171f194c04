"""What all contestants must compute, and the assertion that they did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .models import Problem

# From step to step the gradients change by powers of two, which is exact: with constant gradients
# Adam's steps are the signs of the gradients, whatever the betas. Clipped, all have one norm and
# keep their sign: opposite ones would cancel, but for the error of a peer that takes the norm in
# float32. An eps beside which gradients are small would show it too.
FACTORS, CLIPPED_FACTORS = (1.0, -0.5, 2.0), (1.0, 0.5, 2.0)

# A contestant may be off by this much of the parameter, or of SMALL where the parameter is smaller.
# Float32 itself makes 3e-7; a missing weight decay would be off by 3e-4. With clipping more is
# allowed, for peers that take the norm in float32: torch's is 0.4 % short for one array of 5e7,
# which makes 1.3e-4. No clipping at all would be off by 1e-2.
TOLERANCE, CLIPPED_TOLERANCE = 1e-5, 1e-3
SMALL = 0.01

_SLICE = 1 << 20


@dataclass(frozen=True)
class Rule:
    """One update rule with its settings, the same for all contestants."""

    name: str
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.9
    weight_decay: float = 0.1
    clip_norm: float | None = None
    factors: tuple[float, ...] = FACTORS
    tolerance: float = TOLERANCE

    @property
    def title(self) -> str:
        return self.name if self.clip_norm is None else f"{self.name} with clipping"


ADAMW = Rule("AdamW")
SGD = Rule("SGD")
# below the gradient norm of every model, so that it does clip
ADAMW_CLIPPED = Rule(
    "AdamW", clip_norm=0.1, eps=1e-12, factors=CLIPPED_FACTORS, tolerance=CLIPPED_TOLERANCE
)


class Contestant:
    """One library's optimizer over one model; ``step`` is what is timed."""

    step: Callable[[], object]
    exact_norm = False  # takes the norm in double: clipping gets no allowance

    def parameter(self, i: int) -> npt.NDArray[Any]:
        """The present values of the i-th parameter."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Takes over the problem's gradients, for contestants that hold copies of them."""


class Disagreement(Exception):
    """A contestant computed something else."""


def assert_agreement(
    problem: Problem, rule: Rule, contestants: Mapping[str, Contestant]
) -> dict[str, float]:
    """Lets fresh contestants take three steps and compares them with float64 NumPy.

    Returns the largest deviation of each; raises Disagreement beyond the rule's tolerance.
    """
    for factor in rule.factors:
        _scale(problem, factor)
        for contestant in contestants.values():
            contestant.refresh()
            contestant.step()
        _scale(problem, 1 / factor)
    for contestant in contestants.values():
        contestant.refresh()

    factors = _effective_factors(problem, rule)
    worst = dict.fromkeys(contestants, 0.0)
    for i, (parameter, gradient) in enumerate(
        zip(problem.parameters, problem.gradients, strict=True)
    ):
        present = {name: c.parameter(i).reshape(-1) for name, c in contestants.items()}
        for begin in range(0, parameter.size, _SLICE):
            part = slice(begin, begin + _SLICE)
            expected = _REFERENCES[rule.name](
                rule,
                parameter.reshape(-1)[part].astype(np.float64),
                gradient.reshape(-1)[part].astype(np.float64),
                factors,
            )
            scale = np.maximum(np.abs(expected), SMALL)
            for name, values in present.items():
                deviation = float(np.max(np.abs(values[part] - expected) / scale))
                allowed = TOLERANCE if contestants[name].exact_norm else rule.tolerance
                if not deviation <= allowed:
                    raise Disagreement(
                        f"{rule.title}, {problem.model.title}: {name} is off by {deviation:.1e} in "
                        f"array {i} after {len(rule.factors)} steps; at most {allowed:.0e}"
                    )
                worst[name] = max(worst[name], deviation)
    return worst


def _scale(problem: Problem, factor: float) -> None:
    for gradient in problem.gradients:
        gradient *= factor


def _effective_factors(problem: Problem, rule: Rule) -> list[float]:
    """What each step multiplies the gradients by, clipping included."""
    if rule.clip_norm is None:
        return list(rule.factors)
    squares = (np.square(gradient, dtype=np.float64).sum() for gradient in problem.gradients)
    norm = float(np.sqrt(sum(squares)))
    return [f * min(1.0, rule.clip_norm / (abs(f) * norm)) for f in rule.factors]


Reference = Callable[
    [Rule, npt.NDArray[np.float64], npt.NDArray[np.float64], list[float]], npt.NDArray[np.float64]
]


def _adamw(
    rule: Rule,
    p: npt.NDArray[np.float64],
    gradient: npt.NDArray[np.float64],
    factors: list[float],
) -> npt.NDArray[np.float64]:
    beta1, beta2 = rule.betas
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, factor in enumerate(factors, start=1):
        g = factor * gradient
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        p = p - rule.lr * rule.weight_decay * p
        p = p - rule.lr * m_hat / (np.sqrt(v_hat) + rule.eps)
    return p


def _sgd(
    rule: Rule,
    p: npt.NDArray[np.float64],
    gradient: npt.NDArray[np.float64],
    factors: list[float],
) -> npt.NDArray[np.float64]:
    b = np.zeros_like(p)
    for factor in factors:
        b = rule.momentum * b + factor * gradient + rule.weight_decay * p
        p = p - rule.lr * b
    return p


_REFERENCES: dict[str, Reference] = {"AdamW": _adamw, "SGD": _sgd}
