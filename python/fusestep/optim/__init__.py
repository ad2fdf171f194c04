"""The optimizers, in order of increasing complexity."""

from .adam import AdaBelief, Adam, AdamW
from .ademamix import AdEMAMix
from .adopt import ADOPT
from .base import Optimizer
from .groups import Group
from .lamb import LAMB
from .nadam import NAdam
from .radam import RAdam
from .schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from .sgd import SGD

__all__ = [
    "ADOPT",
    "LAMB",
    "SGD",
    "AdEMAMix",
    "AdaBelief",
    "Adam",
    "AdamW",
    "Group",
    "NAdam",
    "Optimizer",
    "RAdam",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
]


def __dir__() -> list[str]:
    return __all__
