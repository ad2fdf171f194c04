"""The record of a run: growing columns, saved and resumed with the rest of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from ..arguments import check_flag, check_scalar, check_whole
from ..clock import Clock, Unit
from ..gradients import GradientStatistics
from ..saved_state import LARGEST, array, differences, fields, read, short, within
from . import drawing, writing

Column = npt.NDArray[Any]
Columns = dict[str, Column]

FORMAT = 1
_FIRST = 256  # rows of memory to begin with
_LONGEST = 16  # rows that a value waits for: the GPU keeps what 256 steps have told
# columns with a meaning of their own, in the order in which they are shown
_KNOWN = (
    *("step", "samples", "epoch", "loss", "lr", "batch_size"),
    *("grad_norm", "applied", "noise_scale"),
)


class Record:
    """What a run did: a row for each step, and an array for each column, ``record["loss"]``.

    ======================  ================================================================
    ``step``                of the row, rising: whole numbers. All other columns are floats
    ``samples``, ``epoch``  of the clock: before this update
    ``batch_size``          of the clock: samples of this update
    ``loss``                as it is given
    ``lr``, ``grad_norm``   of the step's info; further groups' rates are ``lr/1``, ``lr/2``
    ``applied``             of the step's info: 1.0, or 0.0 for a step that was skipped
    ``noise_scale``         of the statistics, once it is known
    ======================  ================================================================

    A column comes into being with its first value, and is NaN wherever none was given. Adding a row
    takes the same time however many there are, and 8 bytes a value (up to 16 of memory).
    ``len(record)`` is the number of rows; ``dict(record)`` has all columns, as in
    ``pandas.DataFrame(dict(record))``. An array is read-only, and of the rows there are by then.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> w = np.ones(2)
        >>> opt = fs.SGD(w, lr=fs.schedules.linear(start=0.5, end=0.1, length=2), clip_norm=9.0)
        >>> record = fs.Record()
        >>> for _ in range(3):
        ...     loss, grads = float(w @ w), w.copy()
        ...     record.add(opt.step(grads), loss=loss)
        >>> print(record["step"], record["lr"], record["loss"])
        [0 1 2] [0.5 0.3 0.1] [2.    0.5   0.245]
    """

    def __init__(self) -> None:
        self._length = 0
        self._columns: Columns = {"step": np.zeros(_FIRST, np.int64)}
        # on a GPU still: row, name ("" for a step's info) and value
        self._waiting: list[tuple[int, str, Any]] = []

    def add(
        self,
        info: Any = None,
        *,
        step: int | None = None,
        clock: Clock | None = None,
        loss: Any = None,
        statistics: GradientStatistics | None = None,
        groups: Sequence[Any] = (),
        wait: bool = True,
        **values: Any,
    ) -> None:
        """Adds a row, or more values to the last one.

        Args:
            info: what ``opt.step`` returned.
            step: at least that of the last row, which takes these values if it is the same. None:
                that of the clock, or else one more than in the last row; the first is 0.
            clock: as for ``opt.step``: ``batch.clock``.
            loss: a number, NaN and infinity too, or an array of one element.
            statistics: whose noise scale is recorded.
            groups: ``opt.groups``, to record the learning rates from the second group on.
            wait: what matters on a GPU alone: whether to wait for what it has not calculated yet.
                Without, a loss is copied there, and it and the info are fetched 16 rows later, or
                when the record is read or saved. That is for loops that record every step: what a
                step has told is kept by the GPU for 255 more of the same optimizer.
            values: numbers under names of one's own, or in place of those above (``grad_norm=``).
                Any text is a name: ``**{"loss/validation": 0.5}``. None is left out.

        Raises:
            TypeError, ValueError: named by argument; nothing was recorded.

        Example:
            >>> import fusestep as fs
            >>> record = fs.Record()
            >>> record.add(loss=2.0, clock=fs.Clock(samples=32, epoch=0.5, batch_size=32))
            >>> record.add(step=0, accuracy=0.75)           # more of the same step
            >>> record.add(loss=1.0)
            >>> print(record["loss"], record["accuracy"])
            [2. 1.] [0.75  nan]
        """
        if not isinstance(clock, (Clock, NoneType)):
            raise TypeError(f"clock must be a fusestep.Clock, not {short(clock)}")
        last = self._last_step
        if step is None:
            step = last + 1 if clock is None or clock.step is None else _whole(clock.step)
        if check_whole("step", step, 0, LARGEST) < last:
            raise ValueError(f"step must be at least {last}, that of the last row, not {step}")
        row = self._length - (step == last)
        check_flag("wait", wait)
        found: dict[str, Any] = {"loss": loss}
        if clock is not None:
            _, found["samples"], found["epoch"], found["batch_size"] = clock
        later: list[tuple[int, str, Any]] = []
        if not wait and type(info) is _core.CudaStepInfo:
            later.append((row, "", info))
        elif info is not None:
            found |= _told(info)
        if statistics is not None:
            if not isinstance(statistics, GradientStatistics):
                raise TypeError(f"statistics must be GradientStatistics, not {short(statistics)}")
            found["noise_scale"] = statistics.noise_scale
        if groups:
            found |= _rates(groups)
        found |= values
        given: dict[str, float] = {"step": step}
        for name, value in found.items():
            if type(value) is float:
                given[name] = value
            elif not wait and _is_on_gpu(value):
                if value.size != 1:
                    raise TypeError(f"{name} must be a number, not an array of {value.shape}")
                later.append((row, name, value.copy()))  # its memory may be written again
            elif value is not None:
                given[name] = check_scalar(name, value)
        self._write(row, given, later)

    @property
    def _last_step(self) -> int:
        """Of the last row; -1 before the first."""
        return int(self._columns["step"][self._length - 1]) if self._length else -1

    def _write(self, row: int, given: Mapping[str, float], later: list[Any]) -> None:
        columns, changes = self._columns, list[tuple[Any, str, Any]]()
        if row == len(columns["step"]) or not given.keys() <= columns.keys():
            columns = _with_room(columns, given, row)
            changes.append((self, "_columns", columns))
        changes.append((self, "_length", row + 1))
        if row == self._length:  # which nobody sees yet
            for name, column in columns.items():
                column[row] = given.get(name, np.nan)
        else:
            changes += ((columns[n][row : row + 1], "flat", value) for n, value in given.items())
        if later:
            changes.append((self, "_waiting", [*self._waiting, *later]))
        _core.commit(changes)
        if self._waiting and row - self._waiting[0][0] >= _LONGEST:
            self._fetch()

    def _fetch(self) -> None:
        """Waits for what is on a GPU still."""
        if not self._waiting:
            return
        values: dict[tuple[int, str], float] = {}
        try:
            for row, name, value in self._waiting:
                if name:
                    value.device.synchronize()  # whatever stream the copy was queued on
                    values[row, name] = float(value.item())
                else:
                    values |= {(row, n): v for n, v in _told(value).items() if v is not None}
        except _core.StateError:  # too old: what cannot be told must not keep the rest from reading
            self._waiting = []
            raise
        columns = _with_room(self._columns, {name for _, name in values}, self._length - 1)
        changes: list[tuple[Any, str, Any]] = [(self, "_columns", columns), (self, "_waiting", [])]
        for (row, name), value in values.items():
            if np.isnan(columns[name][row]):  # what was given for it since stands
                changes.append((columns[name][row : row + 1], "flat", value))
        _core.commit(changes)

    def __getitem__(self, name: str) -> Column:
        self._fetch()
        if name not in self._columns:
            raise KeyError(f"no column {name!r}; there are {', '.join(self.keys())}")
        view = self._columns[name][: self._length]
        view.flags.writeable = False
        return view

    def keys(self) -> tuple[str, ...]:
        """The names of the columns: those with a meaning first, then in the order they came."""
        self._fetch()
        own = (name for name in self._columns if name not in _KNOWN)
        return (*(name for name in _KNOWN if name in self._columns), *own)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __len__(self) -> int:
        return self._length

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"Record({len(self)} rows of {', '.join(self.keys())})"

    def state_dict(self) -> dict[str, Any]:
        """The record: its columns as copies. Waits for what is on a GPU still."""
        return {"format": FORMAT, "columns": {name: self[name].copy() for name in self.keys()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a ``state_dict``; the rows there were are gone.

        Raises:
            StateError: no state of a record. Nothing has changed.
        """
        with differences("this record") as found:
            saved = read(state, fields({"columns": _columns}), found, version=FORMAT)
        columns = saved["columns"]
        changes = [(self, "_columns", columns), (self, "_length", len(columns["step"]))]
        _core.commit([*changes, (self, "_waiting", [])])

    def plot(
        self,
        path: str | PathLike[str] | None = None,
        *,
        by: Unit = "step",
        axes: Mapping[str, Any] | None = None,
        label: str = "",
    ) -> dict[str, Any]:
        """Draws a panel for each column with values; returns matplotlib's axes by panel.

        Args:
            path: writes the picture to this file, in the format that its name ends with.
            by: along "step", "samples" or "epoch".
            axes: panels to draw into, as another record's ``plot`` returned them, to compare runs:
                only these. None: a new picture.
            label: of this record in the legend.

        What is noisy comes with a smoothed line, the mean of the fiftieth of the record around each
        step, and on a logarithmic scale where it spans more than two decades; a batch size is the
        median, where there are more than 1000. "loss/validation" is drawn where "loss" is. Red
        ticks are skipped steps.

        Needs matplotlib: ``pip install "fusestep[plot]"``.
        """
        return drawing.draw(self, by=by, axes=axes, path=path, label=label)

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Writes a line for each row under a line of names; NaN is an empty cell.

        Numbers are written so that reading them gives the same bits. For ``pandas.read_csv``,
        ``polars.read_csv``, ``numpy.genfromtxt(path, delimiter=",", names=True)``, spreadsheets.
        """
        writing.to_csv(self, path)

    def to_jsonl(self, path: str | PathLike[str]) -> None:
        """Writes a JSON object for each row; what JSON has not, NaN and infinity, is null."""
        writing.to_jsonl(self, path)

    def to_tensorboard(self, writer: Any, *, begin: int = 0) -> int:
        """Hands every number to ``writer.add_scalar(name, number, step)``, NaN apart.

        Args:
            writer: a ``SummaryWriter`` of tensorboardX or torch, or anything with such a method.
            begin: the first row.

        Returns:
            The number of rows, with which the next call begins.

        Example:
            >>> import fusestep as fs
            >>> class Writer:
            ...     add_scalar = staticmethod(print)
            >>> record = fs.Record()
            >>> record.add(loss=0.5, lr=0.1)
            >>> sent = record.to_tensorboard(Writer())
            loss 0.5 0
            lr 0.1 0
        """
        return writing.to_tensorboard(self, writer, check_whole("begin", begin, 0))


def _whole(step: float) -> Any:
    return int(step) if step == step // 1 else step


def _told(info: Any) -> dict[str, Any]:
    """What a step's info tells; on a GPU it may wait."""
    try:
        lr, grad_norm, applied = info
    except (TypeError, ValueError):
        raise TypeError(f"info must be what opt.step returned, not {short(info)}") from None
    return {"lr": lr, "grad_norm": grad_norm, "applied": float(applied)}


