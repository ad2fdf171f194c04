"""Processes that an MPI starts, through mpi4py."""

from __future__ import annotations

import time
from typing import Any

from .point_to_point import PointToPoint
from .protocol import Message, late, lost

_SPIN = 50e-6  # seconds of a wait in which the processor is not given away

# of waits that did not end: MPI may write into their arrays as long as the process lives
_unfinished: list[Any] = []


class Mpi(PointToPoint):
    """The processes of a communicator of mpi4py.

    Every message is nonblocking and waited for with a deadline.
    """

    def __init__(self, communicator: Any, timeout: float) -> None:
        try:
            from mpi4py import MPI
        except ImportError as error:
            raise ImportError("needs mpi4py: pip install 'fusestep[mpi]'") from error
        if not isinstance(communicator, MPI.Intracomm):
            raise TypeError(
                "communicator must be one of mpi4py, such as MPI.COMM_WORLD, not "
                f"{type(communicator).__name__}"
            )
        super().__init__(communicator.rank, communicator.size, timeout)
        self._mpi, self._communicator = MPI, communicator.Dup()

    def _move(self, sends: list[Message], receives: list[Message]) -> None:
        requests: list[Any] = []
        try:
            for rank, tag, array in receives:
                requests.append(self._communicator.Irecv(array, rank, tag))
            for rank, tag, array in sends:
                requests.append(self._communicator.Isend(array, rank, tag))
            self._wait(requests, [rank for rank, _, _ in [*receives, *sends]])
        except self._mpi.Exception as error:
            _unfinished.append(requests)
            raise lost(self.rank, "another", error) from error
        except BaseException:
            _unfinished.append(requests)
            raise

    def _wait(self, requests: list[Any], ranks: list[int]) -> None:
        begin = time.monotonic()
        while not self._mpi.Request.Testall(requests):
            waited = time.monotonic() - begin
            if waited > self.timeout:
                self._mpi.Request.Testsome(requests)  # those that have come become null
                waiting = zip(requests, ranks, strict=True)
                absent = [rank for one, rank in waiting if one != self._mpi.REQUEST_NULL]
                raise late(self.rank, absent or ranks, self.timeout)
            if waited > _SPIN:
                time.sleep(0)


def mpi(communicator: Any, *, timeout: float = 600.0) -> Mpi:
    """The processes of a communicator of mpi4py; needs ``pip install 'fusestep[mpi]'``.

    Start programs as ``mpiexec -n 8 python -m mpi4py train.py``: then an exception that one rank
    does not catch ends all of them.

    Args:
        communicator: `mpi4py.MPI.COMM_WORLD`, or another; it is duplicated, which all of its
            processes must do at the same time.
        timeout: seconds after which a rank that does not come is an error.

    Raises:
        ImportError: mpi4py is not installed, or finds no MPI.
        TypeError: ``communicator`` is not one of mpi4py.
        ValueError: ``timeout`` is not a positive number.
    """
    return Mpi(communicator, timeout)
