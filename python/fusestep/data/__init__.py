"""Data iteration: every sample once in an epoch, whatever the batch size does."""

from .columns import to_float32
from .loader import Loader
from .loop import Batch
from .order import Balanced, Subset, Weighted
from .unique import unique_rows

__all__ = ["Balanced", "Batch", "Loader", "Subset", "Weighted", "to_float32", "unique_rows"]


def __dir__() -> list[str]:
    return __all__
