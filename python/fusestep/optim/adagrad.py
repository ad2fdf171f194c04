"""Adagrad: steps that shrink with all gradients so far."""

from __future__ import annotations

from typing import Final

from .adam import NO_ZERO
from .base import Optimizer
from .fields import Groups, Scalar, flag
from .groups import Group


class AdagradGroup(Group):
    """The settings of Adagrad, for some of its parameters."""

    __slots__ = ()

    lr: Scalar = Scalar(1e-2)
    lr_decay: Scalar = Scalar(0.0)
    eps: Scalar = Scalar(1e-10, zero=NO_ZERO)
    weight_decay: Scalar = Scalar(0.0)
    eps_in_sqrt: Final[bool] = flag(False)
    initial_accumulator_value: Scalar = Scalar(0.0)
    decoupled_weight_decay: Final[bool] = flag(False, column="decoupled")


class Adagrad(AdagradGroup, Optimizer, rule="adagrad"):
    """Divides by the root of the sum of all squared gradients.

    For update number ``t`` of a parameter ``p`` with gradient ``g``::

        g = g + weight_decay * p              (or p = p * (1 - step * weight_decay) if decoupled)
        sum = sum + g * g
        p = p - step * g / (sqrt(sum) + eps)           step = lr / (1 + (t - 1) * lr_decay)

    Args:
        params: the arrays to update; see `Optimizer` for this and those from ``maximize`` on.
        lr: learning rate, at least 0.
        lr_decay: how fast the learning rate falls with the updates of a parameter, at least 0.
        eps: added to the root, above 0; see `Adam`.
        weight_decay: at least 0.
        eps_in_sqrt: divide by ``sqrt(sum + eps)``.
        initial_accumulator_value: what the sum is before the first update, at least 0. Of no effect
            afterwards.
        decoupled_weight_decay: apply it to the parameter, not to the gradient.

    The rule of Keras and optax: ``eps=1e-7, eps_in_sqrt=True, initial_accumulator_value=0.1``; with
    Keras the decay is decoupled.

    One state array, 20 bytes moved for a float32 parameter. A gradient whose square is beyond its
    dtype (from 1.8e19 in float32) makes the sum infinite: that element stands still from then on.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> w = np.array([1.0, -2.0])
        >>> opt = fs.Adagrad(w, lr=0.5)
        >>> for g in (3.0, 4.0):
        ...     info = opt.step(np.array([g, -g]))
        >>> w.round(6)
        array([ 0.1, -1.1])

    Source: Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning and
    stochastic optimization", 2011, with the conventions of torch.optim.Adagrad.
    """

    __slots__ = ()

    groups: Groups[AdagradGroup] = Groups(AdagradGroup)
