"""What all ranks tell each other before anything moves, so that one that failed stops all."""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .groups import Group, RankError

Flags = npt.NDArray[np.bool_]


class Header(NamedTuple):
    """What a rank tells.

    ``identity`` must be the same on all ranks. ``leaves`` are samples, mean loss and squared norm
    of each of its own; ``held`` tells of each parameter whether it has a gradient there.
    """

    identity: str
    step: int
    error: str | None
    leaves: list[list[float]]
    held: Flags


def exchanged(group: Group, own: Header) -> list[Header]:
    """The headers of all ranks; raises RankError on every rank if one of them can't go on."""
    told = json.dumps([*own[:-1], _to_text(own.held)]).encode()
    heard = []
    for rank, text in enumerate(group.gather_bytes(told)):
        if rank == group.rank:
            heard.append(own)
        else:
            identity, step, error, leaves, held = json.loads(text)
            flags = _from_text(held, len(own.held))
            heard.append(Header(identity, step, error, leaves, flags))
    failed = [(rank, one.error) for rank, one in enumerate(heard) if one.error is not None]
    if not failed:
        first = heard[0]
        failed = [
            (rank, f"is at step {one.step} of another model, settings or run than rank 0")
            for rank, one in enumerate(heard)
            if (one.step, one.identity) != (first.step, first.identity)
        ]
    if not failed and not any(samples > 0 for one in heard for samples, _, _ in one.leaves):
        raise RankError("nothing was updated: no leaf has samples")
    if failed:
        texts = "; ".join(f"rank {rank}: {text}" for rank, text in failed)
        raise RankError(f"nothing was updated: {texts}")
    return heard


def _to_text(held: Flags) -> str:
    return "all" if held.all() else np.packbits(held).tobytes().hex()


def _from_text(text: str, count: int) -> Flags:
    if text == "all":
        return np.ones(count, bool)
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=count).astype(bool)
