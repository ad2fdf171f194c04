"""The optimizers, in order of increasing complexity."""

from .adam import AdaBelief, Adam, AdamW
from .base import Optimizer
from .groups import Group
from .lamb import LAMB
from .nadam import NAdam
from .sgd import SGD

__all__ = ["LAMB", "SGD", "AdaBelief", "Adam", "AdamW", "Group", "NAdam", "Optimizer"]


def __dir__() -> list[str]:
    return __all__
