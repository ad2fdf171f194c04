"""A loop that saves itself, and goes on from what it saved."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import timedelta
from os import PathLike
from typing import Any

from .. import checkpoint, trees
from .._core import StateError
from ..arguments import check_flag, check_whole, named_arguments
from ..checkpoint.flattening import has_state
from ..checkpoint.saving import collected
from ..data import Batch, Loader
from ..optim import Optimizer
from ..record import Record
from ..saved_state import short
from .progress import Progress, bar_class
from .signals import StopSignals


class Run:
    """Runs a loop that may be killed at any moment: the same program goes on where it was.

    The loop stays yours; a run saves between two steps, and once more at its end. It goes on with
    the bits of a run that was never stopped, as far as they depend on what it saves: parameters,
    optimizers, the position of the loader, the record, and ``extra``.

    Args:
        folder: of this run alone, for its checkpoints; made if it is not there.
        params: the parameters: the arrays that the optimizers update, in any nesting.
        optimizer: an optimizer, or a dict of several: objects with ``state_dict`` and
            ``load_state_dict``.
        loader: what ``steps`` takes batches from: a `Loader`, or an iterable with these two
            methods, which are called after every step. Leave out its own ``progress``.
        record: for ``note``. None: a new one, ``run.record``.
        extra: a dict of what else is to be saved: arrays, which are loaded into, objects with the
            two methods, and JSON values, which are put back into this dict.
        every: when to save: a number of steps, a time as "10 min", or "1 epoch" of a `Loader`.
        keep: how many of the newest checkpoints stay; None keeps all.
        background: write while training goes on. At the end of a loop it is waited for.
        progress: show a bar (needs tqdm), redrawn twice a second, with what was noted last; on a
            GPU it is waited for then.

    Needs ``pip install "fusestep[checkpoint]"``.

    Attributes:
        step: how many steps have been made in all.
        resumed: the step that ``steps`` went on from; None for a run that began anew.
        stopped: what ended the last loop before its time: "SIGTERM", "SIGINT", "stop()"; or None.
        record: see above.

    SIGTERM, which schedulers of clusters send, and Ctrl-C are noted while a loop runs in the main
    thread: the step in progress ends, is saved, and is the last. A second Ctrl-C interrupts at
    once. For other signals, ``signal.signal(signal.SIGUSR1, lambda *_: run.stop())``. Ranks that
    wait for each other are not told of each other's signals, and each has a folder of its own.

    A loop that is left by an error, or by break, saves nothing: the last checkpoint stays. Numbers
    drawn from a generator of your own are not the run's: seed it with the step,
    ``numpy.random.default_rng([seed, run.step])``, or keep its state in ``extra``.

    Raises:
        TypeError, ValueError: named by argument.
        ImportError: tqdm or what checkpoints need is not there.

    Example:
        >>> import tempfile, numpy as np, fusestep as fs
        >>> def train(folder, epochs):
        ...     w = np.zeros(3)
        ...     opt = fs.SGD(w, lr=0.1, momentum=0.9)
        ...     loader = fs.Loader(np.arange(12.0).reshape(4, 3), 2, seed=1, epochs=epochs)
        ...     run = fs.Run(folder, params=w, optimizer=opt, loader=loader)
        ...     for batch in run.steps():
        ...         error = w - batch.data.mean(axis=0)
        ...         info = opt.step(error, clock=batch.clock)
        ...         run.note(info, loss=float(error @ error))
        ...     return w, run
        >>> with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        ...     w, _ = train(one, epochs=5)
        ...     _ = train(other, epochs=2)
        ...     resumed, run = train(other, epochs=5)
        >>> np.array_equal(w, resumed), run.resumed, run.step, len(run.record)
        (True, 4, 10, 10)
    """

    @named_arguments
    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        params: Any,
        optimizer: Any = None,
        loader: Any = None,
        record: Record | None = None,
        extra: dict[str, Any] | None = None,
        every: int | str | timedelta = "10 min",
        keep: int | None = 3,
        background: bool = True,
        progress: bool = False,
    ) -> None:
        if record is not None and not isinstance(record, Record):
            raise TypeError(f"record must be a fusestep.Record, not {record!r}")
        if extra is not None and not isinstance(extra, dict):
            raise TypeError(f"extra must be a dict, not {extra!r}")
        if loader is not None and not (has_state(loader) and hasattr(loader, "__iter__")):
            raise TypeError(
                "loader must be an iterable with state_dict and load_state_dict, as a "
                f"fusestep.Loader, not {short(loader)}"
            )
        self.record = Record() if record is None else record
        self.step = 0
        self.resumed: int | None = None
        self.stopped: str | None = None
        self._params, self._optimizer, self._extra = params, optimizer, extra
        self._loader = loader
        self._position = None if loader is None else _Position(loader)
        self._background = check_flag("background", background)
        self._progress = check_flag("progress", progress)
        if progress:
            bar_class()  # now, and not when hours have passed
        self._epochs = _epochs(every, loader)
        self._passed = 0  # times that so many epochs have passed
        self._saved: int | None = None  # the step of the last save
        self._has_resumed = self._is_in_loop = self._is_stopping = False
        self._batch: Any = None
        parts = self._parts()
        with ExitStack() as held:  # what can't be saved is told now, and not in ten minutes
            collected(held, 0, parts.pop("params"), parts)
        self._saves = checkpoint.Checkpoints(
            folder, keep=keep, every=every if self._epochs is None else None
        )

    def steps(self, total: int | None = None) -> Iterator[Any]:
        """Goes on from the newest checkpoint if there is one, then gives batch after batch.

        To be called in a ``for`` statement, which closes the loop however it is left.

        Args:
            total: ends the loop when so many steps have been made in all; it ends with the
                loader's in any case. Without a loader it gives the numbers of the steps, from 0 on.

        The first call loads, before anything is given. A run that has ended gives nothing, and
        says so; with more epochs, or a larger total, it goes on.

        Raises:
            StateError: what was saved does not fit; nothing has changed. Or a loop is under way.
        """
        if total is not None:
            check_whole("total", total, 0)
        elif self._loader is None:
            raise TypeError("steps needs a total where the run has no loader")
        if not self._has_resumed:
            self._resume()
        return self._loop(total)

    def note(self, info: Any = None, *, loss: Any = None, **values: Any) -> None:
        """Records what a step did, in the body of the loop: what `Record.add` takes.

        The step and the clock of the batch are known. What is on a GPU is fetched some steps later.
        """
        if not self._is_in_loop:
            raise StateError("note is for the body of a loop over steps(): use record.add")
        clock = self._batch.clock if isinstance(self._batch, Batch) else None
        given = {"step": self.step, "clock": clock, "wait": False, **values}
        self.record.add(info, loss=loss, **given)

    def stop(self) -> None:
        """Ends the loop after this step, and saves it, as a signal does."""
        self._is_stopping = True

    def _loop(self, total: int | None) -> Iterator[Any]:
        if self._is_in_loop:
            raise StateError("another loop of this run is under way: leave it first")
        loader, first = self._loader, self.step
        batches = iter(itertools.count(first) if loader is None else loader)
        progress = Progress(loader, first, total, self.record) if self._progress else None
        signals = StopSignals()
        self._take_position()
        self.stopped, self._is_stopping, self._is_in_loop = None, False, True
        try:
            with signals:
                while total is None or self.step < total:
                    try:
                        self._batch = next(batches)
                    except StopIteration:
                        break
                    try:
                        yield self._batch
                    finally:
                        self.step += 1
                    self._take_position()
                    if progress is not None:
                        progress.show(self.step, self._batch)
                    if self._is_stopping or signals.received is not None:
                        self.stopped = signals.received or "stop()"
                        break
                    if self._is_due():
                        self._save(background=self._background)
                if self.step != self._saved and self.step > 0:
                    self._save(background=False)
                checkpoint.wait()
            if progress is not None:
                progress.draw()
        finally:
            self.stopped = signals.received or self.stopped
            self._is_in_loop, self._batch = False, None
            if progress is not None:
                progress.close()
        if self.stopped is not None:
            self._say(f"stopped by {self.stopped} after step {self.step}, which is saved")
        elif self.step == first:
            self._say(f"nothing is left to do after step {self.step}")

    def _take_position(self) -> None:
        if self._position is not None:
            self._position.take()

    def _is_due(self) -> bool:
        if self._epochs is None:
            return self._saves.due(self.step)
        before, self._passed = self._passed, self._epochs_passed()
        return self._passed > before

    def _epochs_passed(self) -> int:
        """How many times the epochs after which to save have passed."""
        return 0 if self._epochs is None else int(self._loader.clock.epoch) // self._epochs

    def _save(self, *, background: bool) -> None:
        self._saves.save(step=self.step, background=background, **self._parts())
        self._saved = self.step

    def _resume(self) -> None:
        loaded = self._saves.load(**self._parts())
        if loaded is not None:
            self.step = self.resumed = self._saved = loaded.step or 0
            if self._extra is not None:
                self._extra.update(loaded.extra["extra"])
            self._say(f"goes on from step {self.step}")
        self._passed = self._epochs_passed()
        self._has_resumed = True

    def _parts(self) -> dict[str, Any]:
        """What is saved, and loaded."""
        _check_same(self._params, self._optimizer)
        extra = {"record": self.record, **({} if self._extra is None else {"extra": self._extra})}
        return {
            "params": self._params,
            "optimizer": self._optimizer,
            "loader": self._position,
            "extra": extra,
        }

    def _say(self, text: str) -> None:
        print(f"{self._saves.folder}: {text}", file=sys.stderr)


class _Position:
    """Where a loader was when the last step ended: at the end of a loop it has gone on since."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self.take()

    def take(self) -> None:
        self._state = self._loader.state_dict()

    def state_dict(self) -> Any:
        return self._state

    def load_state_dict(self, state: Any) -> None:
        self._loader.load_state_dict(state)
        self.take()


def _check_same(params: Any, optimizer: Any) -> None:
    """Raises ValueError unless the parameters hold the very arrays that optimizers update."""
    held = {id(leaf) for leaf in trees.flatten(params)[1]}
    for one in optimizer.values() if isinstance(optimizer, Mapping) else [optimizer]:
        updated = one.params if isinstance(one, Optimizer) else {}
        other = [path for path, array in updated.items() if id(array) not in held]
        if other:
            raise ValueError(
                f"params must hold the arrays that the optimizer updates, and lacks its {other}: "
                "pass what it was built with; after a change, optimizer.rebind(params)"
            )


def _epochs(every: Any, loader: Any) -> int | None:
    """The number of epochs, where it is that after which to save."""
    match = re.fullmatch(r"(\d+) *epochs?", every.strip()) if isinstance(every, str) else None
    if match is None:
        return None
    if not isinstance(loader, Loader):
        raise ValueError(f"every={every!r} needs a fusestep.Loader, whose clock tells epochs")
    return check_whole("every", int(match[1]), 1)
