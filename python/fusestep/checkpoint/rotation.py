"""The checkpoints of a run in a folder: which is the newest, and which can go."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from os import PathLike
from pathlib import Path
from typing import Any

from ..arguments import check_whole
from .background import writer
from .form import CheckpointError
from .loading import Loaded, load
from .ranges import opened
from .saving import save_as
from .writing import sync_folder

_NAME = re.compile(r"step-(\d{9,})\.safetensors")
_SECONDS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600}
_SECONDS |= {"d": 86400, "day": 86400}


def latest(folder: str | PathLike[str]) -> Path | None:
    """The newest whole checkpoint of `Checkpoints` in a folder; None if there is none.

    It has the size that its header says. Whether its bytes are those saved is seen by `load`.

    Example:
        >>> import fusestep as fs
        >>> fs.checkpoint.latest("not/there") is None
        True
    """
    writer.finish()
    for path in saved_in(Path(folder)):
        try:
            with opened(path):
                return path
        except (CheckpointError, OSError):
            continue
    return None


class Checkpoints:
    """The checkpoints of one run, in a folder of their own: when, where, and how many.

    A file is called ``step-000000300.safetensors``. Older ones are deleted when a new one is on the
    disk; those of a later step stay.

    Args:
        folder: made if it is not there.
        keep: how many of the newest are kept, at least 1; None keeps all.
        every: what `due` goes by: a number of steps, or a time, as a timedelta or in words: "30 s",
            "10 min", "2 hours", "1 day". None: it is never due.

    Raises TypeError or ValueError naming the argument, OSError where the folder can't be made.

    Example:
        >>> import tempfile, numpy as np, fusestep as fs
        >>> params = {"w": np.zeros(2)}
        >>> opt = fs.SGD(params, lr=1.0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saves = fs.checkpoint.Checkpoints(folder, keep=2, every=10)
        ...     assert saves.load(params=params, optimizer=opt) is None     # a new run
        ...     for step in range(1, 36):
        ...         info = opt.step({"w": np.ones(2)})
        ...         if saves.due(step):
        ...             path = saves.save(step=step, params=params, optimizer=opt)
        ...     loaded = saves.load(params=params, optimizer=opt)
        >>> loaded.step, params["w"]
        (30, array([-30., -30.]))
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        keep: int | None = 3,
        every: int | str | timedelta | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._keep = None if keep is None else check_whole("keep", keep, 1)
        self._steps, self._seconds = _interval(every)
        self._last_step = 0
        self._last_time = time.monotonic()
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            sync_folder(self.folder.parent)

    def due(self, step: int) -> bool:
        """Whether it is time to save.

        With a number of steps: whether a multiple of it was passed since the last one that was
        saved or loaded. With a time: whether that has gone by since.
        """
        if self._steps is not None:
            return step // self._steps > self._last_step // self._steps
        if self._seconds is not None:
            return time.monotonic() - self._last_time >= self._seconds
        return False

    def save(
        self,
        *,
        step: int,
        params: Any = None,
        optimizer: Any = None,
        loader: Any = None,
        extra: Any = None,
        background: bool = False,
    ) -> Path:
        """Saves as `fusestep.checkpoint.save` does, then deletes what is older than those kept."""
        path = self.folder / f"step-{check_whole('step', step, 0):09}.safetensors"
        parts = {"optimizer": optimizer, "loader": loader, "extra": extra}

        def delete_older() -> None:
            older = [other for other in saved_in(self.folder) if step_of(other) < step]
            for other in older[self._keep - 1 :] if self._keep is not None else ():
                with suppress(OSError):  # one that somebody reads now goes after the next save
                    other.unlink()
                    for file in self.folder.glob(f"{other.stem}-*{other.suffix}"):
                        file.unlink()  # of a rank, which the other lists

        save_as(path, is_name, step, params, parts, background, delete_older)
        self._saved(step)
        return path

    def load(
        self,
        *,
        params: Any = None,
        optimizer: Any = None,
        loader: Any = None,
        extra: Any = None,
        strict: bool = True,
        keep: Sequence[str] = (),
        rename: Mapping[str, str] | None = None,
    ) -> Loaded | None:
        """Goes on from the newest checkpoint, as `fusestep.checkpoint.load` does; None if there is
        none.

        Where the newest is damaged or can't be read, a warning names it, and the one before is
        taken.

        Raises CheckpointError where there are files and all are damaged.
        """
        writer.finish()  # its error is no damage
        errors = []
        for path in saved_in(self.folder):
            try:
                loaded = load(
                    path,
                    params=params,
                    optimizer=optimizer,
                    loader=loader,
                    extra=extra,
                    strict=strict,
                    keep=keep,
                    rename=rename,
                )
            except (CheckpointError, OSError) as error:
                errors.append(str(error))
                continue
            for text in errors:
                warnings.warn(f"{text}; went on from {path}", RuntimeWarning, stacklevel=2)
            self._saved(step_of(path))
            return loaded
        if errors:
            raise CheckpointError("\n  ".join(["no checkpoint is whole:", *errors]))
        return None

    def _saved(self, step: int) -> None:
        self._last_step, self._last_time = step, time.monotonic()


def saved_in(folder: Path) -> list[Path]:
    """The files of checkpoints in a folder, from the newest to the oldest."""
    try:
        found = [path for path in folder.iterdir() if is_name(path.name)]
    except FileNotFoundError:
        return []
    return sorted(found, key=step_of, reverse=True)


def is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def step_of(path: Path) -> int:
    return int(path.name[len("step-") : -len(".safetensors")])


def _interval(every: int | str | timedelta | None) -> tuple[int | None, float | None]:
    """Steps, or seconds."""
    if every is None:
        return None, None
    if isinstance(every, timedelta):
        seconds = every.total_seconds()
    elif isinstance(every, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?) *([a-z]+)", every.strip())
        unit = None if match is None else _SECONDS.get(match[2]) or _SECONDS.get(match[2][:-1])
        seconds = 0.0 if match is None or unit is None else float(match[1]) * unit
    else:
        return check_whole("every", every, 1), None
    if seconds <= 0:
        raise ValueError(f'every must be above 0, as in 500 (steps) or "10 min", not {every!r}')
    return None, seconds
