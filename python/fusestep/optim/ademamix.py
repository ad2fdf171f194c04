"""AdEMAMix: AdamW with a second, slow average of the gradient."""

from __future__ import annotations

from .adam import NO_ZERO
from .base import Optimizer
from .fields import Groups, Scalar, Triple
from .groups import Group


class AdEMAMixGroup(Group):
    """The settings of AdEMAMix, for some of its parameters."""

    __slots__ = ()

    lr: Scalar = Scalar(1e-3)
    betas: Triple = Triple((0.9, 0.999, 0.9999), "beta1", "beta2", "beta3")
    alpha: Scalar = Scalar(5.0)
    eps: Scalar = Scalar(1e-8, zero=NO_ZERO)
    weight_decay: Scalar = Scalar(0.01)


class AdEMAMix(AdEMAMixGroup, Optimizer, rule="ademamix"):
    """AdamW that also follows an average over some ten thousand gradients.

    For update number ``t`` of a parameter ``p`` with gradient ``g``::

        p = p * (1 - lr * weight_decay)
        m = m + (1 - beta1) * (g - m)
        m_slow = m_slow + (1 - beta3) * (g - m_slow)
        v = beta2 * v + (1 - beta2) * (g * g)
        u = lr / (1 - beta1^t) * m + lr * alpha * m_slow
        p = p - u / (sqrt(v) / sqrt(1 - beta2^t) + eps)

    The slow average begins at 0, without a correction. In the paper ``alpha`` and ``beta3`` rise
    over the whole training of ``steps`` updates, with which a long ``beta3`` is stable from the
    beginning::

        alpha = schedules.ademamix_alpha(5.0, length=steps)
        beta3 = schedules.ademamix_beta3(0.9, 0.9999, length=steps)
        opt = fs.AdEMAMix(params, betas=(0.9, 0.999, beta3), alpha=alpha)

    Args:
        params: the arrays to update; see `Optimizer` for this and those from ``maximize`` on.
        lr: learning rate, at least 0.
        betas: how much the average of the gradient, that of its square and the slow one of the
            gradient keep, each in [0, 1).
        alpha: how much the slow average counts, at least 0.
        eps: added to the root, above 0; see `Adam`.
        weight_decay: at least 0.

    It needs three state arrays.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> w = np.array([1.0, -2.0])
        >>> opt = fs.AdEMAMix(w, lr=0.1)
        >>> for _ in range(2):
        ...     info = opt.step(w.copy())       # the gradient of |w|^2 / 2
        >>> w.round(4)
        array([ 0.7984, -1.7961])

    Source: Pagliardini et al., "The AdEMAMix optimizer: better, faster, older", 2024.
    """

    __slots__ = ()

    groups: Groups[AdEMAMixGroup] = Groups(AdEMAMixGroup)
