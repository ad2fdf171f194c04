"""GPUs, through CuPy's NCCL; what is not in arrays goes over another group."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from .point_to_point import PointToPoint
from .protocol import Group, Message, RankTimeout, give_way, late, lost


class Nccl(PointToPoint):
    """The processes of an NCCL communicator, which moves the arrays of CuPy."""

    def __init__(self, communicator: Any, control: Group, timeout: float) -> None:
        import cupy

        super().__init__(control.rank, control.world, timeout)
        self._communicator, self._control = communicator, control
        self._cuda = cupy.cuda

    def gather_bytes(
        self, mine: bytes, sends: Sequence[Message] = (), receives: Sequence[Message] = ()
    ) -> list[bytes]:
        beside = self.start(sends, receives)
        told = self._control.gather_bytes(mine)
        beside.finish()
        return told

    def begin(self, sends: list[Message], receives: list[Message]) -> tuple[Any, list[int]]:
        nccl, communicator = self._cuda.nccl, self._communicator
        types = {"f4": nccl.NCCL_FLOAT32, "f8": nccl.NCCL_FLOAT64}
        stream = self._cuda.get_current_stream()
        nccl.groupStart()
        try:
            for start, messages in ((communicator.recv, receives), (communicator.send, sends)):
                # NCCL has no tags: the messages between two ranks are in one order on both
                for rank, _, array in sorted(messages, key=lambda message: message[:2]):
                    start(array.data.ptr, array.size, types[array.dtype.str[1:]], rank, stream.ptr)
        finally:
            nccl.groupEnd()
        return stream.record(), [rank for rank, _, _ in receives]

    def end(self, begun: tuple[Any, list[int]]) -> None:
        end, sources = begun
        deadline = time.monotonic() + self.timeout
        while not end.done:
            try:
                self._communicator.check_async_error()
                if time.monotonic() > deadline:
                    raise late(self.rank, sources, self.timeout)
            except Exception as error:
                self._communicator.abort()  # or the stream would wait for ever
                if isinstance(error, RankTimeout):
                    raise
                raise lost(self.rank, "another", error) from error
            give_way()


def nccl(communicator: Any, *, control: Group, timeout: float = 600.0) -> Nccl:
    """The processes of an NCCL communicator of CuPy, whose arrays are on GPUs.

    Tried with a stand-in for NCCL alone, never on two GPUs. `Sharded` takes parameters of NumPy
    only, so this moves arrays for programs of your own: `exchange` and `gather_shards`.

    Args:
        communicator: `cupy.cuda.nccl.NcclCommunicator`, with the ranks of ``control``.
        control: a group of the same processes over which headers go, such as `mpi`.
        timeout: seconds after which a rank that does not come is an error.
    """
    return Nccl(communicator, control, timeout)
