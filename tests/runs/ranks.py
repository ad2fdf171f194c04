"""Runs of several processes, one of which is killed at random moments, again and again.

    PYTHONPATH=tests python -m runs.ranks 50      # kills; any seed may follow

Each life has 1 to 4 ranks, goes on from the newest checkpoint and saves after every step. After
each kill all of its processes must end within 30 s, the newest checkpoint must load without a
warning, be at least as new as the last that was said to be saved, and have the bits of one rank
that never stopped.
"""

from __future__ import annotations

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
from fusestep import control, distributed, schedules
from runs import children, processes
from runs.connected import connected

PARTIAL = ".partial"
LEAVES = 12
DATA = np.random.default_rng(5).standard_normal((301, 3000)).astype(np.float32)


class Training:
    """A rank's program: the loader, its policy, a control and parameters of two groups."""

    def __init__(self, group: Any, **options: Any) -> None:
        self.params = {"w": np.zeros(3000, np.float32), "b": np.zeros((2, 700), np.float32)}
        settings: dict[str, Any] = {
            "lr": 0.01 + 0.1 * control.Plateau(patience=1),
            "momentum": schedules.linear(0.5, 0.9, length=9),
            "groups": [{"match": "b", "weight_decay": 0.1}],
            "clip_norm": 5.0,
            "ema": 0.9,
        }
        shards = {"memory": [1] * group.world, "buckets": 2}  # small as it is
        options = {"leaves": LEAVES, **shards, **options, **settings}
        self.opt = distributed.Sharded(fs.SGD, self.params, group=group, **options)
        size = 24 + fs.expression.step * 5
        self.loader = fs.Loader({"x": DATA}, size, seed=3, epochs=None, shard=self.opt.share)
        self.losses: list[str] = []

    def gradients(self, batch: Any) -> tuple[float, Any]:
        difference = self.params["w"] - batch["x"]
        loss = float(np.square(difference).sum(1).mean())
        return loss, {"w": difference.mean(0), "b": self.params["b"] + np.float32(loss)}

    def steps(self, count: int) -> None:
        for batch in self.loader if count else ():
            info, loss = distributed.step(self.opt, self.gradients, batch)
            self.losses.append(repr((info.lr, info.grad_norm, loss, batch.size, batch.clock)))
            if (count := count - 1) == 0:
                return

    def extra(self, step: int) -> dict[str, Any]:
        return {"seen": np.array([step, 7.0]), "step": step}

    def load(self, folder: Path) -> int:
        """Goes on from the newest checkpoint: of which step, or 0."""
        seen = np.zeros(2)
        loaded = self.opt.load(folder, loader=self.loader, extra={"seen": seen, "step": 0})
        if loaded is None:
            return 0
        assert loaded.step is not None
        assert (loaded.extra["step"], *seen) == (loaded.step, loaded.step, 7)
        return loaded.step

    def save(self, folder: Path, step: int) -> None:
        self.opt.save(folder, step=step, loader=self.loader, extra=self.extra(step), keep=2)

    def bits(self) -> str:
        """A checksum of all, on rank 0."""
        parts = [self.params, self.opt.state_dict(), self.loader.state_dict()]
        arrays, text = fs.checkpoint.flatten(parts)
        checksum = xxhash.xxh3_128(text.encode())
        for array in arrays.values():
            checksum.update(array)
        return str(checksum.hexdigest())


def live(folder: Path) -> None:
    """One rank: goes on until it is killed; rank 0 tells which step was saved last."""
    group = connected("mpi", timeout=20)
    run = Training(group)
    step = run.load(folder)
    (folder / f"process-{os.getpid()}").touch()  # mpiexec mixes the lines of ranks
    while True:
        run.steps(1)
        step += 1
        run.save(folder, step)
        if group.rank == 0:
            print(f"saved {step}", flush=True)


def killed(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kills a rank of so many lives; raises AssertionError where something was lost."""
    chance = random.Random(seed)
    never_stopped, steps = Training(distributed.alone()), 0
    counts = {"kills": 0, "steps": 0, "saved": 0, "while writing": 0}
    for _ in range(kills):
        ranks = chance.randint(1, 4)
        with children.killed_at_the_end(
            processes.started_on_mpi(ranks, "runs.ranks", str(folder))
        ) as run:
            deadline = time.monotonic() + 60
            while len(found := list(folder.glob("process-*"))) < ranks:
                assert run.poll() is None, f"a rank has ended by itself: {run.communicate()}"
                assert time.monotonic() < deadline, "no rank begins"
                time.sleep(0.01)
            time.sleep(chance.random() * 0.3)
            os.kill(int(chance.choice(found).name.split("-")[1]), signal.SIGKILL)
            told = run.communicate(timeout=30)[0].splitlines()
        for path in found:
            path.unlink()
        assert run.returncode != 0
        saved = [int(line.split()[1]) for line in told if line.startswith(b"saved ")]
        last = max([counts["steps"], *saved])
        counts["kills"] += 1
        counts["saved"] += len(saved)
        counts["while writing"] += any(p.name.endswith(PARTIAL) for p in folder.iterdir())
        goes_on = Training(distributed.alone())
        counts["steps"] = goes_on.load(folder)
        assert counts["steps"] >= last, f"step {last} was saved, and {counts['steps']} is there"
        never_stopped.steps(counts["steps"] - steps)
        steps = counts["steps"]
        assert goes_on.bits() == never_stopped.bits(), f"other bits at step {steps}"
    return counts


if __name__ == "__main__":
    warnings.simplefilter("error")
    if sys.argv[-1] == "mpi":
        live(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as made:
        seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
        print(killed(Path(made), int(sys.argv[1]), seed))
        print("left:", sorted(path.name for path in Path(made).iterdir()))
