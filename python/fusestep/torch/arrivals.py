"""Gradients, as backward produces them: brought to the masters, whose update they begin."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .. import _core
from .masters import Masters
from .staging import Leaf


class Arrivals:
    """Hears of gradients, hands them to the masters, and sees whether they are changed later.

    ``follow_settings`` gives the masters the settings of the moment, ``frees`` tells whether the
    fields ``grad`` are emptied.
    """

    def __init__(
        self,
        masters: Masters,
        follow_settings: Callable[[], None],
        *,
        overlap: bool,
        frees: bool,
    ) -> None:
        self._masters, self._follow_settings, self._frees = masters, follow_settings, frees
        self.overlap = overlap  # whether masters may be updated before step()
        # whether gradients, settings and parameters stay as they are between backward and step();
        # None before a step has shown it
        self.trusts: bool | None = None
        self.is_accumulating = False
        self.begin_anew()

    @property
    def overlaps(self) -> bool:
        """Whether backward updates masters."""
        return self.overlap and self.trusts is True

    def listen(self, leaves: Sequence[Leaf]) -> None:
        """Has backward tell of gradients, where it can reach the parameters."""
        for leaf in leaves:
            if leaf.parameter.requires_grad and not leaf.is_heard:
                leaf.parameter.register_post_accumulate_grad_hook(_teller(self, leaf))
                leaf.is_heard = True

    def begin_anew(self) -> None:
        """Waits for the next backward."""
        self.is_prepared = False  # whether settings and parameters were followed for this step
        self._is_whole = False  # whether the backward that began an update has ended
        self._task = -1  # the backward that goes on
        for leaf in self._masters.leaves:
            leaf.has_arrived = leaf.holds = False
            leaf.seen = None

    def forget(self) -> None:
        """Drops what was brought and is in no update; refused where an update has all of it."""
        if self._is_whole:
            raise _core.StateError(
                "backward has begun an update with the gradients that zero_grad() would drop: "
                "step() ends it; build with overlap=False where gradients are to be dropped"
            )
        for leaf in self._masters.expect_again():
            leaf.holds = False

    def follow(self) -> None:
        """Follows what was changed since the last step."""
        self._follow_settings()
        for leaf in self._masters.changed_parameters():
            self._masters.read_parameter(leaf)
        self.is_prepared = True

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _arrived(self, leaf: Leaf) -> None:
        """Backward has made a gradient."""
        self._watch_backward()
        if (self.is_accumulating or self.trusts is False) and not self._frees:
            return
        masters = self._masters
        if masters.is_handed(leaf):
            if self._is_whole:
                raise _core.StateError(
                    "a second backward before step(), which the update of the first one no longer "
                    "takes in: put all but the last into `with opt.accumulate():`, or build with "
                    "overlap=False. step() ends the update of the first"
                )
            self._note(leaf)  # one backward has raised, and this is the next
            return
        if self.is_accumulating:
            self._receive(leaf)
            return
        if not self.is_prepared:
            self.follow()
        if leaf.has_arrived and not masters.is_begun:
            self.trusts = False  # backwards whose gradients are dropped, or summed unannounced
        self._receive(leaf)
        leaf.has_arrived = True
        if self.overlaps:
            if not masters.is_begun:
                masters.begin()
            masters.advance()

    def _watch_backward(self) -> None:
        """Has the present backward tell of its end; one that raises does not."""
        task = torch._C._current_graph_task_id()
        if task == self._task:
            return
        if self._task != -1:  # one that has raised
            self._masters.expect_again()
        self._task, this = task, weakref.ref(self)

        def ended() -> None:
            arrivals = this()
            if arrivals is not None:
                arrivals._task = -1
                arrivals._is_whole = arrivals._masters.is_begun

        torch.autograd.Variable._execution_engine.queue_callback(ended)

    def _receive(self, leaf: Leaf) -> None:
        gradient, dtype = leaf.parameter.grad, leaf.parameter.dtype
        if gradient.layout is not torch.strided or gradient.dtype != dtype:
            raise TypeError(
                f"a gradient is {gradient.layout} and {gradient.dtype}, that of a parameter of "
                f"{dtype}: it must be dense and of the parameter's dtype"
            )
        self._masters.staging.receive(leaf, gradient, leaf.holds and self._frees)
        leaf.holds = True
        self._note(leaf)

    def _note(self, leaf: Leaf) -> None:
        """Which gradient was read; or frees it."""
        if self._frees:
            leaf.parameter.grad = None
        else:
            gradient = leaf.parameter.grad
            leaf.seen = gradient, gradient._version

    def receive_others(self) -> None:
        """Brings gradients that no backward told of, and those that were changed since.

        torch's versions tell of a change, but not of one through ``.data`` or by a scaler: values
        are compared until a step has shown that none is made, and all are read where one is.
        """
        self.listen(self._masters.leaves)
        if self.trusts is None:
            self._masters.wait()
        for leaf in self._masters.leaves:
            if self._masters.is_handed(leaf):
                continue
            gradient = leaf.parameter.grad
            if gradient is None:
                leaf.has_arrived = leaf.holds and self._frees
                continue
            leaf.has_arrived = True
            if self.trusts is None and not _is_new(leaf):
                widened = gradient.detach().to("cpu", torch.float32)
                self.trusts = None if torch.equal(leaf.gradient, widened) else False
            if self.trusts is False or _is_new(leaf):
                self._receive(leaf)

    def have_changed(self) -> bool:
        """Whether a gradient is not as it was read."""
        return any(leaf.seen is not None and _is_new(leaf) for leaf in self._masters.leaves)


def _teller(arrivals: Arrivals, leaf: Leaf) -> Callable[[Any], None]:
    """A hook, which keeps neither alive."""
    this, that = weakref.ref(arrivals), weakref.ref(leaf)

    def tell(parameter: Any) -> None:
        hearing, arrived = this(), that()
        if hearing is not None and arrived is not None:
            hearing._arrived(arrived)

    return tell


def _is_new(leaf: Leaf) -> bool:
    """Whether the gradient of a parameter is not the one that was read."""
    gradient = leaf.parameter.grad
    if leaf.seen is None:
        return gradient is not None
    seen, version = leaf.seen
    return gradient is not seen or gradient._version != version
