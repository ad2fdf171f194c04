"""Estimates of gradient noise from micro-batches.

A batch of B samples gives the gradient G + noise, whose squared length is S / B on average. S, the
trace of the covariance of single samples' gradients, and |G|^2 decide what a larger batch gains.

    >>> import numpy as np, fusestep as fs
    >>> w, data = np.zeros(3), np.random.default_rng(0).normal(1.0, 2.0, size=(10_000, 3))
    >>> def loss_and_grads(x):                        # of the mean of |w - x|^2 / 2
    ...     return 0.5 * np.mean(np.sum((w - x) ** 2, axis=1)), np.mean(w - x, axis=0)
    >>> opt, statistics = fs.SGD(w, lr=0.0), fs.gradients.GradientStatistics()
    >>> for batch in np.split(data, 100):
    ...     info, loss = fs.gradients.split_step(opt, loss_and_grads, batch, statistics=statistics)
    >>> round(statistics.noise_scale, 1)              # S / |G|^2 = 12 / 3, from a few draws
    4.1
"""

from typing import TYPE_CHECKING

from ..renamed import renamed
from .adascale import AdaScale
from .splitting import split_batch, split_step
from .statistics import GradientStatistics

__all__ = ["AdaScale", "GradientStatistics", "split_batch", "split_step"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"parts": "split_batch"})


def __dir__() -> list[str]:
    return __all__
