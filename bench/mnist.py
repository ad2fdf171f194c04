"""MNIST: its files (IDX, plain or .gz), the linear rule on it, and the noise of its gradients."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import fusestep as fs
from fusestep import demo

from . import reproduce_training as training
from .report import Column, Table
from .reproduce_training import Extent, Task, verdict

Array = npt.NDArray[Any]

FULL = Extent(epochs=5, factors=(2, 4, 7), orders=3, milestones=20)
QUICK = Extent(epochs=1, factors=(4,), orders=2, milestones=5)
ROWS_OF_LOSS = 10_000
LOW, HIGH = 600, 1200  # around the published noise scale of 900

_BYTES = 8  # the code of unsigned bytes, the only kind of values that MNIST has


def load(folder: Path) -> Task:
    """The training images, a row of float32 in [0, 1] for each, and their labels.

    Raises:
        ValueError: a file is missing, damaged, or does not belong to the other.
    """
    images = _read(_find(folder, "train-images-idx3-ubyte"), dimensions=3)
    labels = _read(_find(folder, "train-labels-idx1-ubyte"), dimensions=1)
    if images.size == 0 or len(images) != len(labels):
        raise ValueError(
            f"{folder} must have as many labels as images, and some, not {len(labels)} labels and "
            f"images of {' x '.join(map(str, images.shape))}"
        )
    if labels.max() > 9:
        raise ValueError(f"{folder}: labels must be from 0 to 9, there is {labels.max()}")
    x = images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
    return Task("MNIST", x, labels.astype(np.int64), min(len(x), ROWS_OF_LOSS))


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise ValueError(f"{folder} has no file {name} or {name}.gz")


def _read(path: Path, dimensions: int) -> Array:
    """An IDX file: 0, 0, the code of the type, the number of sizes; the sizes; the values."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    begin = 4 + 4 * dimensions
    if content[:4] != bytes((0, 0, _BYTES, dimensions)) or len(content) < begin:
        raise ValueError(
            f"{path} must be an IDX file of bytes with {dimensions} sizes; "
            f"it begins with {content[:4].hex(' ') or 'nothing'}"
        )
    shape = [int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4)]
    if len(content) - begin != math.prod(shape):
        raise ValueError(
            f"{path} must have {math.prod(shape):,} values for its sizes {shape}, "
            f"not {len(content) - begin:,}"
        )
    return np.frombuffer(content, np.uint8, offset=begin).reshape(shape)


def linear(task: Task, quick: bool) -> Table:
    """The linear rule, with the rate of the article and ten times that."""
    rates, extent = ((0.01,), QUICK) if quick else ((0.001, 0.01), FULL)
    return training.linear_rule("mnist", task, rates, extent)


def noise(task: Task) -> Table:
    """The mean noise scale of an epoch."""
    from fusestep.gradients import GradientStatistics

    batch, parts, rate, horizon = 128, 8, 0.01, 6_000
    names = ("noise scale", "parts taken as samples")
    sizes = dict(zip(names, (batch // parts, 1), strict=True))
    stats = {name: GradientStatistics(horizon=horizon) for name in names}
    curves: dict[str, dict[int, float]] = {name: {} for name in names}
    params = task.initial_params()
    optimizer = fs.SGD(params, lr=rate)
    for rows in fs.Loader((task.x, task.y), batch, tail="drop"):
        x, y = rows
        micro = [
            demo.gradients(params, *some)
            for some in zip(np.split(x, parts), np.split(y, parts), strict=True)
        ]
        grads = demo.gradients(params, x, y)
        norms, whole = [_squared_norm(each) for each in micro], _squared_norm(grads)
        for name, each in stats.items():
            each.add(norms, [sizes[name]] * parts, whole)
            if each.noise_scale is not None:
                curves[name][int(rows.clock.samples or 0)] = each.noise_scale
        optimizer.step(grads)
    rows_of_table: list[dict[str, Any]] = []
    for name in names:
        value = float(np.mean(list(curves[name].values()))) if curves[name] else math.nan
        inside, control = LOW <= value <= HIGH, name != names[0]
        line = f"{'not ' if control else ''}in {LOW}..{HIGH}"
        rows_of_table.append(
            {"quantity": name, "mean": value, "line": line, "passes": inside != control}
        )
    columns = [
        Column("quantity", "estimate"),
        Column("mean", "mean, samples", "{:.0f}".format),
        Column("line", "must be"),
        Column("passes", "", verdict),
    ]
    title = (
        f"Noise scale of {task.name} ({len(task.x):,} rows), MLP, SGD, lr {rate:g}, batches of "
        f"{batch} in {parts} parts, 1 epoch"
    )
    notes = [
        f"The mean over updates of the running estimate (horizon {horizon:,} samples). Published: "
        "900 on average, for a convolutional network. Control: parts taken as single samples."
    ]
    panel = training.panel(curves, "noise scale")
    measured = {"panels": {f"Noise scale, {task.name}": panel}}
    return Table("mnist-noise", title, columns, rows_of_table, notes, measured)


def _squared_norm(grads: demo.Params) -> float:
    return sum(float(np.vdot(a, a)) for layer in grads.values() for a in layer.values())
