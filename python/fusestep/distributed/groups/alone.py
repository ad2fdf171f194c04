"""A group of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .protocol import Message, Range


class Alone:
    """A group of this process alone."""

    rank, world = 0, 1

    def gather_bytes(
        self, mine: bytes, sends: Sequence[Message] = (), receives: Sequence[Message] = ()
    ) -> list[bytes]:
        return [mine]

    def exchange(self, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        pass

    def start(self, sends: Sequence[Message], receives: Sequence[Message]) -> Alone:
        return self

    def finish(self) -> None:
        pass

    def gather_shards(self, memory: Any, ranges: Sequence[Range]) -> None:
        pass


def alone() -> Alone:
    """A group of one: the same program, and the same bits, without other processes."""
    return Alone()
