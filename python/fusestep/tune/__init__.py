"""Settings found by trial: a learning rate, a batch size."""

from .memory_limit import largest_batch
from .noise import NoiseScale, noise_scale_scan
from .rates import RateRange, lr_range

__all__ = ["NoiseScale", "RateRange", "largest_batch", "lr_range", "noise_scale_scan"]


def __dir__() -> list[str]:
    return __all__
