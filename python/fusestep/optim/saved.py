"""The form of saved state, and what keeps one from being loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

FORMAT = 1


def differences(
    saved: Mapping[str, Any], present: Mapping[str, Any], fixed: Collection[str]
) -> list[str]:
    """What keeps the saved state from fitting the present one; ``fixed`` settings must be equal."""
    found: list[str] = []

    def compare(what: str, there: Any, here: Any) -> None:
        if there != here:
            found.append(f"{what}: saved {there!r}, present {here!r}")

    for name in ("format", "rule"):
        compare(name, saved.get(name), present[name])
    found += [f"{name}: not saved" for name in present if name not in saved]
    if found:
        return found
    patterns = [[group["match"] for group in state["groups"]] for state in (saved, present)]
    compare("groups", *patterns)
    for name in fixed:
        compare(name, saved["settings"].get(name), present["settings"][name])
    for name in ("attempted", "applied"):
        if not _is_count(saved[name]):
            found.append(f"{name}: must be a whole number of at least 0, not {saved[name]!r}")
    there, here = saved["parameters"], present["parameters"]
    for path in [*here, *(path for path in there if path not in here)]:
        where = f"params[{path!r}]" if path else "params"
        if path not in there or path not in here:
            found.append(f"{where}: {'not saved' if path in here else 'not present'}")
        else:
            found += _entry_differences(where, there[path], here[path])
    return found


def _entry_differences(
    where: str, saved: Mapping[str, Any], present: Mapping[str, Any]
) -> list[str]:
    found = []
    if not _is_count(saved.get("updates")):
        updates = saved.get("updates")
        found.append(f"{where} updates: must be a whole number of at least 0, not {updates!r}")
    there, here = saved.get("state", {}), present["state"]
    if sorted(there) != sorted(here):
        found.append(f"{where} state arrays: saved {sorted(there)}, present {sorted(here)}")
    for name in (name for name in here if name in there):
        array = np.asarray(there[name])
        for what in ("shape", "dtype"):
            a, b = getattr(array, what), getattr(here[name], what)
            if a != b:
                found.append(f"{where} {name} {what}: saved {a}, present {b}")
    return found


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
