"""The decay of averaged weights that other libraries use, by updates: ``fs.AdamW(..., ema=...)``.

An average becomes ``decay * average + (1 - decay) * weights``; update 0 is the first. Where only
every k-th update is averaged, they are curves of the update still.
"""

from __future__ import annotations

from ...arguments import check_flag, check_number, check_positive, check_whole
from ...expression import Expression, clip, maximum, minimum, step, where
from ...expression.nodes import expression
from .. import decays
from .base import preset

__all__ = ["diffusers", "ema_pytorch", "keras", "tensorflow", "timm", "torch_ema", "torch_swa"]


def __dir__() -> list[str]:
    return __all__


def _counted(decay: float) -> Expression:
    """``min(decay, (1 + n) / (10 + n))`` with n the number of this update, from 1."""
    n = step + 1
    return minimum(check_number("decay", decay, 0, 1), (1 + n) / (10 + n))


def _power(after: int, gamma: float, power: float) -> tuple[Expression, Expression]:
    """Updates since the warm-up began, from 1, and how far the decay has come by then."""
    n = maximum(step - after, 0)
    return n, 1 - (1 + n / gamma) ** -power


@preset
def torch_swa() -> Expression:
    """torch's AveragedModel without a decay: the mean of all weights, ``t / (t + 1)``.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.averages.torch_swa()([0, 1, 3])
        array([0.  , 0.5 , 0.75])
    """
    return step / (step + 1)


@preset
def torch_ema(decay: float, use_num_updates: bool = True) -> Expression:
    """torch-ema 0.3, ExponentialMovingAverage: ``min(decay, (1 + n) / (10 + n))``, n from 1.

    Args:
        decay: in [0, 1].
        use_num_updates: False is ``decay`` always.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.averages.torch_ema(0.9)([0, 7, 1000])
        array([0.18181818, 0.5       , 0.9       ])
    """
    if check_flag("use_num_updates", use_num_updates):
        return _counted(decay)
    return decays.constant(check_number("decay", decay, 0, 1))


@preset
def tensorflow(decay: float) -> Expression:
    """TensorFlow's ExponentialMovingAverage where it is told ``num_updates``, which is t + 1 here.

    ``min(decay, (1 + num_updates) / (10 + num_updates))``.

    Args:
        decay: in [0, 1].

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.averages.tensorflow(0.9)([0, 7, 1000])
        array([0.18181818, 0.5       , 0.9       ])
    """
    return _counted(decay)


@preset
def diffusers(
    decay: float = 0.9999,
    min_decay: float = 0.0,
    update_after_step: int = 0,
    use_ema_warmup: bool = False,
    inv_gamma: float = 1.0,
    power: float = 2 / 3,
) -> Expression:
    """diffusers 0.42, EMAModel: 0 up to ``update_after_step``, then a rise to ``decay``.

    With ``n = t - update_after_step``: ``(1 + n) / (10 + n)``, or with ``use_ema_warmup``
    ``1 - (1 + n / inv_gamma)^-power``; between ``min_decay`` and ``decay``.

    Args:
        decay, min_decay: in [0, 1]; the second is not above the first.
        update_after_step: a whole number, at least 0.
        use_ema_warmup: as said above.
        inv_gamma, power: above 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.averages.diffusers(0.9)([0, 1, 8, 1000])
        array([0.        , 0.18181818, 0.5       , 0.9       ])
    """
    begin = check_whole("update_after_step", update_after_step, 0)
    gamma, exponent = check_positive("inv_gamma", inv_gamma), check_positive("power", power)
    n, slow = _power(begin, gamma, exponent)
    come = slow if check_flag("use_ema_warmup", use_ema_warmup) else (1 + n) / (10 + n)
    return _within("min_decay", min_decay, "decay", decay, n, come)


@preset
def timm(
    decay: float = 0.9999,
    min_decay: float = 0.0,
    update_after_step: int = 0,
    use_warmup: bool = False,
    warmup_gamma: float = 1.0,
    warmup_power: float = 2 / 3,
) -> Expression:
    """timm 1.0, ModelEmaV3, told the number of updates so far, from 1, as timm's training does.

    0 up to ``update_after_step``, then ``decay``, or with ``use_warmup``
    ``1 - (1 + (t - update_after_step) / warmup_gamma)^-warmup_power`` between ``min_decay`` and
    ``decay``.

    Args:
        decay, min_decay: in [0, 1]; the second is not above the first.
        update_after_step: a whole number, at least 0.
        use_warmup: as said above.
        warmup_gamma, warmup_power: above 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.averages.timm(0.9, use_warmup=True)([0, 7, 1000])
        array([0.  , 0.75, 0.9 ])
    """
    begin = check_whole("update_after_step", update_after_step, 0)
    gamma = check_positive("warmup_gamma", warmup_gamma)
    n, come = _power(begin, gamma, check_positive("warmup_power", warmup_power))
    if not check_flag("use_warmup", use_warmup):
        come = expression(check_number("decay", decay, 0, 1))
    return _within("min_decay", min_decay, "decay", decay, n, come)


@preset
def ema_pytorch(
    beta: float = 0.9999,
    update_after_step: int = 100,
    inv_gamma: float = 1.0,
    power: float = 2 / 3,
    min_value: float = 0.0,
) -> Expression:
    """ema-pytorch 0.8, EMA: 0 up to ``update_after_step``, then a power of time up to ``beta``.

    ``1 - (1 + (t - update_after_step) / inv_gamma)^-power``, between ``min_value`` and ``beta``. It
    averages every 10th update by default: ``ema_every=10``.

    Args:
        beta, min_value: in [0, 1]; the second is not above the first.
        update_after_step: a whole number, at least 0.
        inv_gamma, power: above 0.

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.averages.ema_pytorch(0.9)([100, 107, 1000])
        array([0.  , 0.75, 0.9 ])
    """
    begin = check_whole("update_after_step", update_after_step, 0)
    gamma, exponent = check_positive("inv_gamma", inv_gamma), check_positive("power", power)
    n, come = _power(begin, gamma, exponent)
    return _within("min_value", min_value, "beta", beta, n, come)


def _within(
    lowest: str, lower: float, highest: str, upper: float, n: Expression, come: Expression
) -> Expression:
    """Nothing is kept before the warm-up begins; then what has come, within bounds."""
    high = check_number(highest, upper, 0, 1)
    return where(n <= 0, 0.0, clip(come, check_number(lowest, lower, 0, high), high))


@preset
def keras(ema_momentum: float = 0.99) -> Expression:
    """Keras 3, ``use_ema=True``: always ``ema_momentum``, in [0, 1].

    Example:
        >>> from fusestep.schedules import presets
        >>> presets.averages.keras()(0)
        0.99
    """
    return decays.constant(check_number("ema_momentum", ema_momentum, 0, 1))
