"""What all ranks tell each other before anything moves, so that one that failed stops all."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .groups import Group, Message, RankError

Flags = npt.NDArray[np.bool_]


class Header(NamedTuple):
    """What a rank tells.

    ``identity`` must be the same on all ranks. ``leaves`` are samples, mean loss and squared norm
    of each of its own; ``held`` tells of each parameter whether it has a gradient there.
    """

    identity: bytes
    step: int
    error: str | None
    leaves: Sequence[Sequence[float]]
    held: Flags


def exchanged(
    group: Group, own: Header, sends: Sequence[Message] = (), receives: Sequence[Message] = ()
) -> list[Header]:
    """The headers of all ranks; raises RankError on every rank if one of them can't go on.

    Arrays may move beside.
    """
    told = b"" if group.world == 1 else _to_bytes(own)
    heard = [
        own if rank == group.rank else _from_bytes(given)
        for rank, given in enumerate(group.gather_bytes(told, sends, receives))
    ]
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


# identity, step, leaves, parameters of which there are flags, bytes of an error or -1
_FIXED = struct.Struct("<8sqiii")


def _to_bytes(header: Header) -> bytes:
    identity, step, error, leaves, held = header
    text = b"" if error is None else error.encode()
    flags = b"" if held.all() else np.packbits(held).tobytes()
    sizes = (len(leaves), len(held), -1 if error is None else len(text))
    numbers = struct.pack(f"<{3 * len(leaves)}d", *(number for leaf in leaves for number in leaf))
    return _FIXED.pack(identity, step, *sizes) + text + numbers + flags


def _from_bytes(told: bytes) -> Header:
    identity, step, count, parameters, length = _FIXED.unpack_from(told)
    at = _FIXED.size + max(0, length)
    error = None if length < 0 else told[_FIXED.size : at].decode()
    leaves = [struct.unpack_from("<3d", told, at + 24 * k) for k in range(count)]
    flags = np.frombuffer(told[at + 24 * count :], np.uint8)
    if flags.size == 0:
        return Header(identity, step, error, leaves, np.ones(parameters, bool))
    return Header(
        identity, step, error, leaves, np.unpackbits(flags, count=parameters).astype(bool)
    )
