"""fusestep: the fused optimizer backend for NumPy and CuPy.

One native call updates a whole model, with the same bits on every instruction set and thread count.

    >>> import numpy as np, fusestep as fs
    >>> params = {"w": np.ones(3, np.float32)}
    >>> opt = fs.AdamW(params, lr=0.1)
    >>> opt.step({"w": np.ones(3, np.float32)}).applied
    True
"""

from typing import TYPE_CHECKING

# the native part first: it refuses a child interpreter before NumPy has been loaded there
from . import (
    _core,
    batch_sizes,
    checkpoint,
    control,
    data,
    expression,
    gradients,
    scaling,
    schedules,
    threads,
)
from ._core import StateError, build_info, get_num_threads, set_num_threads
from .clock import Clock
from .data import Batch, Loader
from .engines import StepInfo
from .expression import Expression
from .optim import (
    ADOPT,
    LAMB,
    LARS,
    SGD,
    AdaBelief,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    AdEMAMix,
    Lion,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    Rprop,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    StableAdamW,
)
from .record import Record
from .renamed import renamed
from .rows import Rows
from .run import Run

threads.register()

__version__: str = str(_core.build_info()["version"])

__all__ = [
    "ADOPT",
    "LAMB",
    "LARS",
    "SGD",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Batch",
    "Clock",
    "Expression",
    "Lion",
    "Loader",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Record",
    "Rows",
    "Rprop",
    "Run",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "StableAdamW",
    "StateError",
    "StepInfo",
    "batch_sizes",
    "build_info",
    "checkpoint",
    "control",
    "data",
    "expression",
    "get_num_threads",
    "gradients",
    "scaling",
    "schedules",
    "set_num_threads",
]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"batch": "batch_sizes"})


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
