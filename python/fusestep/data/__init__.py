"""Data iteration: every sample once in an epoch, whatever the batch size does."""

from .batch import Batch
from .columns import to_float32
from .loader import Loader
from .sampling import Balanced, Subset, Weighted

__all__ = ["Balanced", "Batch", "Loader", "Subset", "Weighted", "to_float32"]


def __dir__() -> list[str]:
    return __all__
