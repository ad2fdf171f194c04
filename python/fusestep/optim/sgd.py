"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .base import Optimizer
from .fields import Groups, Scalar, flag
from .groups import Group


class SGDGroup(Group):
    """The settings of SGD, for some of its parameters."""

    __slots__ = ()

    lr: Scalar = Scalar(1e-3)
    momentum: Scalar = Scalar(0.0, kept_by="buffered")
    dampening: Scalar = Scalar(0.0)
    nesterov: Final[bool] = flag(False)
    weight_decay: Scalar = Scalar(0.0)
    decoupled_weight_decay: Final[bool] = flag(False, column="decoupled", was="decoupled")


class SGD(SGDGroup, Optimizer, rule="sgd"):
    """Stochastic gradient descent with momentum, with torch's conventions.

    For gradient ``g`` and parameter ``p``, with ``b`` the momentum buffer::

        g = g + weight_decay * p              (or p = p * (1 - lr * weight_decay), decoupled)
        b = momentum * b + (1 - dampening) * g        (b = g on a parameter's first update)
        g = g + momentum * b                  if nesterov, else  g = b
        p = p - lr * g

    Without momentum the middle two lines fall away, and there is no buffer.

    Args:
        params: the arrays to update; see `Optimizer` for this and those from ``maximize`` on.
        lr: learning rate, at least 0.
        momentum: at least 0. It may change later, but not from 0: the buffers would be missing.
        dampening: how much of the gradient the buffer leaves out, any finite number.
        nesterov: look ahead along the buffer; needs momentum and no dampening.
        weight_decay: at least 0.
        decoupled_weight_decay: apply it to the parameter, not to the gradient.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> w = np.array([1.0, -2.0])
        >>> opt = fs.SGD(w, lr=0.5, momentum=0.9)
        >>> for _ in range(2):
        ...     info = opt.step(w.copy())       # the gradient of |w|^2 / 2
        >>> w
        array([-0.2,  0.4])

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning",
    2013; the first update and the place of the learning rate follow torch.optim.SGD.
    """

    __slots__ = ()

    groups: Groups[SGDGroup] = Groups(SGDGroup)

    @classmethod
    def _check_together(cls, settings: Mapping[str, Any]) -> None:
        check_nesterov(settings)


def check_nesterov(settings: Mapping[str, Any]) -> None:
    """Raises ValueError where there is nothing to look ahead along."""
    if settings["nesterov"] and (settings["momentum"] == 0 or settings["dampening"] != 0):
        raise ValueError(
            "nesterov needs momentum above 0 and dampening 0, not "
            f"momentum={settings['momentum']}, dampening={settings['dampening']}"
        )
