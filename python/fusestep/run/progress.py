"""The progress bar of a run."""

from __future__ import annotations

import time
from typing import Any

from ..data import Batch, Loader
from ..record import Record

_SECONDS = 0.5  # between two pictures


class Progress:
    """A bar of the samples of a loop over a `Loader`, whatever sizes its batches have, or of steps.

    Args:
        loader: what batches are taken from, or None.
        step: made so far.
        total: steps that end the loop, or None.
        record: whose last row is shown.
    """

    def __init__(self, loader: Any, step: int, total: int | None, record: Record) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            raise ImportError("progress=True needs tqdm: pip install tqdm") from None
        self._first, self._record = step, record
        self._loader: Loader | None = None
        end, done = total, step
        if isinstance(loader, Loader) and total is None:
            left = loader._left_of(loader._cursor)
            if left is not None:
                self._loader, end = loader, loader.samples * loader._epochs
                done = end - left
        self._end = end
        unit = "step" if self._loader is None else "sample"
        self._bar = tqdm(total=end, initial=done, unit=unit, unit_scale=unit == "sample")
        self._begin = self._shown = time.monotonic()

    def show(self, step: int, batch: Any) -> None:
        """Draws the bar anew, if it is time."""
        now = time.monotonic()
        if now - self._shown < _SECONDS:
            return
        self._shown, record = now, self._record
        shown = [f"{n} {record[n][-1]:.4g}" for n in ("loss", "lr") if len(record) and n in record]
        if isinstance(batch, Batch):
            shown.append(f"batch {batch.size}")
        shown.append(f"{(step - self._first) / (now - self._begin):.3g} steps/s")
        self._bar.set_postfix_str(", ".join(shown), refresh=False)
        self._bar.update(self._done(step) - self._bar.n)

    def _done(self, step: int) -> int:
        if self._loader is None or self._end is None:
            return step
        left = self._loader._left_of(self._loader._cursor)
        return self._end - (left or 0)

    def close(self) -> None:
        self._bar.close()
