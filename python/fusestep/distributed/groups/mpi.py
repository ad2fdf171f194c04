"""Processes that an MPI starts, through mpi4py."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .point_to_point import PointToPoint
from .protocol import Message, give_way, late, lost

_SPIN = 50e-6  # seconds of a wait in which the processor is not given away


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

    def begin(self, sends: list[Message], receives: list[Message]) -> list[tuple[int, Any]]:
        begun: list[tuple[int, Any]] = []
        with self._blaming(begun):
            for rank, tag, array in receives:
                begun.append((rank, self._communicator.Irecv(array, rank, tag)))
            for rank, tag, array in sends:
                begun.append((rank, self._communicator.Isend(array, rank, tag)))
        return begun

    def end(self, begun: list[tuple[int, Any]]) -> None:
        requests = [request for _, request in begun]
        begin = time.monotonic()
        with self._blaming(begun):
            while not self._mpi.Request.Testall(requests):
                waited = time.monotonic() - begin
                if waited > self.timeout:
                    raise late(self.rank, self._absent(begun), self.timeout)
                if waited > _SPIN:
                    give_way()

    @contextmanager
    def _blaming(self, begun: list[tuple[int, Any]]) -> Iterator[None]:
        """Says in an error of MPI which ranks did not come."""
        try:
            yield
        except self._mpi.Exception as error:
            names = ", ".join(map(str, self._absent(begun)))
            raise lost(self.rank, f"rank {names}", error) from error

    def _absent(self, begun: list[tuple[int, Any]]) -> list[int]:
        """The ranks of messages that have not come."""
        found = set()
        for rank, request in begun:
            try:
                if not request.Test():
                    found.add(rank)
            except self._mpi.Exception:
                found.add(rank)
        return sorted(found)


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
