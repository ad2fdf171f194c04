"""Adam, AdamW and AdaBelief: one family of rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from .base import Optimizer
from .fields import FLOAT32, Groups, Limit, Pair, Scalar, choice, flag
from .groups import Group

EpsMode = Literal["after", "hat"]
DecayBy = Literal["lr", "max_lr", "schedule"]

NO_ZERO = (
    "an element whose gradients are all 0 would become 0 / 0; 1e-30 in float32, or 1e-180 in "
    "float64, is as good as 0"
)


class AdamFamilyGroup(Group):
    """The settings of Adam, AdamW and AdaBelief, for some of their parameters."""

    __slots__ = ()

    lr: Scalar = Scalar(1e-3)
    betas: Pair = Pair((0.9, 0.999), "beta1", "beta2")
    eps: Scalar = Scalar(1e-8, zero=NO_ZERO)
    weight_decay: Scalar = Scalar(0.0)
    amsgrad: Final[bool] = flag(False)
    bias_correction: Final[bool] = flag(True)
    eps_mode: Final[EpsMode] = choice(EpsMode, "after", column="eps_hat")


class AdamGroup(AdamFamilyGroup):
    """The settings of Adam, for some of its parameters."""

    __slots__ = ()

    nesterov: Final[bool] = flag(False)
    cautious: Final[bool] = flag(False)
    update_clip: Limit = Limit(unset=0.0, float32=FLOAT32, is_global=False)


class Adam(AdamGroup, Optimizer, rule="adam"):
    """Adam, with weight decay added to the gradient.

    For update number ``t`` of a parameter ``p`` with gradient ``g``::

        g = g + weight_decay * p
        m = m + (1 - beta1) * (g - m)
        v = beta2 * v + (1 - beta2) * (g * g)
        p = p - lr / c1 * m / (sqrt(v) / sqrt(c2) + eps)        c1 = 1 - beta1^t, c2 = 1 - beta2^t

    Args:
        params: the arrays to update; see `Optimizer` for this and those from ``maximize`` on.
        lr: learning rate, at least 0.
        betas: how much the averages of the gradient and its square keep, each in [0, 1).
        eps: added to the root, above 0: an element whose gradients are all 0 divides by it. 1e-30
            changes no root that float32 has.
        weight_decay: at least 0.
        amsgrad: divide by the largest ``v`` so far; needs a third state array.
        bias_correction: False sets ``c1 = c2 = 1``.
        eps_mode: "after" adds ``eps`` to the corrected root, as above and in torch; "hat" to the
            uncorrected one, ``p = p - lr * sqrt(c2) / c1 * m / (sqrt(v) + eps)``, as Keras does.
        nesterov: the step takes ``m + (1 - beta1) * (g - m)`` in place of ``m``, which is stored as
            it is: timm's NAdamW. (NAdam has a momentum that rises.)
        cautious: elements where ``m`` (with ``nesterov``, what the step takes for it) and ``g``
            have opposite signs stand still, weight decay aside; the step of the others is
            multiplied by ``n / max(count, n / 1000)``, where ``count`` of the array's ``n``
            elements move. Goes twice over each array.
        update_clip: above 0, or None. In each array the step is divided by
            ``max(1, R / update_clip)``, where ``R`` is the root of the mean of ``(g / d)^2``, and
            ``d`` what ``m`` is divided by. 1 is usual. Goes twice over each array.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> params = {"w": np.ones((2, 2)), "b": np.zeros(2)}
        >>> opt = fs.Adam(params, lr=0.1)
        >>> info = opt.step({"w": np.ones((2, 2)), "b": None})
        >>> print(params["w"][0], params["b"], info.lr, info.applied)
        [0.9 0.9] [0. 0.] 0.1 True

    The powers of ``beta1`` and ``beta2`` are correctly rounded to double. A gradient whose square
    is beyond its dtype (from 1.8e19 in float32) makes ``v`` infinite for good: that element stands
    still from then on, and does not become NaN; ``clip_value`` or ``clip_norm`` prevents it. (With
    a ``beta2`` of 0, which forgets at once, infinity times 0 does make it NaN.)

    Source: Kingma and Ba, "Adam: a method for stochastic optimization", 2015; amsgrad: Reddi et
    al., "On the convergence of Adam and beyond", 2018; nesterov: Dozat, "Incorporating Nesterov
    momentum into Adam", 2016; cautious: Liang et al., "Cautious optimizers: improving training with
    one line of code", 2024; update_clip: Wortsman et al., "Stable and low-precision training for
    large-scale vision-language models", 2023. These three have the conventions of timm.
    """

    __slots__ = ()

    groups: Groups[AdamGroup] = Groups(AdamGroup)


class AdamWGroup(AdamGroup):
    """The settings of AdamW, for some of its parameters."""

    __slots__ = ()

    weight_decay: Scalar = Scalar(0.01)
    cautious_decay: Final[bool] = flag(False)
    decay_by: Final[DecayBy] = choice(DecayBy, "lr", column="decay_by")
    max_lr: Limit = Limit(unset=0.0, float32=FLOAT32, is_global=False)


class AdamW(AdamWGroup, Adam, fixed={"decoupled": 1.0}):
    """Adam with decoupled weight decay, which acts on the parameter and not on the gradient.

    As `Adam`, but instead of adding ``weight_decay * p`` to the gradient, the parameter is first
    multiplied by ``1 - lr * weight_decay``. The default ``weight_decay`` is 0.01, as in torch.

    Args:
        cautious_decay: only elements that the step takes towards 0 decay: those where ``m`` (with
            ``nesterov``, what the step takes for it) and ``p`` have the same sign, neither being 0.
        decay_by: what multiplies ``weight_decay``. "lr": the learning rate, as above. "max_lr":
            ``lr^2 / max_lr``, which keeps the norms of normalized layers steady to the end of a
            schedule (AdamC; timm's ``corrected_weight_decay``). "schedule": ``lr / max_lr``, so
            that ``weight_decay`` does not depend on the learning rate (torch-optimi's
            ``decouple_lr``): it is to be smaller, 1e-5 or so.
        max_lr: the learning rate at the schedule's peak, above 0. Needed by these two alone.

    The others are those of `Adam`.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> w = np.full(3, 2.0, np.float32)
        >>> opt = fs.AdamW(w, lr=0.1, weight_decay=0.5, clip_norm=1.0)
        >>> info = opt.step(np.array([3.0, 0.0, -4.0], np.float32))
        >>> print(w, info.grad_norm)
        [1.8 1.9 2. ] 5.0

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization", 2019; cautious_decay:
    Chen et al., "Cautious weight decay", 2025; decay_by="max_lr": Defazio, "Why gradients rapidly
    increase near the end of training", 2025.
    """

    __slots__ = ()

    groups: Groups[AdamWGroup] = Groups(AdamWGroup)

    @classmethod
    def _check_together(cls, settings: Mapping[str, Any]) -> None:
        check_max_lr(settings)


def check_max_lr(settings: Mapping[str, Any]) -> None:
    """Raises ValueError where the largest learning rate is missing, or would not be read."""
    decay_by, max_lr = settings["decay_by"], settings["max_lr"]
    if decay_by != "lr" and max_lr is None:
        raise ValueError(f"decay_by={decay_by!r} needs max_lr, the largest learning rate")
    if decay_by == "lr" and max_lr is not None:
        raise ValueError("max_lr needs decay_by='max_lr' or decay_by='schedule', not 'lr'")


class AdaBeliefGroup(AdamFamilyGroup):
    """The settings of AdaBelief, for some of its parameters."""

    __slots__ = ()

    eps: Scalar = Scalar(1e-16, zero=NO_ZERO)
    eps_root: Scalar = Scalar(1e-16)
    decoupled_weight_decay: Final[bool] = flag(False, column="decoupled", was="decoupled")


class AdaBelief(AdaBeliefGroup, Optimizer, rule="adabelief"):
    """AdaBelief: divides by how far the gradient strays from its average.

    As `Adam`, but for the second average::

        v = beta2 * v + (1 - beta2) * (g - m)^2 + eps_root        with the m of this update

    ``bias_correction=False, eps=1e-8, eps_root=0`` is known as the adaptive learning rate.

    Args:
        eps_root: added to ``v`` at every update, at least 0.
        decoupled_weight_decay: apply it to the parameter as `AdamW` does, not to the gradient.

    The others are those of `Adam`, with ``eps`` 1e-16.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> w = np.array([1.0, 2.0])
        >>> opt = fs.AdaBelief(w, lr=0.1)
        >>> for g in (1.0, 1.0, 1.0):
        ...     info = opt.step(np.array([g, -g]))
        >>> w.round(5)
        array([0.64953, 2.35047])

    Source: Zhuang et al., "AdaBelief optimizer: adapting stepsizes by the belief in observed
    gradients", 2020.
    """

    __slots__ = ()

    groups: Groups[AdaBeliefGroup] = Groups(AdaBeliefGroup)
