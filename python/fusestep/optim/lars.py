"""LARS: momentum for large batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .base import Optimizer
from .fields import Groups, Scalar, flag
from .groups import Group
from .sgd import check_nesterov


class LARSGroup(Group):
    """The settings of LARS, for some of its parameters."""

    __slots__ = ()

    lr: Scalar = Scalar(1.0)
    momentum: Scalar = Scalar(0.0, kept_by="buffered")
    dampening: Scalar = Scalar(0.0)
    nesterov: Final[bool] = flag(False)
    weight_decay: Scalar = Scalar(0.0)
    trust_coefficient: Scalar = Scalar(1e-3)
    eps: Scalar = Scalar(1e-8)
    trust_clip: Final[bool] = flag(False)
    always_adapt: Final[bool] = flag(False)


class LARS(LARSGroup, Optimizer, rule="lars"):
    """Momentum whose gradient is, for each array, as long as the array's norm says.

    For gradient ``g`` and parameter ``p``, with ``b`` the momentum buffer::

        r = trust_coefficient * |p| / (|g| + weight_decay * |p| + eps)
        g = r * (g + weight_decay * p)
        b = momentum * b + (1 - dampening) * g        (b = g on a parameter's first update)
        g = g + momentum * b                  if nesterov, else  g = b
        p = p - lr * g

    Without momentum the two lines with ``b`` fall away, and there is no buffer. The norms are those
    of one whole array, so results depend on what an array is. Where one of them is 0, and without
    weight decay (of biases, say), the ratio is 1. Norms are taken in double; a float64 element
    beyond 1e154 has an infinite square.

    Args:
        params: the arrays to update; see `Optimizer` for this and those from ``maximize`` on.
        lr: learning rate, at least 0.
        momentum: at least 0. It may change later, but not from 0: the buffers would be missing.
        dampening: how much of the gradient the buffer leaves out, any finite number.
        nesterov: look ahead along the buffer; needs momentum and no dampening.
        weight_decay: at least 0.
        trust_coefficient: at least 0.
        eps: added to what the ratio is divided by, at least 0.
        trust_clip: LARC: ``min(r / lr, 1)`` in place of ``r``, so that a step is never longer than
            the one of `SGD`.
        always_adapt: adapt what has no weight decay, too.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> w = np.array([3.0, 4.0])
        >>> opt = fs.LARS(w, trust_coefficient=0.1, weight_decay=1e-4)
        >>> info = opt.step(np.array([30.0, 40.0]))
        >>> w.round(4)                          # a step of 0.1 times the norm, 5
        array([2.7, 3.6])

    Source: You et al., "Large batch training of convolutional networks", 2017, with the conventions
    of timm; trust_clip: NVIDIA Apex, LARC.
    """

    __slots__ = ()

    groups: Groups[LARSGroup] = Groups(LARSGroup)

    @classmethod
    def _check_together(cls, settings: Mapping[str, Any]) -> None:
        check_nesterov(settings)
