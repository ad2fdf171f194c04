"""The learning rate follows the batch: expressions that read the ``batch_size`` of the clock.

They give the rate for the batch that a step uses, so give the step its size:
``opt.step(grads, clock=fs.Clock(batch_size=64))``. In text and JSON their names begin with
``scaling.``, as in "scaling.linear(lr=0.1, base_batch=32)".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec

from .arguments import check_finite, check_list, check_number, check_whole
from .expression import Expression, batch_size, where
from .expression import sqrt as root
from .expression.nodes import Named, expression
from .expression.traversal import substituted
from .expression.vocabulary import named
from .expression.writing import Call
from .gradients import AdaScale
from .renamed import renamed

P = ParamSpec("P")

__all__ = [
    "adascale",
    "linear",
    "noise_curve",
    "power",
    "sde_adam",
    "sqrt",
]

if not TYPE_CHECKING:
    __getattr__ = renamed(
        __name__, {"scale_linear": "linear", "scale_power": "power", "scale_sqrt": "sqrt"}
    )


def __dir__() -> list[str]:
    return __all__


def _rule(build: Callable[P, Expression]) -> Callable[P, Expression]:
    return named(build, "scaling.")


# 1 - 0.9 is a little below a tenth in binary: a beta that should be 0 may come out as 1e-16
_NEARLY_ONE = 1 - 1e-9


@_rule
def linear(lr: float | Expression, base_batch: int) -> Expression:
    """The rate grows like the batch: ``lr * batch_size / base_batch``. For SGD.

    Args:
        lr: the rate that fits batches of ``base_batch``: a finite number or an expression.
        base_batch: a whole number, at least 1.

    It holds while updates are small: for large factors begin with
    `fusestep.schedules.gradual_warmup`, and expect it to fail at some batch.

    Example:
        >>> from fusestep import scaling
        >>> scaling.linear(0.1, base_batch=32)(batch_size=64)
        0.2

    Source: Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017.
    """
    return _rate("lr", lr) * _factor(base_batch)


@_rule
def sqrt(lr: float | Expression, base_batch: int) -> Expression:
    """The rate grows like the root of the batch: ``lr * sqrt(batch_size / base_batch)``.

    It keeps the variance of an update. For Adam and its family, and for SGD over a fixed number of
    updates.

    Args:
        lr: the rate that fits batches of ``base_batch``: a finite number or an expression.
        base_batch: a whole number, at least 1.

    Example:
        >>> from fusestep import scaling
        >>> scaling.sqrt(0.1, base_batch=32)(batch_size=128)
        0.2

    Source: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014;
    Hoffer et al., "Train longer, generalize better", 2017.
    """
    return _rate("lr", lr) * root(_factor(base_batch))


@_rule
def power(lr: float | Expression, base_batch: int, exponent: float) -> Expression:
    """The rate grows like a power of the batch: ``lr * (batch_size / base_batch)^exponent``.

    Args:
        lr: the rate that fits batches of ``base_batch``: a finite number or an expression.
        base_batch: a whole number, at least 1.
        exponent: at least 0. 1 is ``linear`` and 0.5 is ``sqrt``; adaptive optimizers are best
            somewhere between.

    Example:
        >>> from fusestep import scaling
        >>> scaling.power(0.1, base_batch=32, exponent=2)(batch_size=64)
        0.4
    """
    return _rate("lr", lr) * _factor(base_batch) ** check_number("exponent", exponent)


@_rule
def noise_curve(
    lr_max: float | Expression, noise_scale: float | Expression, exponent: float = 1.0
) -> Expression:
    """The best rate for a batch by its noise: ``lr_max / (1 + noise_scale / batch_size)^exponent``.

    Nearly linear in batches far below the noise scale, and constant far above it.

    Args:
        lr_max: the best rate for the whole data set: a finite number or an expression.
        noise_scale: of the gradients, in samples: a number of at least 0, or an expression.
        exponent: at least 0; 1 for SGD, between 0.5 and 1 for Adam and its family.

    Example:
        >>> from fusestep import scaling
        >>> scaling.noise_curve(0.4, noise_scale=96)(batch_size=32)
        0.1

    Source: McCandlish et al., "An empirical model of large-batch training", 2018.
    """
    if not isinstance(noise_scale, Expression):
        check_number("noise_scale", noise_scale)
    whole = 1 + expression(noise_scale) / batch_size
    return _rate("lr_max", lr_max) / whole ** check_number("exponent", exponent)


def sde_adam(
    betas: tuple[float | Expression, float | Expression],
    eps: float | Expression,
    lr: float | Expression,
    base_batch: int,
) -> dict[str, Any]:
    """Settings of Adam that keep its path when the batch changes: ``Adam(params, **settings)``.

    With ``k = batch_size / base_batch``: ``lr * sqrt(k)``, ``1 - k * (1 - beta)`` for both betas,
    ``eps / sqrt(k)``.

    Args:
        betas, eps, lr: what fits batches of ``base_batch``: numbers or expressions; betas in
            [0, 1), eps at least 0.
        base_batch: a whole number, at least 1.

    Where ``k * (1 - beta)`` is 1 or more (10 times the batch for a beta of 0.9) there is no such
    setting: the beta is -1 there, and an optimizer refuses the step.

    Returns:
        A dict with ``lr``, ``betas`` and ``eps``, all of expressions.

    Example:
        >>> from fusestep import scaling
        >>> settings = scaling.sde_adam(betas=(0.9, 0.999), eps=1e-8, lr=0.1, base_batch=32)
        >>> settings["lr"](batch_size=128), settings["eps"](batch_size=128)
        (0.2, 5e-09)
        >>> [beta(batch_size=64) for beta in settings["betas"]]
        [0.8, 0.998]

    Source: Malladi et al., "On the SDEs and scaling rules for adaptive gradient algorithms", 2022.
    It assumes that noise dominates the squared gradients. The moments keep what they hold.
    """
    if len(check_list("betas", betas, 2)) != 2:
        raise ValueError(f"betas must be two, not {betas!r}")
    for i, beta in enumerate(betas):
        if not isinstance(beta, Expression):
            check_number(f"betas[{i}]", beta, 0.0, 1.0, below_upper=True)
    if not isinstance(eps, Expression):
        check_number("eps", eps)
    k = _factor(base_batch)
    lost = [k * (1 - expression(beta)) for beta in betas]
    return {
        "lr": _rate("lr", lr) * root(k),
        "betas": tuple(where(share < _NEARLY_ONE, 1 - share, -1) for share in lost),
        "eps": expression(eps) / root(k),
    }


def adascale(lr: float | Expression, scale: AdaScale) -> Expression:
    """The rate times the gain of the batch, with its schedule on the gains so far. For SGD.

    ``scale.gain(batch_size) * lr(step=scale.progress)``: as much progress as the base batch makes,
    whatever the batch. The loop shows every step's gradients to ``scale.statistics`` before the
    step, and calls ``scale.advance`` after it; training is over when ``scale.progress`` is.

    Args:
        lr: the rate for batches of ``scale.base_batch``: a finite number, or an expression in steps
            at that size. Other inputs of the clock stay what they are.
        scale: a `fusestep.gradients.AdaScale`, which must be saved with the optimizer.

    Example:
        >>> import fusestep as fs
        >>> scale = fs.gradients.AdaScale(fs.gradients.GradientStatistics(), base_batch=8)
        >>> lr = fs.scaling.adascale(fs.schedules.linear(0.3, 0.0, length=100), scale)
        >>> _ = scale.statistics.add([2.0, 6.0], sizes=[8, 8], squared_norm_of_mean=3.0)
        >>> lr(batch_size=8), round(lr(batch_size=16), 12)
        (0.3, 0.4)

    Source: Johnson et al., "AdaScale SGD: A User-Friendly Algorithm for Distributed
    Training", 2020.
    """
    if not isinstance(scale, AdaScale):
        raise TypeError(f"scale must be a fusestep.gradients.AdaScale, not {scale!r}")
    rate = scale.factor * substituted(_rate("lr", lr), {"step": scale.steps})
    return Named(Call("scaling.adascale"), rate)


def _factor(base_batch: int) -> Expression:
    return batch_size / check_whole("base_batch", base_batch, 1)


def _rate(name: str, lr: float | Expression) -> Expression:
    return lr if isinstance(lr, Expression) else expression(check_finite(name, lr))
