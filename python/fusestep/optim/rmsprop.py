"""RMSprop, as torch has it and as TensorFlow and Keras do."""

from __future__ import annotations

from typing import Final

from .adam import NO_ZERO
from .base import Optimizer
from .fields import Groups, Scalar, flag
from .groups import Group


class RMSpropGroup(Group):
    """The settings of RMSprop, for some of its parameters."""

    __slots__ = ()

    lr: Scalar = Scalar(1e-2)
    alpha: Scalar = Scalar(0.99)
    eps: Scalar = Scalar(1e-8, zero=NO_ZERO)
    weight_decay: Scalar = Scalar(0.0)
    momentum: Scalar = Scalar(0.0, kept_by="buffered")
    centered: Final[bool] = flag(False)
    eps_in_sqrt: Final[bool] = flag(False)
    lr_in_momentum: Final[bool] = flag(False)
    initial_accumulator_value: Scalar = Scalar(0.0)
    decoupled_weight_decay: Final[bool] = flag(False, column="decoupled")


class RMSprop(RMSpropGroup, Optimizer, rule="rmsprop"):
    """Divides by the root of an average of squared gradients.

    For gradient ``g`` and parameter ``p``, with ``b`` the momentum buffer::

        g = g + weight_decay * p              (or p = p * (1 - lr * weight_decay) if decoupled)
        v = alpha * v + (1 - alpha) * (g * g)
        m = m + (1 - alpha) * (g - m)         if centered
        d = sqrt(v) + eps                     if centered, sqrt(max(v - m * m, 0)) + eps
        p = p - lr * g / d                    without momentum; with it
        b = momentum * b + g / d
        p = p - lr * b

    Args:
        params: the arrays to update; see `Optimizer` for this and those from ``maximize`` on.
        lr: learning rate, at least 0.
        alpha: how much the averages keep, in [0, 1); ``rho`` in Keras, ``decay`` in optax.
        eps: added to the root, above 0; see `Adam`.
        weight_decay: at least 0.
        momentum: at least 0. It may change later, but not from 0: the buffers would be missing.
        centered: divide by the standard deviation instead, for which ``m`` is a state array.
        eps_in_sqrt: ``d = sqrt(v + eps)``.
        lr_in_momentum: the buffer has the learning rates of their time,
            ``b = momentum * b + lr * g / d`` and ``p = p - b``.
        initial_accumulator_value: what ``v`` is before the first update, at least 0. Of no effect
            afterwards.
        decoupled_weight_decay: apply it to the parameter, not to the gradient.

    The rule of others:

    - Keras: ``alpha=0.9, eps=1e-7, eps_in_sqrt=True, lr_in_momentum=True`` and decoupled decay;
    - optax: ``alpha=0.9, eps_in_sqrt=True, lr_in_momentum=True``;
    - TensorFlow 1 and timm's RMSpropTF: ``alpha=0.9, eps=1e-10, eps_in_sqrt=True,
      lr_in_momentum=True, initial_accumulator_value=1.0``.

    These take the root of ``v - m * m`` as it is, which rounding can bring below 0: NaN there, and
    the root of 0 here.

    One state array, and one more each with ``centered`` and with momentum: 20, 28 or 36 bytes
    moved for a float32 parameter. A gradient whose square is beyond its dtype (from 1.8e19 in
    float32) makes ``v`` infinite for good: that element stands still from then on (or, with
    ``centered``, may become NaN).

    Example:
        >>> import numpy as np, fusestep as fs
        >>> w = np.array([1.0, -2.0])
        >>> opt = fs.RMSprop(w, lr=0.25, alpha=0.75)
        >>> for _ in range(2):
        ...     info = opt.step(w.copy())       # the gradient of |w|^2 / 2
        >>> w.round(4)
        array([ 0.25  , -1.1727])

    Source: Tieleman and Hinton, "Lecture 6.5: RMSprop", 2012; centred: Graves, "Generating
    sequences with recurrent neural networks", 2013; with the conventions of torch.optim.RMSprop.
    """

    __slots__ = ()

    groups: Groups[RMSpropGroup] = Groups(RMSpropGroup)
