"""The time of data iteration: one shuffled epoch in batches, alone and beside a consumer."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

import fusestep as fs

from . import command, report
from .agreement import Disagreement
from .bars import draw_bars
from .command import selected
from .measure import FULL, QUICK, Effort, Timing, in_turns
from .peers import torch_absent
from .report import Column, Table
from .step import spread

BATCH = 128
Epoch = Callable[[], Iterator[tuple[Any, Any]]]


@dataclass(frozen=True)
class Data:
    """Images and labels of the size of MNIST, in memory."""

    x: npt.NDArray[Any]
    y: npt.NDArray[Any]


def _data(effort: Effort, kind: str) -> Data:
    n = 60_000 if effort is not QUICK else 6_000
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (n, 784), np.uint8)
    return Data(x if kind == "uint8" else x.astype(np.float32), np.arange(n))


def _fusestep(data: Data, **options: Any) -> Epoch:
    loader = fs.Loader((data.x, data.y), BATCH, **options)
    return lambda: ((x, y) for x, y in loader)


def _numpy(data: Data, convert: bool = False) -> Epoch:
    random = np.random.default_rng(1)

    def epoch() -> Iterator[tuple[Any, Any]]:
        order = random.permutation(len(data.x))
        for i in range(0, len(order), BATCH):
            chosen = order[i : i + BATCH]
            x = data.x[chosen]
            yield (x.astype(np.float32) * np.float32(1 / 255) if convert else x), data.y[chosen]

    return epoch


def _torch(data: Data, workers: int) -> Epoch:
    torch: Any = importlib.import_module("torch")
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(data.x), torch.from_numpy(data.y))
    loader = torch.utils.data.DataLoader(dataset, BATCH, shuffle=True, num_workers=workers)
    return lambda: ((x.numpy(), y.numpy()) for x, y in loader)


def _grain(data: Data) -> Epoch:
    grain: Any = importlib.import_module("grain.python")
    rows = list(zip(data.x, data.y, strict=True))

    def epoch() -> Iterator[tuple[Any, Any]]:
        source = grain.MapDataset.source(rows).shuffle(seed=1).batch(BATCH)
        return iter(source.to_iter_dataset())

    return epoch


def _grain_absent() -> str:
    try:
        importlib.import_module("grain.python")
    except ImportError as error:
        return str(error)
    return ""


def _assert_whole(name: str, data: Data, epoch: Epoch, scale: float = 1.0) -> None:
    """Every sample once, each with its own row."""
    labels = []
    for x, y in epoch():
        labels.append(np.asarray(y))
        expected = data.x[labels[-1]].astype(np.float32) * np.float32(scale)
        if not np.allclose(np.asarray(x), expected, rtol=1e-6):
            raise Disagreement(f"{name} delivers rows that are not those of its labels")
    if not np.array_equal(np.sort(np.concatenate(labels)), np.arange(len(data.y))):
        raise Disagreement(f"{name} does not deliver every sample once")


def _run(epoch: Epoch, consume: Callable[[Any], object] | None = None) -> None:
    for x, _ in epoch():
        if consume is not None:
            consume(x)


def _compare(
    name: str,
    title: str,
    contestants: Mapping[str, Epoch],
    effort: Effort,
    absent: Mapping[str, str],
    notes: Sequence[str] = (),
    steps: Mapping[str, Callable[[], object]] | None = None,
) -> Table:
    print(title, file=sys.stderr, flush=True)
    timings = in_turns(steps or {n: partial(_run, e) for n, e in contestants.items()}, effort)
    first = next(iter(timings))
    rows: list[dict[str, Any]] = [
        {
            "contestant": entry,
            "time": timing.median,
            "relative": timing.median / timings[first].median,
        }
        for entry, timing in timings.items()
    ]
    rows += [{"contestant": entry} for entry in absent]
    columns = [
        Column("contestant", "contestant"),
        Column("time", "one epoch", report.seconds, missing="absent"),
        Column("relative", f"/ {first}", report.ratio),
    ]
    remarks = [*report.absences(absent), *notes, spread({name: timings})]
    return Table(name, title, columns, rows, remarks, _detail(timings, absent))


def _detail(timings: Mapping[str, Timing], absent: Mapping[str, str]) -> dict[str, Any]:
    return {"timings": {n: asdict(t) for n, t in timings.items()}, "absent": dict(absent)}


def alone(effort: Effort) -> Table:
    """Nothing else runs."""
    data = _data(effort, "float32")
    contestants: dict[str, Epoch] = {
        "fusestep": _fusestep(data),
        "fusestep, hashed": _fusestep(data, order="hashed"),
        "NumPy": _numpy(data),
    }
    absent = {n: r for n, r in (("torch", torch_absent()), ("grain", _grain_absent())) if r}
    if "torch" not in absent:
        contestants["torch DataLoader"] = _torch(data, 0)
        contestants["torch DataLoader, 2 workers"] = _torch(data, 2)
    if "grain" not in absent:
        contestants["grain"] = _grain(data)
    for name, epoch in contestants.items():
        _assert_whole(name, data, epoch)
    title = f"{len(data.x):,} x 784 float32 and labels, shuffled, batches of {BATCH}"
    return _compare("alone", title, contestants, effort, absent)


def converting(effort: Effort) -> Table:
    """Bytes become float32 / 255 on the way."""
    data = _data(effort, "uint8")
    convert = {0: fs.data.to_float32(scale=1 / 255)}
    contestants = {
        "fusestep": _fusestep(data, transform=convert),
        "NumPy": _numpy(data, convert=True),
    }
    for name, epoch in contestants.items():
        _assert_whole(name, data, epoch, 1 / 255)
    title = f"{len(data.x):,} x 784 uint8 to float32 / 255, and labels, batches of {BATCH}"
    return _compare("converting", title, contestants, effort, {})


def hidden(effort: Effort) -> Table:
    """Beside a consumer that computes on one thread: what an epoch costs beyond that alone."""
    data = _data(effort, "float32")

    def consume(x: Any) -> object:
        return np.sqrt(np.square(x).sum(axis=1))

    def in_place() -> Iterator[tuple[Any, Any]]:
        for i in range(0, len(data.x), BATCH):
            yield data.x[i : i + BATCH], data.y[i : i + BATCH]

    steps = {
        "rows as they lie, no copy": partial(_run, in_place, consume),
        "fusestep": partial(_run, _fusestep(data), consume),
        "NumPy": partial(_run, _numpy(data), consume),
    }
    title = f"{len(data.x):,} x 784 float32 beside a consumer (the norm of every row, one thread)"
    return _compare("hidden", title, {}, effort, {}, steps=steps)


PARTS: dict[str, Callable[[Effort], Table]] = {
    "alone": alone,
    "converting": converting,
    "hidden": hidden,
}


def run(options: argparse.Namespace) -> int:
    """Measures what the options ask for; 1 where a contestant delivers something else."""
    parts = selected(options, list(PARTS))
    if parts is None:
        return 2
    effort = QUICK if options.quick else FULL
    tables = {name: partial(PARTS[name], effort) for name in parts}
    return command.run(options, "data", tables, draw_bars)
