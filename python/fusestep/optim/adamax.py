"""Adamax: Adam with the largest gradient in place of the root."""

from __future__ import annotations

from typing import Final, Literal

from .adam import NO_ZERO
from .base import Optimizer
from .fields import Groups, Pair, Scalar, choice, flag
from .groups import Group

EpsMode = Literal["max", "after"]


class AdamaxGroup(Group):
    """The settings of Adamax, for some of its parameters."""

    __slots__ = ()

    lr: Scalar = Scalar(2e-3)
    betas: Pair = Pair((0.9, 0.999), "beta1", "beta2")
    eps: Scalar = Scalar(1e-8, zero=NO_ZERO)
    weight_decay: Scalar = Scalar(0.0)
    eps_mode: Final[EpsMode] = choice(EpsMode, "max", column="eps_after")
    decoupled_weight_decay: Final[bool] = flag(False, column="decoupled")


class Adamax(AdamaxGroup, Optimizer, rule="adamax"):
    """Adam that divides by the largest gradient, which fades, instead of the root of an average.

    For update number ``t`` of a parameter ``p`` with gradient ``g``::

        g = g + weight_decay * p              (or p = p * (1 - lr * weight_decay) if decoupled)
        m = m + (1 - beta1) * (g - m)
        u = max(beta2 * u, |g| + eps)
        p = p - lr / (1 - beta1^t) * m / u

    Args:
        params: the arrays to update; see `Optimizer` for this and those from ``maximize`` on.
        lr: learning rate, at least 0.
        betas: how much the average of the gradient and the largest one keep, each in [0, 1).
        eps: above 0; see `Adam`.
        weight_decay: at least 0.
        eps_mode: "max" adds ``eps`` within the maximum, as above and in torch and optax; "after"
            to it, ``p = p - lr / (1 - beta1^t) * m / (u + eps)``, as Keras does.
        decoupled_weight_decay: apply it to the parameter, not to the gradient.

    The rule of Keras: ``lr=1e-3, eps=1e-7, eps_mode="after"`` and decoupled decay.

    Two state arrays, 28 bytes moved for a float32 parameter. Nothing is squared, so that only an
    infinite gradient makes its element NaN.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> w = np.array([1.0, -2.0])
        >>> opt = fs.Adamax(w, lr=0.1)
        >>> for _ in range(2):
        ...     info = opt.step(w.copy())       # the gradient of |w|^2 / 2
        >>> w.round(4)
        array([ 0.8052, -1.8025])

    Source: Kingma and Ba, "Adam: a method for stochastic optimization", 2015, section 7.1, with the
    conventions of torch.optim.Adamax.
    """

    __slots__ = ()

    groups: Groups[AdamaxGroup] = Groups(AdamaxGroup)
