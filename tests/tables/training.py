"""A small training run over `fusestep.Run`, built anew for each start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import fusestep as fs

N = 23


class Training:
    """A small run that is built anew, as a program is started again."""

    def __init__(self, folder: Path, *, epochs: int = 3, size: Any = 4, **options: Any) -> None:
        self.params = {"w": np.ones(3), "b": np.zeros(2, np.float32)}
        rate = fs.schedules.exponential(start=0.1, rate=0.9, every=10)
        self.opt = fs.SGD(self.params, lr=rate, momentum=0.9, clip_norm=2.0)
        self.loader = fs.Loader(np.arange(N * 3.0).reshape(N, 3) / N, size, epochs=epochs)
        given = {"every": 5, **options}
        self.run = fs.Run(
            folder, params=self.params, optimizer=self.opt, loader=self.loader, **given
        )
        self.seen: list[list[int]] = []

    def step(self, batch: fs.Batch) -> None:
        self.seen.append(batch.indices.tolist())
        error = self.params["w"] - batch.data.mean(axis=0)
        grads = {"w": error, "b": np.ones(2, np.float32)}
        info = self.opt.step(grads, clock=batch.clock)
        self.run.note(info, loss=error @ error)

    def train(self, stop: int | None = None, total: int | None = None) -> Training:
        for batch in self.run.steps(total):
            self.step(batch)
            if stop is not None and self.run.step + 1 == stop:
                self.run.stop()
        return self

    def bits(self) -> Any:
        state = [self.params, self.opt.state_dict(), self.run.record.state_dict(), self.run.step]
        arrays, text = fs.checkpoint.flatten(state)
        return text, {name: array.tobytes() for name, array in arrays.items()}


def files(folder: Path) -> list[int]:
    return sorted(int(path.stem[5:]) for path in folder.glob("step-*.safetensors"))
