"""Sources of rows other than arrays: objects with a length that take indices, and tables."""

from __future__ import annotations

import array
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def as_columns(data: Any) -> Any:
    """Data as it is, or a table of pandas, polars or pyarrow as a dict of its columns."""
    if _is(data, "pandas", "DataFrame"):
        columns = {name: data.iloc[:, i] for i, name in enumerate(data.columns)}
    elif _is(data, "polars", "DataFrame"):
        columns = {name: data[name] for name in data.columns}
    elif _is(data, "pyarrow", "Table", "RecordBatch"):
        columns = dict(zip(data.schema.names, data.columns, strict=True))
    else:
        return data
    width = data.shape[1] if hasattr(data, "shape") else len(data.columns)
    if len(columns) != width:
        raise ValueError(f"data must name each column once, not {list(data.columns)}")
    return columns


def source_of(name: str, source: Any) -> Any:
    """An array to gather rows of, or a `Source`; raises what says why it is neither."""
    if isinstance(source, (list, tuple)):
        source = _array_of(name, source)
    elif isinstance(source, (range, array.array, memoryview)):
        source = np.asarray(source)
    source = _table_source(name, source)
    if isinstance(source, np.ma.MaskedArray):
        raise TypeError(_masked(name))
    if isinstance(source, np.ndarray):
        if source.ndim == 0:
            raise ValueError(f"{name} must have samples along its first axis, not be a number")
        return Source(name, source) if source.dtype.hasobject else np.asarray(source)
    if isinstance(source, Source):
        return source
    if isinstance(source, Mapping):
        raise TypeError(f"{name} must be an array: give the arrays of this dict by names of data")
    if hasattr(source, "iloc"):
        raise TypeError(
            f"{name} is a {_kind(source)}, whose rows are not read by position: give its arrays, "
            "for example source.to_numpy()"
        )
    if (
        isinstance(source, (str, bytes))
        or not (hasattr(source, "__len__") or hasattr(source, "shape"))
        or not hasattr(source, "__getitem__")
    ):
        raise TypeError(
            f"{name} must be an array, or have a length and take arrays of indices, not {source!r}"
        )
    return Source(name, source)


class Source:
    """Anything with a length that takes an array of rising indices and gives a row for each.

    What it gives is copied, so it may use its memory again.
    """

    on_gpu = True  # whether its rows can be copied to a GPU

    def __init__(self, name: str, source: Any) -> None:
        self._name = name
        self._source = source
        self.dtype = getattr(source, "dtype", None)
        self._lists_are_rows = False
        try:  # Zarr's arrays have a shape alone
            self._rows = len(source) if hasattr(source, "__len__") else source.shape[0]
        except (TypeError, IndexError) as error:
            raise TypeError(f"{name} must have a length: {error}") from error

    def __len__(self) -> int:
        return self._rows

    def take(self, places: Array) -> Any:
        """The rows at these places, in memory of their own."""
        if len(places) == 0:  # which not every source takes
            return self.take(np.zeros(1, np.int64))[:0]
        if (places[1:] > places[:-1]).all():
            return self._read(places).copy()
        # files are read in order; h5py takes indices in no other
        rising, back = np.unique(places, return_inverse=True)
        return self._read(rising)[back]

    def cut(self, rows: Any, begin: int, end: int) -> Any:
        """Some of the rows, as a view."""
        return rows[begin:end]

    def joined(self, parts: Sequence[Any]) -> Any:
        """Rows one after another."""
        return np.concatenate(parts)

    def _read(self, places: Array) -> Array:
        try:
            found = self._source[places]
            if isinstance(found, list) and not self._lists_are_rows:
                one = self._source[places[:1]]
                if not isinstance(one, list) or len(one) != 1:
                    raise TypeError(f"it gives {_kind(one)} of {len(one)} for one index")
                self._lists_are_rows = True
        except (TypeError, KeyError, IndexError) as error:
            kind = IndexError if isinstance(error, IndexError) else TypeError
            raise kind(
                f"{self._name} must give its rows at an array of {len(places)} indices from "
                f"{places[0]} to {places[-1]}, all below its length {self._rows}; "
                f"{_kind(self._source)} raised {type(error).__name__}: {error}"
            ) from error
        if isinstance(found, (tuple, Mapping, str)):
            raise TypeError(
                f"{self._name} must give one array with a row for each index, not a {_kind(found)} "
                f"of {len(found)}: give its parts as arrays, for example data=(x, y)"
            )
        if isinstance(found, np.ma.MaskedArray):
            raise TypeError(_masked(self._name))
        try:
            rows = np.asarray(found)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{self._name} gave no array: {error}") from error
        if rows.ndim == 0:
            raise TypeError(f"{self._name} must give an array of rows, not a {_kind(found)}")
        if len(rows) != len(places):
            raise ValueError(
                f"{self._name} gave {len(rows)} samples for {len(places)} indices: it must give a "
                "row for each"
            )
        return rows


