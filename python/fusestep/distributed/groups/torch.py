"""Processes of torch.distributed, on CPUs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from .point_to_point import PointToPoint
from .protocol import Message, late, lost


class Torch(PointToPoint):
    """The processes of a process group whose backend is gloo."""

    def __init__(self, process_group: Any, timeout: float) -> None:
        import torch.distributed

        engine = torch.distributed
        if not engine.is_initialized():
            raise RuntimeError("call torch.distributed.init_process_group('gloo') first")
        if "gloo" not in (backend := str(engine.get_backend(process_group))):
            raise ValueError(
                f"process_group must have the backend gloo, not {backend}: give "
                "torch.distributed.new_group(backend='gloo')"
            )
        rank = engine.get_rank(process_group)
        if rank < 0:
            raise ValueError("process_group must hold this process")
        super().__init__(rank, engine.get_world_size(process_group), timeout)
        self._engine, self._process_group = engine, process_group
        self._from_numpy = torch.from_numpy
        self._ranks = engine.get_process_group_ranks(process_group)  # those of the whole job

    def begin(self, sends: list[Message], receives: list[Message]) -> list[tuple[int, Any]]:
        begun: list[tuple[int, Any]] = []
        deadline = time.monotonic() + self.timeout
        for start, messages in ((self._engine.irecv, receives), (self._engine.isend, sends)):
            for rank, tag, array in messages:
                with self._blaming(rank, deadline):
                    tensor, other = self._from_numpy(array), self._ranks[rank]
                    begun.append((rank, start(tensor, other, group=self._process_group, tag=tag)))
        return begun

    def end(self, begun: list[tuple[int, Any]]) -> None:
        deadline = time.monotonic() + self.timeout
        for rank, work in begun:
            with self._blaming(rank, deadline):
                left = max(0.001, deadline - time.monotonic())  # 0 would be torch's own timeout
                work.wait(timedelta(seconds=left))

    @contextmanager
    def _blaming(self, rank: int, deadline: float) -> Iterator[None]:
        """Says in an error of gloo which rank did not come."""
        try:
            yield
        except RuntimeError as error:
            if time.monotonic() >= deadline:
                raise late(self.rank, [rank], self.timeout) from error
            raise lost(self.rank, f"rank {rank}", error) from error


def torch(process_group: Any = None, *, timeout: float = 600.0) -> Torch:
    """The processes of a process group of torch.distributed, whose arrays are on CPUs.

    Args:
        process_group: with the backend gloo; default the whole job.
        timeout: seconds after which a rank that does not come is an error, in place of torch's.

    Raises:
        RuntimeError: `torch.distributed.init_process_group` was not called.
        ValueError: the backend is not gloo, or this process is not in the group.

    An interrupt is raised when the wait in which it comes ends.
    """
    return Torch(process_group, timeout)
