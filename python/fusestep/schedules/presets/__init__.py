"""Schedules of other libraries, under their names and arguments and with their values.

``presets.torch.CosineAnnealingLR(base=0.1, T_max=100)`` is what torch's scheduler of that name puts
in force for update 0, 1 and so on: a curve in steps like all others. Where the peer takes an
optimizer, ``base`` is its learning rate. Where it is stepped once an epoch, use ``.by("epoch")``;
the value then changes within epochs, too. Arguments that say where a stopped run goes on, as
``last_epoch``, are left out: the value depends on the clock alone. So are those of momentum, which
is another expression. In text the names begin with ``presets.``, as in "presets.torch.StepLR(...)".
"""

from . import averages, deepspeed, keras, optax, timm, torch, transformers

__all__ = ["averages", "deepspeed", "keras", "optax", "timm", "torch", "transformers"]


def __dir__() -> list[str]:
    return __all__
