"""The progress bar of a run."""

from __future__ import annotations

import time
from typing import Any

from ..data import Batch, Loader
from ..record import Record

_SECONDS = 0.5  # between two pictures


def bar_class() -> Any:
    """tqdm's, for terminals and notebooks; ImportError says what to install."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError("progress=True needs tqdm: pip install tqdm") from None
    return tqdm


class Progress:
    """A bar of the samples of a loop over a `Loader`, whatever sizes its batches have, or of steps.

    Args:
        loader: what batches are taken from, or None.
        step: made so far.
        total: steps that end the loop, or None.
        record: whose last row is shown.
    """

    def __init__(self, loader: Any, step: int, total: int | None, record: Record) -> None:
        bar = bar_class()
        self._first = self._step = step
        self._record = record
        self._batch: Any = None
        self._loader: Loader | None = None
        end, done = total, step
        if isinstance(loader, Loader) and total is None:
            left = loader._left_of(loader._cursor)
            if left is not None:
                self._loader, end = loader, loader.samples * loader._epochs
                done = end - left
        self._end, self._done = end, done
        unit = "step" if self._loader is None else "sample"
        self._bar = bar(total=end, initial=done, unit=unit, unit_scale=unit == "sample")
        self._begin = self._shown = time.monotonic()

    def show(self, step: int, batch: Any) -> None:
        """Takes in a step that has ended, and draws the bar anew if it is time."""
        self._step, self._batch = step, batch
        if self._loader is None or self._end is None:
            self._done = step
        else:
            self._done = self._end - (self._loader._left_of(self._loader._cursor) or 0)
        if time.monotonic() - self._shown >= _SECONDS:
            self.draw()

    def close(self) -> None:
        self._bar.close()

    def draw(self) -> None:
        """Draws the bar anew; on a GPU it waits for what is shown."""
        self._shown, record = time.monotonic(), self._record
        shown = [f"{n} {record[n][-1]:.4g}" for n in ("loss", "lr") if len(record) and n in record]
        if isinstance(self._batch, Batch):
            shown.append(f"batch {self._batch.size}")
        rate = (self._step - self._first) / max(self._shown - self._begin, 1e-9)
        shown.append(f"{self._bar.format_sizeof(rate)} steps/s")
        self._bar.set_postfix_str(", ".join(shown), refresh=False)
        self._bar.update(self._done - self._bar.n)