class TableSource(Source):
    """Rows of a table or sparse matrix, which are the package's own objects in a batch."""

    on_gpu = False

    def __init__(
        self,
        name: str,
        rows: int,
        take: Callable[[Array], Any],
        join: Callable[[Sequence[Any]], Any],
        cut: Callable[[Any, slice], Any] = operator.getitem,
    ) -> None:
        self._name, self._rows, self.dtype = name, rows, None
        self._take, self._join, self._cut = take, join, cut

    def take(self, places: Array) -> Any:
        return self._take(places)

    def cut(self, rows: Any, begin: int, end: int) -> Any:
        return self._cut(rows, slice(begin, end))

    def joined(self, parts: Sequence[Any]) -> Any:
        return self._join(parts)


def _table_source(name: str, source: Any) -> Any:
    """A column as an array where it is one without loss, a table or column as a `TableSource`."""
    if _is(source, "scipy.sparse", "spmatrix", "sparray"):
        return _sparse(name, source)
    if _is(source, "pandas", "DataFrame", "Series", "Index"):
        return _pandas(name, source)
    if _is(source, "pandas.api.extensions", "ExtensionArray"):
        return _pandas(name, sys.modules["pandas"].Series(source))
    if _is(source, "polars", "DataFrame", "Series"):
        return _polars(name, source)
    if _is(source, "pyarrow", "Table", "RecordBatch", "Array", "ChunkedArray"):
        return _pyarrow(name, source)
    return source


def _sparse(name: str, source: Any) -> Source:
    if source.ndim != 2:
        raise ValueError(f"{name} must be a sparse array of two dimensions, not {source.ndim}")
    rows, stack = source.tocsr(), sys.modules["scipy.sparse"].vstack
    return TableSource(
        name, rows.shape[0], lambda places: rows[places], lambda parts: stack(parts, format="csr")
    )


def _pandas(name: str, source: Any) -> Any:
    pandas = sys.modules["pandas"]
    if not isinstance(source, pandas.DataFrame):
        if isinstance(source.dtype, np.dtype):
            return source.to_numpy()
        values = source.array
        return TableSource(name, len(values), values.take, type(values)._concat_same_type)
    return TableSource(
        name,
        len(source),
        lambda places: source.iloc[places],
        pandas.concat,
        lambda rows, some: rows.iloc[some].copy(),  # one that may be written into
    )


def _polars(name: str, source: Any) -> Any:
    polars = sys.modules["polars"]
    if isinstance(source, polars.DataFrame):
        return TableSource(name, len(source), lambda places: source[places], polars.concat)
    if (source.dtype.is_numeric() or source.dtype == polars.Boolean) and not source.null_count():
        return source.to_numpy()
    return TableSource(name, len(source), source.gather, polars.concat)


def _pyarrow(name: str, source: Any) -> Any:
    arrow = sys.modules["pyarrow"]
    if isinstance(source, arrow.RecordBatch):
        source = arrow.Table.from_batches([source])
    if isinstance(source, arrow.Array):
        source = arrow.chunked_array([source])

    def take(places: Array) -> Any:
        return source.take(arrow.array(places))

    if isinstance(source, arrow.Table):
        return TableSource(name, len(source), take, arrow.concat_tables)
    kinds, kind = arrow.types, source.type
    is_numeric = kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind)
    if is_numeric and not source.null_count:
        return source.to_numpy()

    def join(parts: Sequence[Any]) -> Any:
        return arrow.chunked_array([chunk for part in parts for chunk in part.chunks], type=kind)

    return TableSource(name, len(source), take, join)


def _is(value: Any, module: str, *classes: str) -> bool:
    """Whether this is of some classes of a package: nobody has one of what is not imported."""
    found = sys.modules.get(module)
    return found is not None and isinstance(value, tuple(getattr(found, c, ()) for c in classes))


def _array_of(name: str, rows: Sequence[Any]) -> Array:
    if any(isinstance(row, np.ma.MaskedArray) for row in rows):
        raise TypeError(_masked(name))
    try:
        return np.asarray(rows)
    except ValueError as error:
        raise ValueError(
            f"{name} holds rows of different shapes ({error}): pad them, or give an array of "
            "objects, rows = numpy.empty(n, object); rows[:] = ..."
        ) from None


def _masked(name: str) -> str:
    return (
        f"{name} is a masked array, whose mask a batch would lose: give array.filled(value), or "
        "array.data and numpy.ma.getmaskarray(array) as two arrays"
    )


def _kind(value: Any) -> str:
    return type(value).__qualname__
