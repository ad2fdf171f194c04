"""Where a loader stands, and how that is saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .._core import StateError
from ..arguments import check_whole

FORMAT = 2
_MOST = 2**53 - 1  # samples and batches: clocks are exact up to here

_WHOLE = {"seed": 2**63 - 1, "epoch": _MOST, "position": _MOST, "samples": _MOST, "batches": _MOST}


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


def saved(cursor: Cursor, fixed: Mapping[str, Any], policy: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a loader as JSON values. ``fixed``: what only the same data and order have."""
    return {"format": FORMAT, **fixed, **cursor._asdict(), "policy": dict(policy)}


def restored(state: Any, present: Mapping[str, Any], samples: int) -> tuple[Cursor, Any]:
    """The cursor of a saved state, and the state of its policy.

    Args:
        state: what was saved.
        present: the state of the loader now.
        samples: of an epoch.

    Raises:
        StateError: names all that does not fit.
    """
    if isinstance(state, Mapping):
        state = dict(state)  # once: what is checked is what is taken
    if not isinstance(state, dict) or set(state) != set(present):
        given = f"of {list(state)}" if isinstance(state, dict) else f"{state!r}"
        raise StateError(
            f"the state of a loader must be a dict of {', '.join(present)}, not {given}"
        )
    moving = {*Cursor._fields, "policy"}
    found = [
        f"{name}: saved {state[name]!r}, present {value!r}"
        for name, value in present.items()
        if name not in moving and (type(state[name]) is not type(value) or state[name] != value)
    ]
    for name, most in {**_WHOLE, "begin": _MOST}.items():
        if name == "begin" and state[name] is None:
            continue
        try:
            state[name] = check_whole(name, state[name], 0, most)
        except (TypeError, ValueError) as error:
            found.append(str(error))
    if not found:
        found += _contradictions(Cursor(*(state[name] for name in Cursor._fields)), samples)
    if found:
        raise StateError("\n  ".join(["the state does not fit this loader:", *found]))
    return Cursor(*(state[name] for name in Cursor._fields)), state["policy"]


def _contradictions(cursor: Cursor, samples: int) -> list[str]:
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
