"""Settings found by trial: a learning rate, a batch size."""

from .memory_limit import largest_batch
from .rates import RateRange, lr_range

__all__ = ["RateRange", "largest_batch", "lr_range"]


def __dir__() -> list[str]:
    return __all__
