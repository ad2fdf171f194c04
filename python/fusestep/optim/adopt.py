"""ADOPT: Adam that divides by the average before the present gradient."""

from __future__ import annotations

from typing import Final

from .adam import NO_ZERO
from .base import Optimizer
from .fields import Groups, Limit, Pair, Scalar, flag
from .groups import Group


class ADOPTGroup(Group):
    """The settings of ADOPT, for some of its parameters."""

    __slots__ = ()

    lr: Scalar = Scalar(1e-3)
    betas: Pair = Pair((0.9, 0.9999), "beta1", "beta2")
    eps: Scalar = Scalar(1e-6, zero=NO_ZERO)
    weight_decay: Scalar = Scalar(0.0)
    clip_exp: Limit = Limit(0.25, unset=-1.0, is_global=False)
    decoupled_weight_decay: Final[bool] = flag(False, column="decoupled")


class ADOPT(ADOPTGroup, Optimizer, rule="adopt"):
    """Adam that converges with any ``beta2``: no gradient is divided by an average that has it.

    The first update of a parameter takes the square of its gradient, ``v = g * g``, and changes
    nothing else. For each later update ``t`` of a parameter ``p`` with gradient ``g``::

        g = g + weight_decay * p              (or p = p * (1 - lr * weight_decay) if decoupled)
        u = g / max(sqrt(v), eps), then clamped to [-limit, limit]      limit = (t - 1)^clip_exp
        m = m + (1 - beta1) * (u - m)
        v = beta2 * v + (1 - beta2) * (g * g)
        p = p - lr * m

    Coupled weight decay also stands in the first ``g``.

    Args:
        params: the arrays to update; see `Optimizer` for this and those from ``maximize`` on.
        lr: learning rate, at least 0.
        betas: how much the averages of ``u`` and the gradient's square keep, each in [0, 1).
        eps: the smallest divisor, above 0.
        weight_decay: at least 0.
        clip_exp: at least 0; 0.25 is the authors' and optax's, timm has 0.333. None does not clip:
            then an infinite ``u`` counts as the largest number.
        decoupled_weight_decay: apply it to the parameter, not to the gradient.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> w = np.array([1.0, -2.0])
        >>> opt = fs.ADOPT(w, lr=0.1)
        >>> for _ in range(3):
        ...     info = opt.step(w.copy())       # the gradient of |w|^2 / 2
        >>> w.round(4)
        array([ 0.9711, -1.971 ])

    Source: Taniguchi et al., "ADOPT: modified Adam can converge with any beta2 with the optimal
    rate", 2024.
    """

    __slots__ = ()

    groups: Groups[ADOPTGroup] = Groups(ADOPTGroup)
