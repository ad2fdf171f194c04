"""The schedules of other libraries as plain Python: the value of update t = 0, 1, ..."""

from . import averages, deepspeed, keras, optax, timm, torch, transformers

FORMULAS = {
    "averages": averages.FORMULAS,
    "deepspeed": deepspeed.FORMULAS,
    "keras": keras.FORMULAS,
    "optax": optax.FORMULAS,
    "timm": timm.FORMULAS,
    "torch": torch.FORMULAS,
    "transformers": transformers.FORMULAS,
}