def _rates(groups: Sequence[Any]) -> dict[str, Any]:
    try:
        return {f"lr/{i}": group.lr for i, group in enumerate(groups) if i > 0}
    except (TypeError, AttributeError):
        raise TypeError(f"groups must be opt.groups, not {short(groups)}") from None


def _is_on_gpu(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "cupy"


def _with_room(columns: Columns, names: Iterable[str], row: int) -> Columns:
    """The columns, and empty ones for new names, with memory for a row."""
    size = len(columns["step"])
    if row >= size:
        size = max(_FIRST, 2 * row)
        longer = {name: np.empty(size, column.dtype) for name, column in columns.items()}
        for name, column in columns.items():
            longer[name][: len(column)] = column
        columns = longer
    return columns | {name: np.full(size, np.nan) for name in names if name not in columns}


def _columns(value: Any, path: str, found: list[str]) -> Columns:
    """A form: columns of one length, with rising steps."""
    step = value.get("step") if isinstance(value, dict) else None
    if not isinstance(step, np.ndarray) or step.ndim != 1:
        found.append(f"{path}: must be a dict of columns, step among them, not {short(value)}")
        return {}
    before = len(found)
    columns = {}
    for name, entry in value.items():
        form = array(step.shape, np.int64 if name == "step" else np.float64)
        columns[name] = form(entry, within(path, name), found)
    limits = np.concatenate([[-1], step, [LARGEST + 1]])
    if step.dtype == np.int64 and (limits[1:] <= limits[:-1]).any():
        found.append(f"{path}.step: must be whole numbers that rise from each row to the next")
    return {n: c.copy() for n, c in columns.items()} if len(found) == before else {}
