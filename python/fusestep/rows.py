"""Gradients that hold some rows of their parameter alone, as those of an embedding do."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _core


class Rows(_core.Rows):
    """A gradient with some rows of a parameter; all others are 0.

    It takes the place of an array in the gradients of ``step`` and ``accumulate``, beside dense
    ones of other parameters. A step then takes the time of these rows, not of all. What that means
    for the others is decided by the setting ``lazy``; see `fusestep.Optimizer.fetch`.

    Args:
        indices: which rows: int32 or int64, of shape (n,), in any order, each at least 0 and less
            than ``shape[0]``. For one that comes again all values are added up in the order given,
            beginning with 0, as ``numpy.add.at`` does with zeros.
        values: their gradients, of shape (n, *shape[1:]) and the parameter's dtype.
        shape: that of the parameter.

    Both arrays are C-contiguous, are not copied, and must not change before the step has returned.

    Raises:
        TypeError, ValueError: something is of another form. Whether indices are in range is looked
            at by the step.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> table = np.ones((1000, 2))
        >>> opt = fs.SGD(table, lr=0.5)
        >>> values = np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 0.0]])
        >>> grad = fs.Rows(np.array([7, 3, 7]), values, table.shape)
        >>> opt.step(grad).applied, table[3], table[7], table[8]
        (True, array([-0.5, -1. ]), array([0., 0.]), array([1., 1.]))
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Rows({len(self.indices)} of shape {self.shape})"


def rows_of(matrix: Any) -> Rows | None:
    """The rows of a sparse matrix of SciPy that hold anything; None for another object.

    Entries that come twice are added up in the order they are stored.
    """
    if not hasattr(matrix, "tocoo") or not hasattr(matrix, "nnz") or len(matrix.shape) != 2:
        return None
    entries = matrix.tocoo()
    indices, places = np.unique(entries.row, return_inverse=True)
    values = np.zeros((len(indices), matrix.shape[1]), entries.data.dtype)
    np.add.at(values, (places, entries.col), entries.data)
    return Rows(indices.astype(np.int64), values, matrix.shape)
