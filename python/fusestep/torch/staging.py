"""How gradients come to float32 memory of the CPU, and how parameters get their masters' values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import torch


@dataclass(eq=False)
class Leaf:
    """A parameter with what stands for it in the memory of the CPU."""

    parameter: Any
    path: str  # in the optimizer over the masters
    master: Any  # float32
    gradient: Any  # float32
    begin: int  # its elements, counted over all masters
    end: int
    version: int = -1  # of the parameter, and its address, when they were last alike
    address: int = 0
    is_heard: bool = False  # whether backward tells of its gradients
    is_expected: bool = True  # whether it had a gradient in the step before
    has_arrived: bool = False  # whether its gradient of this step has
    holds: bool = False  # whether its gradient, or one of several backwards, was brought
    seen: tuple[Any, int] | None = None  # the gradient that was read, and its version
    buffer: Any = None  # pinned, of the parameter's dtype
    fetched: Future[None] | None = None

    def __post_init__(self) -> None:
        self.gradient_array = self.gradient.numpy()
        self.note_parameter()

    def note_parameter(self) -> None:
        """The parameter has its master's value."""
        self.version, self.address = self.parameter._version, self.parameter.data_ptr()


class Staging(Protocol):
    """Between parameters, wherever they are, and float32 tensors on the CPU."""

    def receive(self, leaf: Leaf, gradient: Any, add: bool) -> None:
        """Brings a gradient, or adds it, before what the worker is given next."""
        ...

    def stage(self, leaves: Sequence[Leaf]) -> None:
        """Has masters ready to be written to their parameters; the worker calls it."""
        ...

    def write(self, leaves: Sequence[Leaf]) -> None:
        """Gives parameters the values of their masters, rounded to nearest, ties to even."""
        ...


class HostStaging:
    """For parameters on the CPU."""

    def receive(self, leaf: Leaf, gradient: Any, add: bool) -> None:
        if add:
            leaf.gradient.add_(gradient)
        else:
            leaf.gradient.copy_(gradient)

    def stage(self, leaves: Sequence[Leaf]) -> None:
        pass

    def write(self, leaves: Sequence[Leaf]) -> None:
        torch._foreach_copy_([leaf.parameter for leaf in leaves], [leaf.master for leaf in leaves])


class CudaStaging:
    """For parameters on one CUDA device; has been run with a stand-in for torch.cuda alone.

    What crosses the bus has the parameter's dtype: gradients on a stream of their own behind the
    kernels that made them, into pinned memory, where the worker waits for an event and widens
    them. Parameters go back through the same memory on the current stream: a later gradient's copy
    waits for that stream, so neither overtakes the other.
    """

    def __init__(
        self, submit: Callable[..., Future[None]], cuda: Any = torch.cuda, pin: bool = True
    ) -> None:
        self._submit, self._cuda, self._pin = submit, cuda, pin
        self._stream = cuda.Stream()

    def receive(self, leaf: Leaf, gradient: Any, add: bool) -> None:
        if leaf.buffer is None:
            leaf.buffer = torch.empty(
                gradient.shape, dtype=leaf.parameter.dtype, pin_memory=self._pin
            )
        if leaf.fetched is not None:
            leaf.fetched.result()  # the buffer is free
        self._stream.wait_stream(self._cuda.current_stream())
        with self._cuda.stream(self._stream):
            leaf.buffer.copy_(gradient, non_blocking=True)
            event = self._cuda.Event()
            event.record(self._stream)
        gradient.record_stream(self._stream)  # its memory may be freed before the copy ends
        leaf.fetched = self._submit(self._widen, leaf, event, add)

    @staticmethod
    def _widen(leaf: Leaf, event: Any, add: bool) -> None:
        event.synchronize()
        if add:
            leaf.gradient.add_(leaf.buffer)
        else:
            leaf.gradient.copy_(leaf.buffer)

    def stage(self, leaves: Sequence[Leaf]) -> None:
        for leaf in leaves:
            leaf.buffer.copy_(leaf.master)

    def write(self, leaves: Sequence[Leaf]) -> None:
        for leaf in leaves:
            leaf.parameter.copy_(leaf.buffer, non_blocking=True)
