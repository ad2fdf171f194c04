"""The size of the next batch: policies that follow time, the learning rate or the gradients.

A rule wants a real number, and one layer of limits, rounding and patience, the same for all, makes
it a size; see `Policy` for its options.
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
