"""NAdam: Adam that looks ahead."""

from __future__ import annotations

from typing import Final

from .adam import NO_ZERO
from .base import Optimizer
from .fields import Groups, Pair, Scalar, flag
from .groups import Group


class NAdamGroup(Group):
    """The settings of NAdam, for some of its parameters."""

    __slots__ = ()

    lr: Scalar = Scalar(2e-3)
    betas: Pair = Pair((0.9, 0.999), "beta1", "beta2")
    eps: Scalar = Scalar(1e-8, zero=NO_ZERO)
    weight_decay: Scalar = Scalar(0.0)
    momentum_decay: Scalar = Scalar(4e-3)
    decoupled_weight_decay: Final[bool] = flag(False, column="decoupled")


class NAdam(NAdamGroup, Optimizer, rule="nadam"):
    """Adam with Nesterov's momentum, which rises to ``beta1``.

    For update number ``t`` of a parameter ``p`` with gradient ``g``::

        g = g + weight_decay * p              (or p = p * (1 - lr * weight_decay) if decoupled)
        mu(t) = beta1 * (1 - 0.96^(t * momentum_decay) / 2),    P(t) = mu(1) * ... * mu(t)
        m = m + (1 - beta1) * (g - m)
        v = beta2 * v + (1 - beta2) * (g * g)
        u = lr * (1 - mu(t)) / (1 - P(t)) * g + lr * mu(t + 1) / (1 - P(t) * mu(t + 1)) * m
        p = p - u / (sqrt(v) / sqrt(1 - beta2^t) + eps)

    Args:
        params: the arrays to update; see `Optimizer` for this and those from ``maximize`` on.
        lr: learning rate, at least 0.
        betas: how much the averages of the gradient and its square keep, each in [0, 1).
        eps: added to the root, above 0; see `Adam`.
        weight_decay: at least 0.
        momentum_decay: how fast ``mu`` rises, at least 0. Keras has 1.
        decoupled_weight_decay: apply it to the parameter, not to the gradient.

    ``P`` is kept with each parameter, in double, and saved with the state: where ``betas`` or
    ``momentum_decay`` follow a schedule, it is the product of the momenta that were used.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> w = np.array([1.0, -2.0])
        >>> opt = fs.NAdam(w, lr=0.1)
        >>> for _ in range(2):
        ...     info = opt.step(w.copy())       # the gradient of |w|^2 / 2
        >>> w.round(4)
        array([ 0.82  , -1.8179])

    Source: Dozat, "Incorporating Nesterov momentum into Adam", 2016, with the conventions of
    torch.optim.NAdam.
    """

    __slots__ = ()

    groups: Groups[NAdamGroup] = Groups(NAdamGroup)
