"""A run that may be killed or stopped at any moment: ``python -m runs.survived``.

Everything in it has memory: momentum, a control that follows the loss, gradient statistics, a batch
size that follows them, skipped steps, the record, and values of its own. At the end it writes all
of that to FOLDER/end.npz, and whenever it ends, what it tells of itself to FOLDER/told.json.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import fusestep as fs

SAMPLES, EPOCHS = 600, 6


def loss_and_grads(params: dict[str, Any], batch: Any) -> tuple[float, dict[str, Any]]:
    x, y = batch["x"], batch["y"]
    hidden = np.tanh(x @ params["w"] + params["b"])
    error = hidden @ params["v"] - y
    slope = 2 * error / np.float32(error.size)
    inner = slope @ params["v"].T * (1 - hidden**2)
    grads = {"w": x.T @ inner, "b": inner.sum(axis=0), "v": hidden.T @ slope}
    return float(np.mean(error**2)), grads


def train(folder: Path, every: Any, *, background: bool = True, pause: float = 0.0) -> fs.Run:
    random = np.random.default_rng(3)
    shapes = {"w": (5, 40), "b": (40,), "v": (40, 2)}
    x, y = (random.standard_normal((SAMPLES, n)).astype(np.float32) for n in (5, 2))
    params = {n: random.standard_normal(s).astype(np.float32) / 4 for n, s in shapes.items()}
    statistics = fs.gradients.GradientStatistics(horizon=2000)
    size = fs.batch_sizes.noise_scale(statistics, start=16, minimum=8, maximum=60)
    loader = fs.Loader({"x": x, "y": y}, size, seed=7, epochs=EPOCHS, tail="carry")
    follows = fs.control.Plateau(factor=0.7, patience=3)
    rate = fs.schedules.warmup_cosine(peak=0.02, warmup=1, total=EPOCHS, by="epoch")
    opt = fs.AdamW(params, lr=rate * follows, clip_norm=1.0, nonfinite="skip")
    own = {"least": 1e9, "sums": np.zeros(2), "statistics": statistics}
    run = fs.Run(
        folder,
        params=params,
        optimizer=opt,
        loader=loader,
        extra=own,
        every=every,
        background=background,
    )
    for batch in run.steps():
        loss = 0.0
        for part in fs.gradients.split_batch(batch, 2):
            part_loss, grads = loss_and_grads(params, part)
            if run.step % 37 == 5:
                grads["b"][3] = np.inf
            opt.accumulate(grads, samples=len(part))
            loss += part_loss * len(part) / len(batch)
        info = opt.step(clock=batch.clock, loss=loss, statistics=statistics)
        own["least"] = min(own["least"], loss)
        own["sums"] += [loss, 1.0]
        values = {"half": loss / 2} if run.step > 20 else {}
        run.note(info, loss=loss, statistics=statistics, **values)
        time.sleep(pause)
    if run.stopped is None:
        state = [params, opt.state_dict(), loader.state_dict(), run.record.state_dict()]
        arrays, text = fs.checkpoint.flatten([*state, own["sums"], statistics.state_dict()])
        end = json.dumps([json.loads(text), own["least"], run.step])
        np.savez(folder / "new.npz", json=np.array(end), **arrays)
        (folder / "new.npz").replace(folder / "end.npz")
    return run


if __name__ == "__main__":
    folder, every, pause = sys.argv[1:]
    run = train(Path(folder), int(every) if every.isdigit() else every, pause=float(pause))
    told = json.dumps([run.resumed, run.step, run.stopped])
    (Path(folder) / "told.json").write_text(told)
