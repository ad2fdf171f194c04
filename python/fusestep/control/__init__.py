"""Values that follow the loss."""

from .base import Control
from .choices import BestOf, RestartBelow
from .plateaus import Plateau, ReduceThenGrow
from .ratios import LossBackoff, LossGap, Rollback

__all__ = [
    "BestOf",
    "Control",
    "LossBackoff",
    "LossGap",
    "Plateau",
    "ReduceThenGrow",
    "RestartBelow",
    "Rollback",
]


def __dir__() -> list[str]:
    return __all__
