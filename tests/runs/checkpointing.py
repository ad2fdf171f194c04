"""A run that is killed at random moments, again and again, and goes on each time.

    PYTHONPATH=tests python -m runs.checkpointing 1000      # kills; any seed may follow

Each life saves after every step, every other time in the background, and says when a save has
returned. After each kill the newest checkpoint must load without a warning, be at least as new as
the last that was said to be saved, and have the bits of the run that never stopped.
"""

from __future__ import annotations

import math
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

import fusestep as fs

PARTIAL = ".partial"


class Run:
    """A small run whose every step depends on all that a checkpoint holds."""

    def __init__(self) -> None:
        self.params = {"w": np.ones(40_000, np.float32), "b": np.zeros((3, 5))}
        lr = fs.schedules.cosine(0.1, length=10**6) * fs.control.Plateau(0.9, patience=5)
        self.opt = fs.AdamW(self.params, lr=lr, clip_norm=1.0)
        x = np.arange(1000, dtype=np.float32)
        self.loader = fs.Loader({"x": x}, fs.expression.step % 7 + 1, epochs=None)
        self.extra = {"losses": np.zeros(4), "best": math.pi}
        self.step = 0

    def parts(self) -> dict[str, Any]:
        named = {"params": self.params, "optimizer": self.opt, "loader": self.loader}
        return {**named, "extra": self.extra}

    def load(self, saves: fs.checkpoint.Checkpoints) -> bool:
        loaded = saves.load(**self.parts())
        if loaded is not None:
            assert loaded.step is not None
            self.step, self.extra = loaded.step, loaded.extra
        return loaded is not None

    def train(self) -> None:
        """One step."""
        batch = next(iter(self.loader))
        value = float(batch["x"].sum())
        grads = {"w": np.cos(self.params["w"] * value), "b": np.sin(self.params["b"] + value)}
        loss = float(grads["w"][::1000].sum()) + self.extra["best"]
        self.opt.step(grads, clock=batch.clock, loss=loss)
        self.step += 1
        self.extra["losses"][self.step % 4] = loss
        self.extra["best"] = min(self.extra["best"], loss)

    def bits(self) -> str:
        """A checksum of all."""
        state = {**self.parts(), "optimizer": self.opt.state_dict()}
        arrays, text = fs.checkpoint.flatten({**state, "loader": self.loader.state_dict()})
        checksum = xxhash.xxh3_128(text.encode())
        for array in arrays.values():
            checksum.update(array)
        return checksum.hexdigest()


def live(folder: Path, told: int) -> None:
    """Goes on from the newest checkpoint until it is killed; tells which step was saved last."""
    saves = fs.checkpoint.Checkpoints(folder, keep=2)
    run = Run()
    run.load(saves)
    while True:
        run.train()
        background = run.step % 2 == 1
        saves.save(step=run.step, **run.parts(), background=background)
        os.write(told, (run.step - background).to_bytes(8, "little"))


def killed(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kills so many lives; raises AssertionError where something was lost."""
    chance = random.Random(seed)
    never_stopped = Run()
    counts = {"kills": 0, "steps": 0, "saved": 0, "while writing": 0}
    while counts["kills"] < kills:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                live(folder, writing)
            finally:
                os._exit(1)
        os.close(writing)
        with os.fdopen(reading, "rb") as told:
            waits = counts["steps"] == 0 or chance.random() < 0.9
            begin = told.read(8) if waits else b""  # it has saved once
            time.sleep(chance.random() * 0.03)
            os.kill(child, signal.SIGKILL)
            assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the run has ended by itself"
            lines = begin + told.read()
        last = max(counts["steps"], int.from_bytes(lines[-8:], "little"))
        counts["kills"] += 1
        counts["saved"] += len(lines) // 8
        counts["while writing"] += any(p.name.endswith(PARTIAL) for p in folder.iterdir())
        run = Run()
        assert run.load(fs.checkpoint.Checkpoints(folder, keep=2))
        assert run.step >= last, f"step {last} was saved, and {run.step} is there"
        while never_stopped.step < run.step:
            never_stopped.train()
        assert run.bits() == never_stopped.bits(), f"other bits at step {run.step}"
        counts["steps"] = run.step
    return counts


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)  # the fork
    with tempfile.TemporaryDirectory() as made:
        seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
        print(killed(Path(made), int(sys.argv[1]), seed))
        print("left:", sorted(path.name for path in Path(made).iterdir()))
