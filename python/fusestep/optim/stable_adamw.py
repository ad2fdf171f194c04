"""StableAdamW: AdamW whose updates are clipped, array by array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .adam import NO_ZERO, DecayBy, check_max_lr
from .base import Optimizer
from .fields import FLOAT32, Groups, Limit, Pair, Scalar, choice
from .groups import Group


class StableAdamWGroup(Group):
    """The settings of StableAdamW, for some of its parameters."""

    __slots__ = ()

    lr: Scalar = Scalar(1e-3)
    betas: Pair = Pair((0.9, 0.99), "beta1", "beta2")
    eps: Scalar = Scalar(1e-6, zero=NO_ZERO)
    weight_decay: Scalar = Scalar(0.01)
    decay_by: Final[DecayBy] = choice(DecayBy, "lr", column="decay_by")
    max_lr: Limit = Limit(unset=0.0, float32=FLOAT32, is_global=False)


class StableAdamW(StableAdamWGroup, Optimizer, rule="stable_adamw"):
    """AdamW whose step is shorter, for each array, where gradients are larger than expected.

    For update number ``t`` of a parameter ``p`` with gradient ``g``, and averages that need no
    correction for their beginning::

        r1 = (1 - beta1) / (1 - beta1^t),    r2 = (1 - beta2) / (1 - beta2^t)
        m = m + r1 * (g - m)
        v = (1 - r2) * v + r2 * (g * g)
        R = sqrt(mean(g^2 / max(v, eps^2)))             over the whole array
        lr = lr / max(1, R)
        p = p * (1 - lr * weight_decay)
        p = p - lr * m / (sqrt(v) + eps)

    The mean is that of one whole array, so results depend on what an array is. It is taken in
    double.

    Args:
        params: the arrays to update; see `Optimizer` for this and those from ``maximize`` on.
        lr: learning rate, at least 0.
        betas: how much the averages of the gradient and its square keep, each in [0, 1).
        eps: added to the root, above 0; see `Adam`.
        weight_decay: at least 0.
        decay_by: what multiplies ``weight_decay``, with the divided ``lr`` of above. "lr": that;
            "max_lr": ``lr`` times the undivided one by ``max_lr``; "schedule": ``lr / max_lr``
            (torch-optimi's ``decouple_lr``; ``weight_decay`` is to be smaller, 1e-5 or so).
        max_lr: the learning rate at the schedule's peak, above 0. Needed by these two alone.

    ``fs.AdamW(update_clip=1.0)`` is timm's form of it: there ``R`` is the root of the mean of
    ``(g / d)^2``, ``d`` what ``m`` is divided by, and weight decay is not clipped.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> w = np.array([1.0, 2.0])
        >>> opt = fs.StableAdamW(w, lr=0.1, weight_decay=0.0)
        >>> for g in (1.0, 1.0, 10.0):                  # the last one is a surprise
        ...     info = opt.step(np.array([g, -g]))
        >>> w.round(4)
        array([0.7568, 2.2432])

    Source: Wortsman et al., "Stable and low-precision training for large-scale vision-language
    models", 2023, with the conventions of torch-optimi.
    """

    __slots__ = ()

    groups: Groups[StableAdamWGroup] = Groups(StableAdamWGroup)

    @classmethod
    def _check_together(cls, settings: Mapping[str, Any]) -> None:
        check_max_lr(settings)
