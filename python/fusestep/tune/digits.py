"""The range test on handwritten digits: ``python -m fusestep find-lr --demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import AdamW, Loader
from ..demo import LAYERS, Digits, Params, gradients, initial_params, loss_and_accuracy
from .rates import lr_range

_BATCH = 64
_EPOCHS = 5  # to show what the rates found are worth


def _loss_and_grads(params: Params, batch: Any) -> tuple[float, Params]:
    x, y = batch["x"], batch["y"]
    return loss_and_accuracy(params, x, y)[0], gradients(params, x, y)


def _loss_after(digits: Digits, lr: float) -> float:
    """Of the test set, after a few epochs with that learning rate."""
    params = initial_params()
    opt = AdamW(params, lr=lr)
    for batch in Loader({"x": digits.train_x, "y": digits.train_y}, _BATCH, epochs=_EPOCHS):
        opt.step(_loss_and_grads(params, batch)[1], clock=batch.clock)
    return loss_and_accuracy(params, digits.test_x, digits.test_y)[0]


def main(out: Path) -> int:
    """Finds a rate, draws the curve, and trains with the rate and ten times less and more."""
    digits = Digits.load()
    params = initial_params()
    loader = Loader({"x": digits.train_x, "y": digits.train_y}, _BATCH)
    found = lr_range(AdamW(params), _loss_and_grads, loader)
    layers = "-".join(map(str, LAYERS))
    print(f"AdamW, MLP {layers}, {len(digits.train_x)} digits in batches of {_BATCH}:")
    print(f"  {found.ended}, {len(found.rates)} rates tried")
    for name in ("steepest", "suggestion", "a_tenth_of_minimum", "minimum"):
        print(f"  {name:18s} {getattr(found, name):.2g}")
    if found.suggestion is None:
        raise RuntimeError("the loss on the digits did not fall")
    print(f"test loss after {_EPOCHS} epochs:")
    for factor in (0.1, 1.0, 10.0):
        rate = factor * found.suggestion
        print(f"  with a rate of {rate:.2g}: {_loss_after(digits, rate):.3f}")
    found.plot(out)
    print(f"wrote {out}")
    return 0
