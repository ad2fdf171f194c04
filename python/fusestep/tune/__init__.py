"""Settings found by trial: a learning rate, a batch size."""

from .rates import RateRange, lr_range

__all__ = ["RateRange", "lr_range"]


def __dir__() -> list[str]:
    return __all__
