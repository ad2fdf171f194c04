"""Adadelta: steps as large as the last ones."""

from __future__ import annotations

from typing import Final

from .adam import NO_ZERO
from .base import Optimizer
from .fields import Groups, Scalar, flag
from .groups import Group


class AdadeltaGroup(Group):
    """The settings of Adadelta, for some of its parameters."""

    __slots__ = ()

    lr: Scalar = Scalar(1.0)
    rho: Scalar = Scalar(0.9)
    eps: Scalar = Scalar(1e-6, zero=NO_ZERO)
    weight_decay: Scalar = Scalar(0.0)
    decoupled_weight_decay: Final[bool] = flag(False, column="decoupled")


class Adadelta(AdadeltaGroup, Optimizer, rule="adadelta"):
    """Divides by the root of an average of squared gradients, and multiplies by that of its steps.

    For gradient ``g`` and parameter ``p``::

        g = g + weight_decay * p              (or p = p * (1 - lr * weight_decay) if decoupled)
        v = rho * v + (1 - rho) * (g * g)
        delta = sqrt(acc_delta + eps) / sqrt(v + eps) * g
        acc_delta = rho * acc_delta + (1 - rho) * (delta * delta)
        p = p - lr * delta

    Args:
        params: the arrays to update; see `Optimizer` for this and those from ``maximize`` on.
        lr: learning rate, at least 0; the paper has none, which is 1.
        rho: how much the averages keep, in [0, 1).
        eps: added in both roots, above 0. It decides how large the first steps are.
        weight_decay: at least 0.
        decoupled_weight_decay: apply it to the parameter, not to the gradient.

    The rule of Keras: ``lr=1e-3, rho=0.95, eps=1e-7`` and decoupled decay.

    Two state arrays, 28 bytes moved for a float32 parameter. A gradient whose square is beyond its
    dtype (from 1.8e19 in float32) makes ``v`` infinite for good: that element stands still from
    then on.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> w = np.array([1.0, -2.0])
        >>> opt = fs.Adadelta(w, eps=1e-2)
        >>> for _ in range(2):
        ...     info = opt.step(w.copy())       # the gradient of |w|^2 / 2
        >>> w.round(4)
        array([ 0.4483, -1.3945])

    Source: Zeiler, "ADADELTA: an adaptive learning rate method", 2012, with the conventions of
    torch.optim.Adadelta.
    """

    __slots__ = ()

    groups: Groups[AdadeltaGroup] = Groups(AdadeltaGroup)
