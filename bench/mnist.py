"""The handwritten digits of MNIST from the files they are published as (IDX, plain or .gz)."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_BYTES = 8  # the code of unsigned bytes, the only kind of values that MNIST has


def load(folder: Path) -> tuple[Array, Array]:
    """The training images, a row of float32 in [0, 1] for each, and their labels.

    Raises:
        ValueError: a file is missing, damaged, or does not belong to the other.
    """
    images = _read(_find(folder, "train-images-idx3-ubyte"), dimensions=3)
    labels = _read(_find(folder, "train-labels-idx1-ubyte"), dimensions=1)
    if len(images) != len(labels) or len(images) == 0:
        raise ValueError(f"{folder}: {len(images)} images and {len(labels)} labels do not fit")
    if labels.max() > 9:
        raise ValueError(f"{folder}: labels must be from 0 to 9, there is {labels.max()}")
    x = images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
    return x, labels.astype(np.int64)


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
