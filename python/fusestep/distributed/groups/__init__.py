"""Groups of processes: engines that exist move bytes, and never add numbers."""

from .alone import Alone, alone
from .mpi import Mpi, mpi
from .nccl import Nccl, nccl
from .protocol import Group, Message, Pending, Range, RankError, RankTimeout
from .shares import Leaves, balanced, leaf_bounds, share
from .threads import Threads, threads
from .torch import Torch, torch

__all__ = [
    "Alone",
    "Group",
    "Leaves",
    "Message",
    "Mpi",
    "Nccl",
    "Pending",
    "Range",
    "RankError",
    "RankTimeout",
    "Threads",
    "Torch",
    "alone",
    "balanced",
    "leaf_bounds",
    "mpi",
    "nccl",
    "share",
    "threads",
    "torch",
]
