"""The optimizers, in order of increasing complexity."""

from .adam import AdaBelief, Adam, AdamW
from .base import Optimizer
from .groups import Group
from .sgd import SGD

__all__ = ["SGD", "AdaBelief", "Adam", "AdamW", "Group", "Optimizer"]


def __dir__() -> list[str]:
    return __all__
