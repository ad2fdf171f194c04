"""Three epochs of digits with a growing batch, as a program that can be killed at any moment.

It goes on from what it saved last, and saves after every step.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import fusestep as fs
from runs import saved
from runs.scheduled import digits, initial_params, loss_and_gradients

EPOCHS = 3


def main() -> None:
    folder = Path(sys.argv[1])
    x, labels = digits()
    params = initial_params()
    size = fs.batch_sizes.polynomial(
        start=16, end=64, length=EPOCHS, by="epoch", multiple_of=4, threshold=0.2
    )
    loader = fs.Loader({"x": x, "y": labels}, size, seed=4, epochs=EPOCHS, tail="carry")
    lr = fs.schedules.warmup_cosine(peak=0.01, warmup=0.3, total=EPOCHS, by="epoch")
    opt = fs.AdamW(params, lr=fs.scaling.sqrt(lr, base_batch=16))
    place, arrays = folder / "loader.json", folder / "run.npz"
    if place.exists():
        state = json.loads(place.read_text())
        loader.load_state_dict(state["loader"])
        saved.load(folder / state["arrays"], opt, params)
    for batch in loader:
        _, gradients = loss_and_gradients(params, batch["x"], batch["y"])
        opt.step(gradients, clock=batch.clock)
        # two files in turns, and the small one, renamed into place, says which is whole
        arrays = folder / f"run{opt.steps_applied % 2}.npz"
        saved.save(arrays, opt, params)
        state = {"loader": loader.state_dict(), "arrays": arrays.name, "steps": opt.steps_applied}
        new = folder / "new.json"
        new.write_text(json.dumps(state))
        new.replace(place)
    np.savez(folder / "end.npz", *params)


main()
