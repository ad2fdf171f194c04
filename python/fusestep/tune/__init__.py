"""Settings found by trial: a learning rate, a batch size, and whatever a study searches."""

from .memory_limit import largest_batch
from .noise import NoiseScale, noise_scale_scan
from .rates import RateRange, lr_range
from .search import report, suggest

__all__ = [
    "NoiseScale",
    "RateRange",
    "largest_batch",
    "lr_range",
    "noise_scale_scan",
    "report",
    "suggest",
]


def __dir__() -> list[str]:
    return __all__
