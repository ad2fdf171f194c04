"""A record as files of other tools."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

_COUNTS = ("samples", "batch_size", "applied")


class Columns(Protocol):
    """What is needed of a record."""

    def __iter__(self) -> Iterator[str]: ...
    def __contains__(self, name: object) -> bool: ...
    def __getitem__(self, name: str) -> npt.NDArray[Any]: ...
    def __len__(self) -> int: ...


def to_csv(record: Columns, path: str | PathLike[str]) -> None:
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(record)
        writer.writerows(["" if v is None else v for v in row] for row in _rows(record))


def to_jsonl(record: Columns, path: str | PathLike[str]) -> None:
    names = list(record)
    with Path(path).open("w", newline="\n", encoding="utf-8") as file:
        for row in _rows(record):
            finite = (None if v is None or math.isinf(v) else v for v in row)
            file.write(json.dumps(dict(zip(names, finite, strict=True)), allow_nan=False) + "\n")


def to_tensorboard(record: Columns, writer: Any, begin: int) -> int:
    steps = record["step"].tolist()
    for name in record:
        if name != "step":
            column = record[name]
            for row in np.flatnonzero(~np.isnan(column[begin:])) + begin:
                writer.add_scalar(name, float(column[row]), steps[row])
    return len(steps)


def _rows(record: Columns) -> Iterator[tuple[float | None, ...]]:
    """Rows with whole numbers where a column counts, and None for NaN."""
    columns = []
    for name in record:
        values = record[name].tolist()
        if name in _COUNTS:
            values = [int(v) if v.is_integer() else v for v in values]
        columns.append([None if v != v else v for v in values])
    return zip(*columns, strict=True)
