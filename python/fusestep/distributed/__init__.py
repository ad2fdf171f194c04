"""Several processes that train one model, with the same bits for any number of them.

group = distributed.mpi(MPI.COMM_WORLD)
opt = distributed.Sharded(fs.AdamW, params, group=group, leaves=64, lr=1e-3)
loader = fs.Loader({"x": X, "y": y}, 512, shard=opt.share)
opt.load(folder, loader=loader)                 # that any number of ranks has saved, or none
for batch in loader:
    info, loss = distributed.step(opt, loss_and_grads, batch)
opt.save(folder, step=300, loader=loader)
"""

from __future__ import annotations

from .batches import step
from .gradient_check import check_gradients
from .groups import (
    Group,
    Leaves,
    RankError,
    RankTimeout,
    alone,
    balanced,
    mpi,
    nccl,
    share,
    threads,
    torch,
)
from .layout import flatten
from .sharded import Sharded

__all__ = [
    "Group",
    "Leaves",
    "RankError",
    "RankTimeout",
    "Sharded",
    "alone",
    "balanced",
    "check_gradients",
    "flatten",
    "mpi",
    "nccl",
    "share",
    "step",
    "threads",
    "torch",
]


def __dir__() -> list[str]:
    return __all__
