"""RAdam: Adam that waits until its second average is known well enough."""

from __future__ import annotations

from typing import Final

from .adam import NO_ZERO, EpsMode
from .base import Optimizer
from .fields import Groups, Pair, Scalar, choice, flag
from .groups import Group


class RAdamGroup(Group):
    """The settings of RAdam, for some of its parameters."""

    __slots__ = ()

    lr: Scalar = Scalar(1e-3)
    betas: Pair = Pair((0.9, 0.999), "beta1", "beta2")
    eps: Scalar = Scalar(1e-8, zero=NO_ZERO)
    weight_decay: Scalar = Scalar(0.0)
    decoupled_weight_decay: Final[bool] = flag(False, column="decoupled")
    eps_mode: Final[EpsMode] = choice(EpsMode, "hat", column="eps_hat")


class RAdam(RAdamGroup, Optimizer, rule="radam"):
    """Rectified Adam: without a second average at first, then with a step as sure as that is.

    For update number ``t`` of a parameter ``p`` with gradient ``g``::

        g = g + weight_decay * p              (or p = p * (1 - lr * weight_decay) if decoupled)
        m = m + (1 - beta1) * (g - m)
        v = beta2 * v + (1 - beta2) * (g * g)
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * t * beta2^t / c2        c1 = 1 - beta1^t, c2 = 1 - beta2^t
        if length <= 5:     p = p - lr / c1 * m
        else:               p = p - lr * r * sqrt(c2) / c1 * m / (sqrt(v) + eps)

    with ``r^2 = (length - 4) (length - 2) longest / ((longest - 4) (longest - 2) length)``. For a
    ``beta2`` from 0.9 to 0.999 the sixth update is the first to divide by the root; below 0.667
    none does.

    Args:
        params: the arrays to update; see `Optimizer` for this and those from ``maximize`` on.
        lr: learning rate, at least 0.
        betas: how much the averages of the gradient and its square keep, each in [0, 1).
        eps: added to the root, above 0; see `Adam`.
        weight_decay: at least 0.
        decoupled_weight_decay: apply it to the parameter, not to the gradient.
        eps_mode: "hat" adds ``eps`` to the uncorrected root, as above and in torch; "after" to the
            corrected one, ``p = p - lr * r / c1 * m / (sqrt(v) / sqrt(c2) + eps)``, as optax does.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> w = np.array([1.0, -2.0])
        >>> opt = fs.RAdam(w, lr=0.1)
        >>> for _ in range(6):
        ...     info = opt.step(w.copy())       # the gradient of |w|^2 / 2
        >>> w.round(4)
        array([ 0.5499, -1.1023])

    Source: Liu et al., "On the variance of the adaptive learning rate and beyond", 2020, with the
    conventions of torch.optim.RAdam.
    """

    __slots__ = ()

    groups: Groups[RAdamGroup] = Groups(RAdamGroup)
