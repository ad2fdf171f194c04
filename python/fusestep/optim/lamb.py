"""LAMB: Adam for large batches."""

from __future__ import annotations

from typing import Final

from .adam import NO_ZERO
from .base import Optimizer
from .fields import Groups, Pair, Scalar, flag
from .groups import Group


class LAMBGroup(Group):
    """The settings of LAMB, for some of its parameters."""

    __slots__ = ()

    lr: Scalar = Scalar(1e-3)
    betas: Pair = Pair((0.9, 0.999), "beta1", "beta2")
    eps: Scalar = Scalar(1e-6, zero=NO_ZERO)
    weight_decay: Scalar = Scalar(0.01)
    bias_correction: Final[bool] = flag(True)
    grad_averaging: Final[bool] = flag(True)
    adam_w_mode: Final[bool] = flag(True)
    always_adapt: Final[bool] = flag(False)
    trust_clip: Final[bool] = flag(False)


class LAMB(LAMBGroup, Optimizer, rule="lamb"):
    """Adam whose step is, for each array, as long as the array's norm says.

    For update number ``t`` of a parameter ``p`` with gradient ``g``::

        m = m + (1 - beta1) * (g - m)
        v = beta2 * v + (1 - beta2) * (g * g)
        u = m / c1 / (sqrt(v) / sqrt(c2) + eps) + weight_decay * p
        p = p - lr * |p| / |u| * u                     c1 = 1 - beta1^t, c2 = 1 - beta2^t

    The norms are those of one whole array, so results depend on what an array is. Where one of them
    is 0, and without weight decay (of biases, say), the ratio is 1. Norms are taken in double; a
    float64 element beyond 1e154 has an infinite square.

    Args:
        params: the arrays to update; see `Optimizer` for this and those from ``maximize`` on.
        lr: learning rate, at least 0.
        betas: how much the averages of the gradient and its square keep, each in [0, 1).
        eps: added to the root, above 0; see `Adam`.
        weight_decay: at least 0.
        bias_correction: False sets ``c1 = c2 = 1``.
        grad_averaging: False averages nothing, ``m = beta1 * m + g``.
        adam_w_mode: False adds ``weight_decay * p`` to the gradient and not to ``u``.
        always_adapt: adapt what has no weight decay, too (Apex calls it ``use_nvlamb``).
        trust_clip: LAMBC: a ratio of norms above 1 counts as 1.

    The same settings mean the same in timm and in Apex' FusedLAMB. Both clip the norm of all
    gradients to 1 by default: ``clip_norm=1.0``.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> w = np.array([3.0, 4.0])
        >>> opt = fs.LAMB(w, lr=0.1)
        >>> info = opt.step(np.array([1.0, 1.0]))
        >>> w.round(4)                          # a step of 0.1 times the norm, 5
        array([2.6482, 3.6447])

    Source: You et al., "Large batch optimization for deep learning: training BERT in 76 minutes",
    2020, with the conventions of timm and Apex.
    """

    __slots__ = ()

    groups: Groups[LAMBGroup] = Groups(LAMBGroup)
