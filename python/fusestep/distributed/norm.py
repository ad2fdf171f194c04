"""The sum of squares over the gradients of all ranks, with the additions of one process."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _core
from .groups import Range

_GROUP = _core.BLOCK  # sums of blocks that make one sum of the next level


def _groups(begin: int, end: int) -> list[tuple[int, int]]:
    """The blocks of a range in the groups that are added together."""
    cuts = [begin, *range(begin - begin % _GROUP + _GROUP, end, _GROUP), end]
    return [(a, b) for a, b in itertools.pairwise(cuts) if a < b]


def message(sums: Any, begin: int) -> bytes:
    """What a rank tells of the sums of its blocks, of which the first is block ``begin``.

    Whole groups as one sum, and the groups that it shares with its neighbours as they are.
    """
    found: list[Any] = []
    for a, b in _groups(begin, begin + sums.size):
        part = sums[a - begin : b - begin]
        found.append([_core.add_block_sums(part)] if b - a == _GROUP else part)
    return np.concatenate(found).tobytes() if found else b""


def total(messages: Sequence[bytes], ranges: Sequence[Range], elements: int) -> float:
    """The sum over everything from what every rank told of its range."""
    blocks = -(-elements // _core.BLOCK)
    sums: list[list[Any]] = [[] for _ in range(-(-blocks // _GROUP))]
    for (first, last), told in sorted(zip(ranges, messages, strict=True)):
        values, at = np.frombuffer(told), 0
        for a, b in _groups(first // _core.BLOCK, -(-last // _core.BLOCK)) if first < last else ():
            count = 1 if b - a == _GROUP else b - a
            sums[a // _GROUP].append(values[at : at + count])
            at += count
    level = [_core.add_block_sums(np.concatenate(group)) for group in sums]
    return float(_core.add_block_sums(np.array(level)))
