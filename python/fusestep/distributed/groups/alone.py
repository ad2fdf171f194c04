"""A group of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .protocol import Message


class Alone:
    """A group of this process alone."""

    rank, world = 0, 1

    def gather_bytes(self, mine: bytes) -> list[bytes]:
        return [mine]

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        pass

    def gather_shards(self, memory: Any, bounds: Sequence[int]) -> None:
        pass


def alone() -> Alone:
    """A group of one: the same program, and the same bits, without other processes."""
    return Alone()
