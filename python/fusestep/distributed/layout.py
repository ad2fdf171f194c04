"""All parameters end to end in one index space, which is cut into the shards of ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from .. import _core, foreign, trees


class Layout:
    """The parameters of a model, of one dtype, in their order."""

    def __init__(self, params: Any) -> None:
        self.structure, self.arrays = trees.flatten(params)
        self.paths = self.structure.paths
        foreign.check_parameters(self.paths, self.arrays)
        for path, array in zip(self.paths, self.arrays, strict=True):
            if not isinstance(array, np.ndarray):
                raise TypeError(f"{foreign.where('params', path)}: must be an array of NumPy")
            if array.dtype != self.arrays[0].dtype:
                raise TypeError(
                    f"{foreign.where('params', path)}: is {array.dtype}, and "
                    f"{foreign.where('params', self.paths[0])} {self.arrays[0].dtype}: parameters "
                    "of several processes must have one dtype"
                )
        self.dtype = self.arrays[0].dtype
        self.begins = [0, *accumulate(array.size for array in self.arrays)]
        self.total = self.begins[-1]

    def cut(self, world: int, memory: Sequence[float] | None) -> list[int]:
        """Where shards begin, and the last ends."""
        return shard_bounds(self.total, world, memory)

    def spans(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Of each parameter, its first and last element that lie in a range."""
        return [
            (min(max(begin - first, 0), last - first), min(max(end - first, 0), last - first))
            for first, last in zip(self.begins, self.begins[1:], strict=False)
        ]

    def views(self, begin: int, end: int) -> dict[str, Any]:
        """What lies in a range, by path; of parameters that lie elsewhere no element.

        So groups, paths and counts of updates are those of the whole model on every rank.
        """
        spans = self.spans(begin, end)
        return {
            path: array.reshape(-1)[first:last]
            for path, array, (first, last) in zip(self.paths, self.arrays, spans, strict=True)
        }

    def parts(self, memory: Any) -> list[Any]:
        """An array over the whole index space as one array for each parameter, in its shape."""
        return [
            memory[begin : begin + array.size].reshape(array.shape)
            for array, begin in zip(self.arrays, self.begins, strict=False)
        ]

    def elsewhere(self, memory: Any, begin: int, end: int) -> list[tuple[Any, Any]]:
        """Parameters with elements outside a range, each with its part of ``memory``."""
        spans = self.spans(begin, end)
        return [
            (array, part)
            for array, part, (first, last) in zip(
                self.arrays, self.parts(memory), spans, strict=True
            )
            if last - first < array.size
        ]

    def memory(self) -> Any:
        """The parameters as one array where they lie end to end in one; else None."""
        filled = [array for array in self.arrays if array.size]  # others lie anywhere
        if not filled:
            return None
        base = filled[0]
        while isinstance(base.base, np.ndarray):
            base = base.base
        if base.dtype != self.dtype or not base.flags.c_contiguous:
            return None
        flat, place = base.reshape(-1), filled[0].ctypes.data
        begin = (place - flat.ctypes.data) // flat.itemsize
        for array in filled:
            if array.ctypes.data != place:
                return None
            place += array.nbytes
        inside = flat[begin : begin + self.total]
        return inside if inside.size == self.total else None


def shard_bounds(total: int, world: int, memory: Sequence[float] | None) -> list[int]:
    """Where shards of some elements begin, and the last ends: even, or as ``memory`` says.

    They begin at blocks of the norm, so that its sums are those of one process.
    """
    given = [1.0] * world if memory is None else list(map(float, memory))
    if len(given) != world or not min(given) >= 0 or not 0 < sum(given) < math.inf:
        raise ValueError(f"memory must be {world} numbers of at least 0, not all 0, not {given}")
    blocks = -(-total // _core.BLOCK)
    shares = [0.0, *accumulate(given)]
    bounds = [min(total, _core.BLOCK * int(blocks * s / shares[-1] + 1e-9)) for s in shares]
    bounds[-1] = total
    return bounds


def flatten(params: Any) -> Any:
    """The same nesting with copies of the arrays, which lie end to end in one piece of memory.

    Parameters that lie so are exchanged between processes without copies.

    Args:
        params: arrays of NumPy, of one dtype, in any nesting of dicts, lists and tuples.

    Example:
        >>> import numpy as np
        >>> from fusestep import distributed
        >>> params = distributed.flatten({"w": np.ones((2, 2)), "b": np.zeros(2)})
        >>> params["w"].base is params["b"].base
        True
    """
    layout = Layout(params)
    memory = np.empty(layout.total, layout.dtype)
    parts = layout.parts(memory)
    for part, array in zip(parts, layout.arrays, strict=True):
        part[...] = array
    of = {id(array): part for array, part in zip(layout.arrays, parts, strict=True)}
    return trees.snapshot(params, lambda leaf: of[id(leaf)])
