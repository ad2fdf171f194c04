"""Where a loader stands, and how that is saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..saved_state import Form, optional, whole

FORMAT = 2

FORMS: dict[str, Form] = {
    "seed": whole(0, 2**63 - 1),
    **{name: whole() for name in ("epoch", "position", "samples", "batches")},
    "begin": optional(whole()),
}


class Cursor(NamedTuple):
    """All that moves when a batch is delivered, as one value.

    Args:
        epoch, position: of the next sample.
        samples, batches: delivered so far, of all ranks.
        begin: the epoch in which the present loop began; None where none is under way.
    """

    seed: int
    epoch: int = 0
    position: int = 0
    samples: int = 0
    batches: int = 0
    begin: int | None = None


def to_json(cursor: Cursor, fixed: Mapping[str, Any], policy: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a loader as JSON values. ``fixed``: what only the same data and order have."""
    return {"format": FORMAT, **fixed, **cursor._asdict(), "policy": dict(policy)}


def contradictions(cursor: Cursor, samples: int) -> list[str]:
    """What no loader of this many samples can have counted."""
    found = []
    if cursor.position >= samples:
        found.append(f"position: {cursor.position} is not below {samples}")
    passed = cursor.epoch * samples + cursor.position
    if cursor.samples > passed:
        found.append(f"samples: {cursor.samples} are more than the {passed} of its epochs")
    if not cursor.batches <= cursor.samples or (cursor.samples > 0) != (cursor.batches > 0):
        found.append(f"batches: {cursor.batches} can't hold {cursor.samples} samples")
    if cursor.begin is not None and cursor.begin > cursor.epoch:
        found.append(f"begin: {cursor.begin} is after epoch {cursor.epoch}")
    return found
