"""Rprop: steps that only the sign of the gradient decides."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from .base import Optimizer
from .fields import Groups, Pair, Scalar
from .groups import Group


class RpropGroup(Group):
    """The settings of Rprop, for some of its parameters."""

    __slots__ = ()

    lr: Scalar = Scalar(1e-2)
    etas: Pair = Pair((0.5, 1.2), "eta_minus", "eta_plus")
    step_sizes: Pair = Pair((1e-6, 50.0), "min_step", "max_step")


class Rprop(RpropGroup, Optimizer, rule="rprop"):
    """Steps of a size for each element, which grows while the gradient keeps its sign.

    For gradient ``g`` and parameter ``p``, with the ``previous`` gradient::

        factor = eta_plus where g * previous > 0, eta_minus where it is < 0, else 1
        step_size = min(max(step_size * factor, min_step), max_step)
        g = 0 where g * previous < 0
        p = p - sign(g) * step_size
        previous = g

    It is for gradients of the whole data set: the signs of small batches say little.

    Args:
        params: the arrays to update; see `Optimizer` for this and those from ``maximize`` on.
        lr: what ``step_size`` is before a parameter's first update, at least 0. Of no effect
            afterwards, as in torch: of a schedule only the value at that update counts.
        etas: ``eta_minus`` in [0, 1) and ``eta_plus``, at least 1.
        step_sizes: the smallest and the largest step, at least 0.

    Two state arrays, 28 bytes moved for a float32 parameter. The product of two gradients below
    1e-23 is 0 in float32, and the step size then stays as it is.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> w = np.array([1.0, -2.0])
        >>> opt = fs.Rprop(w, lr=0.5, etas=(0.5, 1.5))
        >>> for g in (3.0, 0.1, -2.0, 5.0):
        ...     info = opt.step(np.array([g, 1.0]))
        >>> print(w, opt.state[""]["step_size"])
        [-0.625  -6.0625] [0.375  1.6875]

    Source: Riedmiller and Braun, "A direct adaptive method for faster backpropagation learning: the
    RPROP algorithm", 1993, in the form of Igel and Huesken (iRprop-), 2000, as torch.optim.Rprop.
    """

    __slots__ = ()

    groups: Groups[RpropGroup] = Groups(RpropGroup)

    @classmethod
    def _check_together(cls, settings: Mapping[str, Any]) -> None:
        smallest, largest = settings["step_sizes"]
        if isinstance(smallest, Real) and isinstance(largest, Real) and smallest > largest:
            raise ValueError(
                "step_sizes must be the smallest and the largest step, not "
                f"{settings['step_sizes']}"
            )
