"""Batch sizes that change: policies that follow the clock, the learning rate, loss or gradients.

A rule gives a real number, and limits, rounding and hysteresis, the same for all, make it a size;
see `Policy` for these options.
"""

from .base import Policy
from .choosing import as_policy, rule_of_thumb, steps_per_epoch
from .from_clock import exponential, expression, fixed, polynomial, ramp, steps
from .from_gradients import diversity, noise_scale, norm_test
from .from_loss import cabs, loss_ratio
from .from_lr import Doubling, IncreaseInsteadOfDecay, coupled, doubling, increase_instead_of_decay
from .rounding import Options

__all__ = [
    "Doubling",
    "IncreaseInsteadOfDecay",
    "Options",
    "Policy",
    "as_policy",
    "cabs",
    "coupled",
    "diversity",
    "doubling",
    "exponential",
    "expression",
    "fixed",
    "increase_instead_of_decay",
    "loss_ratio",
    "noise_scale",
    "norm_test",
    "polynomial",
    "ramp",
    "rule_of_thumb",
    "steps",
    "steps_per_epoch",
]


def __dir__() -> list[str]:
    return __all__
