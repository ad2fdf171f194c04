"""The optimizers of torch.optim, by name and arguments, stepping in fusestep's native code.

A change of one import: ``from fusestep.torch import AdamW``. State has torch's keys, so checkpoints
go both ways, and schedulers, hooks, closures and scalers of gradients work as ever.

What is served natively: dense parameters of float32 or float64 in the memory of the CPU, in any
order of their axes (channels_last too), with gradients of their dtype. Everything else is updated
by torch's own step, or refused: see ``on_unsupported``.
"""

try:
    import torch
except ImportError as error:
    raise ImportError('fusestep.torch needs torch: pip install "fusestep[torch]"') from error

from .offload import Offload
from .optimizers import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
)

del torch

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "Offload",
    "RAdam",
    "RMSprop",
    "Rprop",
]
