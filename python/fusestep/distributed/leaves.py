"""The gradients of a rank's leaves: checked, weighed, and added as far as the rank can alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _core
from ..arguments import check_scalar
from ..optim import SGD
from .groups import Leaves
from .header import Flags
from .layout import Layout
from .tree import Sums, pieces


class LeafGradients:
    """The sums of one rank.

    ``records`` has samples, mean loss and squared norm of every leaf that came; ``held`` tells of
    each parameter whether any of them had a gradient.
    """

    records: list[list[float]]
    held: Flags

    def __init__(self, params: Any, layout: Layout, share: Leaves) -> None:
        self._layout, self._share = layout, share
        # of the whole model: its plan checks gradients, weighs them and takes their norm
        self._whole = SGD(params, lr=0.0)
        self._memory: list[Any] = []  # the buffers of Sums
        self._host: list[Any] = []  # copies of pieces that are on a device
        self._parts: list[list[Any]] = []  # each as an array for every parameter
        self._all = np.ones(len(layout.paths), bool)
        self._none = np.zeros(len(layout.paths), bool)
        self._in_use = -1  # the buffer into which the plan sums
        self._sums = Sums(*share, self._new, self._add)
        self.forget()

    @property
    def missing(self) -> int:
        """How many leaves have not come."""
        return self._share.end - self._sums.next

    @property
    def pieces(self) -> int:
        """How many partial sums the rank sends."""
        return len(pieces(*self._share))

    def add(self, grads: Any, samples: float, loss: Any) -> float:
        """The next leaf; returns the squared norm of its gradients."""
        self._require_one()
        mean = check_scalar("loss", loss)
        sibling = self._sums.sibling()
        buffer = self._sums.take() if sibling is None else sibling
        if sibling is None:
            self._whole.discard_accumulated()
            if buffer != self._in_use:
                self._whole._accumulator.use(self._parts[buffer])
                self._in_use = buffer
        before = None if sibling is None else self._holds()
        try:
            given = self._layout.structure.leaves(grads, "grads")
            squares = float(self._whole._accumulate(given, samples))
        except BaseException:
            if sibling is None:
                self._sums.give_back(buffer)
            raise
        self._fill(buffer, before, given)
        self._sums.put(buffer)
        self.records.append([float(samples), mean, squares])
        return squares

    def skip(self) -> None:
        """The next leaf has no samples."""
        self._require_one()
        self._sums.put(None)
        self.records.append([0.0, 0.0, 0.0])

    def finish(self, *, on_host: bool) -> list[Any]:
        """The sums of the rank's pieces over all elements; None for one without samples.

        ``on_host``: in memory that engines move.
        """
        found = [None if buffer is None else self._memory[buffer] for buffer in self._sums.finish()]
        place, layout = self._layout.place, self._layout
        if place.is_host or not on_host:
            return found
        while len(self._host) < len(found):
            self._host.append(place.empty_host(layout.total, layout.dtype))
        for k, piece in enumerate(found):
            if piece is not None:
                found[k] = piece.get(out=self._host[k])
        return found

    def forget(self) -> None:
        """Begins with the first leaf."""
        self._whole.discard_accumulated()
        self._sums.clear()
        self.records = []
        self.held = self._none

    def _require_one(self) -> None:
        if self.missing == 0:
            count = self._share.end - self._share.begin
            raise _core.StateError(f"all {count} leaves of this rank are here: call step()")

    def _holds(self) -> Flags:
        """Of which parameters the buffer in use has a sum."""
        held = self._whole._plan.accumulated[3]
        return self._all if all(held) else np.array(held, bool)

    def _fill(self, buffer: int, before: Flags | None, given: Sequence[Any]) -> None:
        """Gradients that are None count as zeros where others are not.

        ``given`` are the leaf's; ``before`` tells what the buffer of a second one held.
        """
        holds, parts = self._holds(), self._parts[buffer]
        is_whole = holds is self._all and (before is None or before is self._all)
        if is_whole and (before is None or type(None) not in map(type, given)):
            self.held = self._all
            return
        if before is None:
            for i in np.flatnonzero(~holds):
                parts[i][...] = 0
        else:
            here = np.array([gradient is not None for gradient in given])
            for i in np.flatnonzero(holds & ~(before & here)):
                parts[i] += 0  # the zeros of the other leaf: -0.0 becomes 0.0
        self.held = self.held | holds

    def _new(self) -> int:
        memory = self._layout.place.empty(self._layout.total, self._layout.dtype)
        self._memory.append(memory)
        self._parts.append(self._layout.parts(memory))
        return len(self._memory) - 1

    def _add(self, source: int, target: int) -> None:
        self._layout.place.add(self._memory[source], self._memory[target])
