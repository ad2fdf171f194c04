"""All parameters end to end in one index space, which is cut into the shards of ranks."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np

from .. import foreign, trees
from .places import place_of


class Layout:
    """The parameters of a model, of one dtype, in their order."""

    def __init__(self, params: Any) -> None:
        self.structure, self.arrays = trees.flatten(params)
        self.paths = self.structure.paths
        foreign.check_parameters(self.paths, self.arrays)
        for path, array in zip(self.paths, self.arrays, strict=True):
            if array.dtype != self.arrays[0].dtype:
                raise TypeError(
                    f"{foreign.where('params', path)}: is {array.dtype}, and "
                    f"{foreign.where('params', self.paths[0])} {self.arrays[0].dtype}: parameters "
                    "of several processes must have one dtype"
                )
        self.dtype = self.arrays[0].dtype
        self.place = place_of(self.arrays)
        self.begins = [0, *accumulate(array.size for array in self.arrays)]
        self.total = self.begins[-1]

    def spans(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Of each parameter, its first and last element that lie in a range."""
        return [
            (min(max(begin - first, 0), last - first), min(max(end - first, 0), last - first))
            for first, last in zip(self.begins, self.begins[1:], strict=False)
        ]

    def views(self, begin: int, end: int) -> dict[str, Any]:
        """What lies in a range, by path; of parameters that lie elsewhere no element.

        So groups, paths and counts of updates are those of the whole model on every rank. Arrays
        that are cut have one dimension.
        """
        spans = self.spans(begin, end)
        return {
            path: array if last - first == array.size else array.reshape(-1)[first:last]
            for path, array, (first, last) in zip(self.paths, self.arrays, spans, strict=True)
        }

    def parts(self, memory: Any) -> list[Any]:
        """An array over the whole index space as one array for each parameter, in its shape."""
        return [
            memory[begin : begin + array.size].reshape(array.shape)
            for array, begin in zip(self.arrays, self.begins, strict=False)
        ]

    def pairs(self, memory: Any, begin: int, end: int) -> list[tuple[Any, Any]]:
        """The parameters' elements in a range, each with its part of ``memory``, both flat."""
        return [
            (array.reshape(-1)[first:last], memory[at + first : at + last])
            for array, at, (first, last) in zip(
                self.arrays, self.begins, self.spans(begin, end), strict=False
            )
            if first < last
        ]

    def memory(self) -> Any:
        """The parameters as one array of NumPy where they lie end to end in one; else None."""
        if not self.place.is_host:
            return None
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


def flatten(params: Any) -> Any:
    """The same nesting with copies of the arrays, which lie end to end in one piece of memory.

    Parameters that lie so are exchanged between processes without copies.

    Args:
        params: arrays of NumPy or of CuPy, of one dtype, in any nesting of dicts, lists and tuples.

    Example:
        >>> import numpy as np
        >>> from fusestep import distributed
        >>> params = distributed.flatten({"w": np.ones((2, 2)), "b": np.zeros(2)})
        >>> params["w"].base is params["b"].base
        True
    """
    layout = Layout(params)
    parts = layout.parts(layout.place.empty(layout.total, layout.dtype))
    for part, array in zip(parts, layout.arrays, strict=True):
        part[...] = array
    of = {id(array): part for array, part in zip(layout.arrays, parts, strict=True)}
    return trees.snapshot(params, lambda leaf: of[id(leaf)])
