"""What a step on the GPU tells, to those who ask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .launcher import Launcher


class CudaStepInfo:
    """What `StepInfo` is for NumPy arrays. Asking may wait for the device; not asking never does.

    Attributes:
        lr: of the first group.
        grad_norm: of all gradients before clipping, or None where nothing asked for it.
        applied: False if the step was skipped for a non-finite gradient.
    """

    __slots__ = ("_base", "_device", "_known", "_number", "_rates")

    def __init__(
        self, device: Launcher, rates: tuple[float, ...], base: int, number: int | None, known: bool
    ) -> None:
        self._device = device
        self._rates = rates  # for each number of updates there may have been, from `base` on
        self._base = base
        self._number = number  # of the report; None: there is none
        self._known = known  # that it applied

    @property
    def lr(self) -> float:
        return self._rates[self.row]

    @property
    def row(self) -> int:
        """Which of the settings prepared for it the step has used."""
        if len(self._rates) == 1:
            return 0
        report = self._report()
        return int(report["applied"]) - int(report["applies"]) - self._base

    @property
    def grad_norm(self) -> float | None:
        return None if self._number is None else float(self._report()["grad_norm"])

    @property
    def applied(self) -> bool:
        return self._known or bool(self._report()["applies"])

    def _report(self) -> Any:
        assert self._number is not None
        return self._device.report(self._number)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.lr, self.grad_norm, self.applied))

    def __repr__(self) -> str:
        return (
            f"fusestep.StepInfo(lr={self.lr!r}, grad_norm={self.grad_norm!r}, "
            f"applied={self.applied!r})"
        )
