"""Those made of functions, of other schedules, and of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ....arguments import check_finite, check_list, check_number, check_positive, check_rising
from ....control import Plateau
from ....expression import Expression, function, maximum, step
from ....expression.nodes import constant_or_expression
from ... import pieces
from ..base import Factor, called, control_preset, preset


@preset
def LambdaLR(base: float, lr_lambda: Factor) -> Expression:
    """``base * lr_lambda(t)``.

    Args:
        base: any finite number.
        lr_lambda: a Python function of the step, or an expression. A function is saved by its name
            (see `fusestep.expression.function`).

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.torch.LambdaLR(0.1, lr_lambda=lambda t: 0.5**t)([0, 1, 2])
        array([0.1  , 0.05 , 0.025])
    """
    return check_finite("base", base) * called("lr_lambda", lr_lambda, step)


@preset
def MultiplicativeLR(base: float, lr_lambda: Factor) -> Expression:
    """``base`` times ``lr_lambda(1)``, ``lr_lambda(2)`` and so on up to ``lr_lambda(t)``.

    ``lr_lambda(0)`` is not used. There is no formula for such a product: each step multiplies it
    on, and a time far from the one before takes as many calls.

    Args:
        base: any finite number.
        lr_lambda: a Python function of the step, or an expression that reads the step alone.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.torch.MultiplicativeLR(1.0, lr_lambda=lambda t: 1 / (1 + t))([0, 1, 2])
        array([1.        , 0.5       , 0.16666667])
    """
    factor = called("lr_lambda", lr_lambda, step)
    return check_finite("base", base) * function(
        _Product(factor), maximum(step, 0), name="MultiplicativeLR"
    )


class _Product:
    """The product of the values of an expression at steps 1 to n."""

    def __init__(self, factor: Expression) -> None:
        self._factor = factor
        self._last = (0, 1.0)

    def __call__(self, n: float) -> float:
        at, product = self._last if self._last[0] <= n else (0, 1.0)
        for i in range(at + 1, int(n) + 1):
            product *= self._factor(step=i)
        self._last = (int(n), product)  # at once, for other threads
        return product


@preset
def SequentialLR(
    schedulers: Sequence[Expression | float], milestones: Sequence[float]
) -> Expression:
    """One schedule after another, each with its time counted from 0.

    Args:
        schedulers: presets or other expressions, or numbers.
        milestones: rising times above 0 where the next begins, one fewer.

    Example:
        >>> from fusestep.schedules import presets
        >>> rise = presets.torch.LinearLR(1.0, start_factor=0.5, total_iters=2)
        >>> fall = presets.torch.PolynomialLR(1.0, total_iters=4)
        >>> presets.torch.SequentialLR([rise, fall], milestones=[2])([0, 1, 2, 4])
        array([0.5 , 0.75, 1.  , 0.5 ])
    """
    nodes = _expressions("schedulers", schedulers)
    if len(check_rising("milestones", milestones)) != len(nodes) - 1:
        raise ValueError(
            f"milestones must be one fewer than schedulers, not {len(milestones)} for {len(nodes)}"
        )
    return pieces.sequence(nodes, at=milestones)


@preset
def ChainedScheduler(schedulers: Sequence[Expression | float], base: float) -> Expression:
    """The product of what several schedules make of one ``base``.

    ``base * (first / base) * (second / base)`` and so on. That is torch's for those that multiply
    the rate before: MultiplicativeLR, StepLR, MultiStepLR, ConstantLR, LinearLR, ExponentialLR,
    PolynomialLR, and CosineAnnealingLR down to 0. In torch others replace what came before them.

    Args:
        schedulers: presets or other expressions, each made for the same ``base``.
        base: above 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> steps = presets.torch.StepLR(0.4, step_size=2, gamma=0.5)
        >>> warm = presets.torch.ConstantLR(0.4, factor=0.5, total_iters=1)
        >>> presets.torch.ChainedScheduler([steps, warm], base=0.4)([0, 1, 2])
        array([0.2, 0.4, 0.2])
    """
    begin = check_positive("base", base)
    first, *others = _expressions("schedulers", schedulers)
    for node in others:
        first = first * (node / begin)
    return first


def _expressions(name: str, values: Any) -> list[Expression]:
    nodes = [constant_or_expression(entry) for entry in check_list(name, values, 1)]
    found = [node for node in nodes if node is not None]
    if len(found) < len(nodes):
        raise TypeError(f"{name} must be expressions and numbers, not {values!r}")
    return found


@control_preset
def ReduceLROnPlateau(
    base: float,
    mode: Literal["min", "max"] = "min",
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    threshold_mode: Literal["rel", "abs"] = "rel",
    cooldown: int = 0,
    min_lr: float = 0.0,
    eps: float = 1e-8,
) -> Plateau:
    """``base``, multiplied by ``factor`` where the loss has stopped improving.

    A `fusestep.control.Plateau` that begins at ``base``: an optimizer tells it the loss of
    ``step(loss=...)``. torch measures "rel" on the wrong side of negative losses, where no loss is
    better, and takes infinity in mode "max" as the best for ever.

    Args:
        base: above 0.
        mode, factor, patience, threshold, threshold_mode, cooldown: those of `Plateau`.
        min_lr: the least value, from 0 to ``base``.
        eps: changes that are not above it are not made.

    Example:
        >>> from fusestep.schedules import presets
        >>> lr = presets.torch.ReduceLROnPlateau(0.5, factor=0.5, patience=0)
        >>> for loss in (1.0, 1.0):
        ...     lr.observe(loss)
        >>> lr.value
        0.25
    """
    return Plateau(
        factor=factor,
        patience=patience,
        threshold=threshold,
        mode=mode,
        cooldown=cooldown,
        lower=check_number("min_lr", min_lr, 0.0, check_positive("base", base)),
        threshold_mode=threshold_mode,
        start=base,
        eps=eps,
    )
