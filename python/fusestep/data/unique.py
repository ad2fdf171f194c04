"""Which rows of a table a batch reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core


def unique_rows(ids: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """The different ids in ascending order, and the place of each id among them.

    With them a batch reads each row of a table once, ``table[rows][inverse]`` being ``table[ids]``,
    and the gradient of the table has one row for each of ``rows``. They are what
    ``numpy.unique(ids, return_inverse=True)`` gives, found by a radix sort on several threads
    (``fs.set_num_threads``), whose number changes nothing.

    Args:
        ids: whole numbers of any shape, int32 or int64, fewer than 2^32 of them. Negative ones
            stand first: whether a table has such rows is not asked here.

    Returns:
        ``(rows, inverse)``, new arrays: ``rows`` has one axis and the dtype of ``ids``,
        ``inverse`` the shape of ``ids`` and the dtype with which NumPy indexes, ``numpy.intp``.

    Raises:
        TypeError: the ids are of another dtype, masked, or in the memory of a GPU, where
            ``cupy.unique`` does the same.
        ValueError: there are 2^32 or more.

    Memory: while it runs, 20 bytes for each id (36 where they are 2^32 or more apart) and 12 for
    each different one.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> rows, inverse = fs.data.unique_rows(np.array([[7, 3], [3, 9]]))
        >>> rows
        array([3, 7, 9])
        >>> inverse
        array([[1, 0],
               [0, 2]])
    """
    if isinstance(ids, np.ma.MaskedArray):
        raise TypeError("ids must not be a masked array: fill or leave out what is masked")
    array = np.asarray(ids)
    if array.dtype not in (np.int32, np.int64):  # of this machine's byte order
        raise TypeError(f"ids must be int32 or int64, not {array.dtype}: ids.astype(numpy.int64)")
    return _core.unique_rows(np.require(array, requirements=["C", "ALIGNED"]))
