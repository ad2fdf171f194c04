"""The time of saving and loading a model with its AdamW states, beside other ways to do it.

Files lie in the current folder: its disk is measured. A save ends when the file is on the disk, for
all contestants; the others do not see to that themselves, so fsync is called for them.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import fusestep as fs

from . import command, report
from .agreement import Disagreement
from .bars import draw_bars
from .command import selected
from .measure import Step, Timing, singly
from .models import MODELS
from .peers import torch_absent
from .report import Column, Table
from .step import spread

Array = npt.NDArray[Any]
CHUNK = 2**20


class Run:
    """Parameters, and an optimizer that has taken a step."""

    def __init__(self, quick: bool) -> None:
        self.model = next(m for m in MODELS if m.name == ("1e6" if quick else "gpt2"))
        random = np.random.default_rng(0)
        self.params = {
            f"p{i}": random.standard_normal(shape, dtype=np.float32)
            for i, shape in enumerate(self.model.shapes)
        }
        self.opt = fs.AdamW(self.params, lr=1e-3)
        self.gradients = {name: np.cos(p) for name, p in self.params.items()}
        self.opt.step(self.gradients)
        self.arrays: dict[str, Array] = {f"params/{n}": p for n, p in self.params.items()}
        for path, state in self.opt.state.items():
            self.arrays |= {f"{path}/{name}": array for name, array in state.items()}
        self.bytes = sum(array.nbytes for array in self.arrays.values())

    @property
    def title(self) -> str:
        return f"{self.model.title} and its AdamW states, float32, {self.bytes / 1e9:.2f} GB"


def _synced(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


class Plain:
    """The bytes alone."""

    def __init__(self, run: Run, path: Path) -> None:
        self.run, self.path = run, path

    def save(self) -> None:
        with self.path.open("wb", buffering=0) as file:
            for array in self.run.arrays.values():
                data = memoryview(array.reshape(-1).view(np.uint8))
                for start in range(0, len(data), CHUNK):
                    file.write(data[start : start + CHUNK])
            os.fsync(file.fileno())

    def load(self) -> None:
        with self.path.open("rb", buffering=0) as file:
            for array in self.run.arrays.values():
                file.readinto(memoryview(array.reshape(-1).view(np.uint8)))


class Fusestep(Plain):
    def save(self) -> None:
        fs.checkpoint.save(self.path, params=self.run.params, optimizer=self.run.opt)

    def load(self) -> None:
        fs.checkpoint.load(self.path, params=self.run.params, optimizer=self.run.opt)


class Safetensors(Plain):
    def save(self) -> None:
        module: Any = importlib.import_module("safetensors.numpy")
        module.save_file(self.run.arrays, self.path)
        _synced(self.path)

    def load(self) -> None:
        module: Any = importlib.import_module("safetensors.numpy")
        for name, array in module.load_file(self.path).items():
            np.copyto(self.run.arrays[name], array)


class Numpy(Plain):
    def save(self) -> None:
        with self.path.open("wb") as file:
            np.savez(file, **self.run.arrays)
        _synced(self.path)

    def load(self) -> None:
        with np.load(self.path) as saved:
            for name, array in self.run.arrays.items():
                np.copyto(array, saved[name])


class Torch(Plain):
    def __init__(self, run: Run, path: Path) -> None:
        super().__init__(run, path)
        self.torch: Any = importlib.import_module("torch")

    def save(self) -> None:
        tensors = {name: self.torch.from_numpy(a) for name, a in self.run.arrays.items()}
        self.torch.save(tensors, self.path)
        _synced(self.path)

    def load(self) -> None:
        for name, tensor in self.torch.load(self.path).items():
            np.copyto(self.run.arrays[name], tensor.numpy())


CONTESTANTS: dict[str, type[Plain]] = {
    "plain copy": Plain,
    "fusestep": Fusestep,
    "safetensors": Safetensors,
    "torch": Torch,
    "numpy.savez": Numpy,
}


def _contestants(run: Run, folder: Path) -> tuple[dict[str, Plain], dict[str, str]]:
    """Each with a file that it has saved and loaded again, and those that are absent."""
    absent = {"torch": torch_absent()} if torch_absent() else {}
    made = {
        name: kind(run, folder / name.replace(" ", "-"))
        for name, kind in CONTESTANTS.items()
        if name not in absent
    }
    first = {name: array.copy() for name, array in run.arrays.items()}
    for name, contestant in made.items():
        print(name, file=sys.stderr, flush=True)
        contestant.save()
        for array in run.arrays.values():
            array.fill(0)
        contestant.load()
        if not all(np.array_equal(array, first[key]) for key, array in run.arrays.items()):
            raise Disagreement(f"{name} loads something else than it saved")
    return made, absent


def _table(
    name: str, title: str, timings: Mapping[str, Timing], absent: Mapping[str, str], *notes: str
) -> Table:
    first = next(iter(timings))
    rows: list[dict[str, Any]] = [
        {"contestant": n, "time": t.median, "relative": t.median / timings[first].median}
        for n, t in timings.items()
    ]
    rows += [{"contestant": entry} for entry in absent]
    columns = [
        Column("contestant", "contestant"),
        Column("time", "time", report.seconds, missing="absent"),
        Column("relative", f"/ {first}", report.ratio),
    ]
    remarks = [*report.absences(absent), *notes, spread({name: timings})]
    detail = {"timings": {n: asdict(t) for n, t in timings.items()}, "absent": dict(absent)}
    return Table(name, title, columns, rows, remarks, detail)


def _saving_or_loading(what: str, note: str, run: Run, folder: Path, rounds: int) -> Table:
    made, absent = _contestants(run, folder)
    steps: dict[str, Step] = {name: getattr(one, what) for name, one in made.items()}
    before = dict.fromkeys(steps, os.sync) if hasattr(os, "sync") else {}
    timings = singly(steps, rounds, before)
    for one in made.values():
        one.path.unlink()
    return _table(what, f"{what}: {run.title}", timings, absent, note)


def background(run: Run, folder: Path, rounds: int) -> Table:
    """What a save in the background costs the loop."""
    path = folder / "background"
    memory = np.zeros(run.bytes, np.uint8)

    def copy() -> None:
        end = 0
        for array in run.arrays.values():
            begin, end = end, end + array.nbytes
            np.copyto(memory[begin:end].view(array.dtype).reshape(array.shape), array)

    def save() -> None:
        fs.checkpoint.save(path, params=run.params, optimizer=run.opt, background=True)

    def saving() -> None:
        writer.finish()
        save()

    def step() -> None:
        run.opt.step(run.gradients)

    from fusestep.checkpoint.background import writer

    steps = {
        "np.copyto of the bytes": copy,
        "save(background=True)": save,
        "an AdamW step": step,
        "an AdamW step while a save is written": step,
    }
    before = {**dict.fromkeys(steps, writer.finish), list(steps)[-1]: saving}
    save()  # which makes the memory of its copies
    timings = singly(steps, rounds, before)
    fs.checkpoint.wait()
    return _table(
        "background",
        f"a save in the background: {run.title}",
        timings,
        {},
        "The first such save also waits for the system to give the memory of the copies.",
    )


PARTS: dict[str, Callable[[Run, Path, int], Table]] = {
    "save": partial(_saving_or_loading, "save", "Each ends when the file is on the disk."),
    "load": partial(
        _saving_or_loading, "load", "Files are in the system's memory. Each loads into arrays."
    ),
    "background": background,
}


def run(options: argparse.Namespace) -> int:
    """Measures what the options ask for; 1 where a contestant loads something else."""
    parts = selected(options, list(PARTS))
    if parts is None:
        return 2
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as made:
        state = Run(options.quick)
        rounds = 3 if options.quick else 9
        tables = {name: partial(PARTS[name], state, Path(made), rounds) for name in parts}
        return command.run(options, "checkpoint", tables, draw_bars)
