"""Schedule-Free SGD and AdamW: an average of the weights in place of a falling learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .adam import NO_ZERO
from .base import Optimizer
from .fields import Groups, Pair, Scalar
from .groups import Group


class _ScheduleFree(Optimizer):
    """What the two have in common: the average, for evaluation."""

    __slots__ = ()

    _beta1: ClassVar[str]  # the setting that has it, alone or first

    @classmethod
    def _check_together(cls, settings: Mapping[str, Any]) -> None:
        super()._check_together(settings)
        if settings["ema"] is not None:
            raise ValueError(
                f"ema must be None, not {settings['ema']!r}: {cls.__name__} averages itself"
            )

    def _has_averages(self) -> bool:
        return True

    def _averaged_leaves(self) -> list[Any]:
        """New arrays of ``((z - y) * (1 - 1 / beta1)) + y`` with the ``beta1`` of the last step."""
        with self._plan.held():
            if self._plan.is_in_place:  # the parameters hold it already
                return [x.copy() for x in self._parameters.values()]
            factors = {path: self._factor(group) for group in self._groups for path in group.paths}
            averages = []
            for path, y in self._parameters.items():
                x = self._states[path]["z"].copy()
                x -= y
                x *= y.dtype.type(factors[path])
                x += y
                averages.append(x)
            return averages

    def _factor(self, group: Group) -> float:
        value = getattr(group, self._beta1)
        beta1 = value[0] if isinstance(value, tuple) else value
        # None before the first step, of a schedule that reads what only a step is told: z is y
        return 0.0 if beta1 is None else 1.0 - 1.0 / beta1


class ScheduleFreeSGDGroup(Group):
    """The settings of Schedule-Free SGD, for some of its parameters."""

    __slots__ = ()

    lr: Scalar = Scalar(1.0)
    momentum: Scalar = Scalar(0.9)
    weight_decay: Scalar = Scalar(0.0)
    warmup_steps: Scalar = Scalar(0.0)
    r: Scalar = Scalar(0.0)
    weight_lr_power: Scalar = Scalar(2.0)


class ScheduleFreeSGD(ScheduleFreeSGDGroup, _ScheduleFree, rule="schedule_free_sgd"):
    """SGD whose weights are averaged, so that the learning rate need not fall.

    The parameter holds ``y``, where gradients are taken; ``z``, which begins as a copy of it, takes
    the steps of SGD; what is trained is the average ``x`` of all ``z``: evaluate with
    ``opt.averaged``, or inside ``with opt.averaged_in_place()``. For update number ``t`` of a
    parameter with gradient ``g``::

        rate = lr * min(1, t / warmup_steps),    lr_max = max(lr_max, rate)
        w = t^r * lr_max^weight_lr_power,        weight_sum = weight_sum + w,  c = w / weight_sum
        u = g + weight_decay * y
        y = y + c * (z - y)
        y = y - rate * (1 - momentum * (1 - c)) * u
        z = z - rate * u

    where always ``y = momentum * x + (1 - momentum) * z``, and ``c`` is 0 as long as the sum is.

    Args:
        params: the arrays to update; see `Optimizer` for this and those from ``maximize`` on.
        lr: learning rate, at least 0; a larger one than for SGD, and constant.
        momentum: how near to the average gradients are taken, between 0 and 1.
        weight_decay: at least 0; at ``y``.
        warmup_steps: how many updates ``lr`` rises over, at least 0.
        r: gives later updates more weight in the average, at least 0.
        weight_lr_power: gives updates with a large rate more weight, at least 0.

    ``lr_max`` and ``weight_sum`` are kept with each parameter, in double, and saved with the state:
    where ``lr`` follows a schedule, they are those of the rates that were used.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> w = np.array([1.0, -2.0])
        >>> opt = fs.ScheduleFreeSGD(w, lr=0.5)
        >>> for _ in range(3):
        ...     info = opt.step(w.copy())       # the gradient of |w|^2 / 2
        >>> w.round(4), opt.averaged.round(4)
        (array([ 0.2525, -0.505 ]), array([ 0.2729, -0.5458]))

    Source: Defazio et al., "The road less scheduled", 2024.
    """

    __slots__ = ()

    groups: Groups[ScheduleFreeSGDGroup] = Groups(ScheduleFreeSGDGroup)
    _beta1 = "momentum"


class ScheduleFreeAdamWGroup(Group):
    """The settings of Schedule-Free AdamW, for some of its parameters."""

    __slots__ = ()

    lr: Scalar = Scalar(2.5e-3)
    betas: Pair = Pair((0.9, 0.999), "beta1", "beta2")
    eps: Scalar = Scalar(1e-8, zero=NO_ZERO)
    weight_decay: Scalar = Scalar(0.0)
    warmup_steps: Scalar = Scalar(0.0)
    r: Scalar = Scalar(0.0)
    weight_lr_power: Scalar = Scalar(2.0)


class ScheduleFreeAdamW(ScheduleFreeAdamWGroup, _ScheduleFree, rule="schedule_free_adamw"):
    """AdamW whose weights are averaged, so that the learning rate need not fall.

    As `ScheduleFreeSGD`, with ``beta1`` in place of ``momentum``, and for update number ``t``::

        v = beta2 * v + (1 - beta2) * (g * g)
        u = g / (sqrt(v) / sqrt(1 - beta2^t) + eps) + weight_decay * y

    Args:
        params: the arrays to update; see `Optimizer` for this and those from ``maximize`` on.
        lr: learning rate, at least 0; constant, up to ten times that of AdamW.
        betas: how near to the average gradients are taken, between 0 and 1, and how much the
            average of the gradient's square keeps, in [0, 1).
        eps: added to the root, above 0; see `Adam`.
        weight_decay: at least 0; at ``y``.
        warmup_steps: how many updates ``lr`` rises over, at least 0.
        r: gives later updates more weight in the average, at least 0.
        weight_lr_power: gives updates with a large rate more weight, at least 0.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> w = np.array([1.0, -2.0])
        >>> opt = fs.ScheduleFreeAdamW(w, lr=0.5)
        >>> for _ in range(3):
        ...     info = opt.step(w.copy())       # the gradient of |w|^2 / 2
        >>> w.round(4), opt.averaged.round(4)
        (array([ 0.1816, -1.0464]), array([ 0.2083, -1.0866]))

    Source: Defazio et al., "The road less scheduled", 2024.
    """

    __slots__ = ()

    groups: Groups[ScheduleFreeAdamWGroup] = Groups(ScheduleFreeAdamWGroup)
    _beta1 = "betas"
