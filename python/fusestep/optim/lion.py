"""Lion: steps of one size, along the sign of an average."""

from __future__ import annotations

from typing import Final

from .base import Optimizer
from .fields import Groups, Pair, Scalar, flag
from .groups import Group


class LionGroup(Group):
    """The settings of Lion, for some of its parameters."""

    __slots__ = ()

    lr: Scalar = Scalar(1e-4)
    betas: Pair = Pair((0.9, 0.99), "beta1", "beta2")
    weight_decay: Scalar = Scalar(0.0)
    cautious: Final[bool] = flag(False)


class Lion(LionGroup, Optimizer, rule="lion"):
    """Steps of one size, along the sign of an average of gradients, with decoupled weight decay.

    For a parameter ``p`` with gradient ``g``::

        p = p * (1 - lr * weight_decay)
        p = p - lr * sign(m + (1 - beta1) * (g - m))
        m = m + (1 - beta2) * (g - m)

    Args:
        params: the arrays to update; see `Optimizer` for this and those from ``maximize`` on.
        lr: learning rate, at least 0: what every element moves by. The paper takes a third to a
            tenth of AdamW's, and a ``weight_decay`` that is larger by as much.
        betas: how much of the average the sign looks at, and how much the average keeps, each in
            [0, 1). Two equal ones make it Signum: the sign of plain momentum.
        weight_decay: at least 0.
        cautious: elements where the sign is not that of ``g`` stand still, weight decay aside; the
            step of the others is multiplied by ``n / max(count, n / 1000)``, where ``count`` of the
            array's ``n`` elements move. Goes twice over each array.

    One state array, 20 bytes moved for a float32 parameter, 28 if cautious. An element whose
    gradients are all 0 stays where it is. An infinite gradient makes its element NaN at the next
    update.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> w = np.array([1.0, -2.0, 3.0])
        >>> opt = fs.Lion(w, lr=0.25, weight_decay=0.5)
        >>> info = opt.step(np.array([0.1, -40.0, 0.0]))
        >>> w
        array([ 0.625, -1.5  ,  2.625])

    Source: Chen et al., "Symbolic discovery of optimization algorithms", 2023; cautious: Liang et
    al., "Cautious optimizers: improving training with one line of code", 2024.
    """

    __slots__ = ()

    groups: Groups[LionGroup] = Groups(LionGroup)
