"""Named curves: each function returns an expression that keeps the function's name and arguments.

Conventions: the first update has t = 0, and negative times are refused; after its length a curve
holds its last value; at a boundary, and within 1e-9 of it where the time is in epochs or samples
(see `fusestep.Clock`), the later piece applies; a total includes its warm-up; arguments are values,
not shares of others, unless they are called factor or fraction. All go by position or by name:
those that must be given come first, values before times, and ``by`` is the last.
"""

from . import presets
from .callables import as_lambda, as_scheduler
from .cycles import cosine_restarts, cyclic, one_cycle, random
from .decays import (
    constant,
    exponential,
    inverse_offset,
    inverse_sqrt,
    inverse_time,
    noam,
    power,
)
from .initial import initial_lr
from .pieces import interpolate, multistep, piecewise, sequence, staircase_linear, step, table
from .ramps import cosine, linear, polynomial, rex, tanh
from .warmups import (
    ademamix_alpha,
    ademamix_beta3,
    gradual_warmup,
    warmup,
    warmup_constant,
    warmup_cosine,
    warmup_linear,
    wsd,
)

__all__ = [
    "ademamix_alpha",
    "ademamix_beta3",
    "as_lambda",
    "as_scheduler",
    "constant",
    "cosine",
    "cosine_restarts",
    "cyclic",
    "exponential",
    "gradual_warmup",
    "initial_lr",
    "interpolate",
    "inverse_offset",
    "inverse_sqrt",
    "inverse_time",
    "linear",
    "multistep",
    "noam",
    "one_cycle",
    "piecewise",
    "polynomial",
    "power",
    "presets",
    "random",
    "rex",
    "sequence",
    "staircase_linear",
    "step",
    "table",
    "tanh",
    "warmup",
    "warmup_constant",
    "warmup_cosine",
    "warmup_linear",
    "wsd",
]


def __dir__() -> list[str]:
    return __all__
