"""What a step tells, wherever the arrays are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class StepInfo(Protocol):
    """What a step has done; it can be unpacked, ``lr, grad_norm, applied = opt.step(grads)``.

    With CuPy arrays, asking for one of them may wait for the device; not asking never does.

    Attributes:
        lr: the learning rate that was used in the first group.
        grad_norm: the norm of all gradients before clipping; None where nothing asked for it.
        applied: False if the step was skipped for a gradient that is not finite.
    """

    @property
    def lr(self) -> float: ...
    @property
    def grad_norm(self) -> float | None: ...
    @property
    def applied(self) -> bool: ...
    def __iter__(self) -> Iterator[Any]: ...
