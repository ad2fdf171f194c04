"""What a group of processes does, and how it fails."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

Message = tuple[int, int, Any]  # the other rank, a number that tells messages apart, an array
Range = tuple[int, int]  # from the first element to before the last

# Lets others have the processor. A sleep of no time would take Linux 60 us.
give_way: Callable[[], object] = getattr(os, "sched_yield", functools.partial(time.sleep, 0))


class RankError(RuntimeError):
    """Another rank failed. Nothing was updated on any rank, and all may go on."""


class RankTimeout(RuntimeError):
    """A rank did not come, or is gone. What it sent or did is unknown: go on from a checkpoint.

    The group refuses all later calls at once.
    """


class Pending(Protocol):
    """Messages under way."""

    def finish(self) -> None:
        """Waits until they have been sent and received. Exchanges end in the order they began."""
        ...


class Group(Protocol):
    """Some ranks, all of which make the same calls in the same order."""

    rank: int
    world: int

    def gather_bytes(
        self, mine: bytes, sends: Sequence[Message] = (), receives: Sequence[Message] = ()
    ) -> list[bytes]:
        """What every rank gave, in the order of ranks; arrays move beside, as in `exchange`."""
        ...

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        """Fills the arrays to receive with those that other ranks send under the same number."""
        ...

    def start(self, sends: Sequence[Message], receives: Sequence[Message]) -> Pending:
        """Begins an exchange, of which no array may be touched before its end."""
        ...

    def gather_shards(self, memory: Any, ranges: Sequence[Range]) -> None:
        """Fills the range of every rank in one array; its own is there."""
        ...


def late(rank: int, others: Iterable[int], timeout: float) -> RankTimeout:
    """The error of a rank that has waited for others."""
    names = ", ".join(map(str, sorted(set(others))))
    return RankTimeout(
        f"rank {rank} waited {timeout:g} s for rank {names}: go on from a checkpoint"
    )


def lost(rank: int, others: str, error: Exception) -> RankTimeout:
    """The error of a rank whose engine can't reach others."""
    return RankTimeout(f"rank {rank} lost {others}: {error}: go on from a checkpoint")
