"""The form of saved state, and what keeps one from being loaded."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from .._core import StateError
from ..control import Control
from ..expression import Expression, from_json
from ..expression.saved import is_saved, saved
from .limits import LIMITS
from .schedule import controls_of

FORMAT = 1

_LARGEST_COUNT = 2**63 - 1


def plain(value: Any) -> Any:
    """A setting as a JSON value, or a dict of settings."""
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(entry) for entry in value)
    return saved(value) if isinstance(value, Expression) else value


def controls(typed: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The states of all controls, by where the setting stands that holds them."""
    found = {where: list(controls_of(value)) for where, value in typed.items()}
    return {w: [control.state_dict() for control in held] for w, held in found.items() if held}


def read(
    state: Mapping[str, Any], typed: Mapping[str, Any], keep: Collection[str]
) -> tuple[dict[str, Any], list[tuple[Control, Any]]]:
    """The saved settings but for those to keep, and their controls, each with its saved state.

    Raises StateError where a setting or the state of a control does not fit.
    """
    own = {
        f"groups[{g}] {name}": value
        for g, group in enumerate(state["groups"])
        for name, value in group["settings"].items()
    }
    limits = {name: state[name] for name in LIMITS}
    values = {
        where: _restored(where, value, typed.get(where))
        for where, value in {**state["settings"], **own, **limits}.items()
        if where.split()[-1] not in keep
    }
    control_states = []
    for where, value in values.items():
        held, saved_states = list(controls_of(value)), state["control"].get(where, [])
        if len(saved_states) != len(held):
            raise StateError(
                f"{where}: has {len(held)} controls, and {len(saved_states)} states are saved"
            )
        for control, control_state in zip(held, saved_states, strict=True):
            control.check_state(control_state)
            control_states.append((control, control_state))
    return values, control_states


def _restored(where: str, value: Any, present: Any) -> Any:
    """A setting from its JSON value: the present expression itself if it is the same one."""
    if isinstance(value, (list, tuple)):
        others = present if isinstance(present, tuple) else (None,) * len(value)
        return tuple(_restored(where, *pair) for pair in zip(value, others, strict=False))
    if not isinstance(value, Mapping):
        return value
    if isinstance(present, Expression) and plain(present) == value:
        return present
    if not is_saved(value):
        raise StateError(f"{where}: must be a number or a saved expression, not {value!r}")
    try:
        return from_json(value, like=present if isinstance(present, Expression) else None)
    except ValueError as error:
        raise StateError(f"{where}: {error}; or keep={(where.split()[-1],)!r}") from error


def differences(
    saved: Any,
    present: Mapping[str, Any],
    fixed: Collection[str],
    parameters: Mapping[str, Any],
) -> list[str]:
    """What keeps the saved state from fitting the present one; ``fixed`` settings must be equal."""
    malformed = _malformed(saved, present)
    if malformed:
        return malformed
    found: list[str] = []
    patterns = [[group["match"] for group in state["groups"]] for state in (saved, present)]
    found += _unequal("groups", *patterns)
    for name in fixed:
        found += _unequal(name, saved["settings"][name], present["settings"][name])
    if saved["applied"] > saved["attempted"]:
        found.append(f"applied: {saved['applied']} is more than attempted, {saved['attempted']}")
    there, here = saved["parameters"], present["parameters"]
    for path in [*here, *(path for path in there if path not in here)]:
        where = _where(path)
        if path not in there or path not in here:
            found.append(f"{where}: {'not saved' if path in here else 'not present'}")
        else:
            found += _array_differences(where, there[path]["state"], here[path]["state"])
    sums = {path: sum for path, sum in saved["accumulated"]["gradients"].items() if sum is not None}
    for path in sums:
        if path in parameters:
            name = "accumulated gradient"
            alike = {name: sums[path]}, {name: parameters[path]}
            found += _array_differences(_where(path), *alike)
    return found


def _malformed(state: Any, present: Mapping[str, Any]) -> list[str]:
    """What the saved state lacks to be of the form that ``state_dict`` gives."""
    if not isinstance(state, Mapping):
        return [f"it must be a dict as state_dict() gives, not {type(state).__name__}"]
    found = [f"{name}: not saved" for name in present if name not in state]
    for name in ("format", "rule"):
        found += _unequal(name, state.get(name), present[name])
    if found:
        return found
    for name in ("attempted", "applied"):
        found += _bad_count(name, state[name])
    settings, groups, parameters = (state[name] for name in ("settings", "groups", "parameters"))
    known = present["settings"].keys()
    if not isinstance(settings, Mapping) or settings.keys() != known:
        found.append(f"settings: must be a dict of {', '.join(known)}, not {settings!r}")
    if not isinstance(groups, (list, tuple)) or not all(_is_group(g, known) for g in groups):
        found.append(f"groups: must be a list of dicts with match and settings, not {groups!r}")
    control = state["control"]
    if not isinstance(control, Mapping) or not all(
        isinstance(states, (list, tuple)) for states in control.values()
    ):
        found.append(f"control: must be a dict of lists, not {control!r}")
    found += _bad_accumulated(state["accumulated"], parameters)
    if not isinstance(parameters, Mapping):
        return [*found, f"parameters: must be a dict, not {type(parameters).__name__}"]
    for path, entry in parameters.items():
        if isinstance(entry, Mapping) and isinstance(entry.get("state"), Mapping):
            found += _bad_count(f"{_where(path)} updates", entry.get("updates"))
        else:
            found.append(f"{_where(path)}: must be a dict with updates and state, not {entry!r}")
    return found


def _bad_accumulated(accumulated: Any, parameters: Any) -> list[str]:
    names = ("samples", "micro_batches", "weighted_squared_norms", "gradients")
    if not isinstance(accumulated, Mapping) or accumulated.keys() != set(names):
        return [f"accumulated: must be a dict of {', '.join(names)}, not {accumulated!r}"]
    samples, count, squares, gradients = (accumulated[name] for name in names)
    if not isinstance(gradients, Mapping) or (
        isinstance(parameters, Mapping) and gradients.keys() != parameters.keys()
    ):
        return ["accumulated gradients: must be a dict with the paths of parameters"]
    found = _bad_count("accumulated micro_batches", count)
    if not _is_float(samples) or not 0.0 <= samples < math.inf:
        found.append(f"accumulated samples: must be finite and at least 0, not {samples!r}")
    if not _is_float(squares) or squares < 0.0:
        found.append(f"accumulated weighted_squared_norms: must be at least 0, not {squares!r}")
    if found:
        return found
    begun = any(gradient is not None for gradient in gradients.values())
    if (samples > 0) != (count > 0) or (count == 0 and (begun or squares != 0)):
        found.append(
            f"accumulated: {count} micro-batches can't have {samples!r} samples and "
            f"{'' if begun else 'no '}gradients"
        )
    return found


def _is_float(value: Any) -> bool:
    # as JSON may have written it
    return isinstance(value, float) or (type(value) is int and abs(value) <= _LARGEST_COUNT)


def _is_group(group: Any, known: Collection[str]) -> bool:
    return (
        isinstance(group, Mapping)
        and group.keys() == {"match", "settings"}
        and isinstance(group["settings"], Mapping)
        and all(name in known for name in group["settings"])
    )


def _array_differences(where: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    found = []
    if sorted(there) != sorted(here):
        found.append(f"{where} state arrays: saved {sorted(there)}, present {sorted(here)}")
    for name in (name for name in here if name in there):
        if not isinstance(there[name], np.ndarray):
            given = type(there[name]).__name__
            found.append(f"{where} {name}: must be an array, not {given}")
            continue
        for what in ("shape", "dtype"):
            a, b = getattr(there[name], what), getattr(here[name], what)
            if a != b:
                found.append(f"{where} {name} {what}: saved {a}, present {b}")
    return found


def _unequal(what: str, there: Any, here: Any) -> list[str]:
    return [] if there == here else [f"{what}: saved {there!r}, present {here!r}"]


def _bad_count(what: str, value: Any) -> list[str]:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_COUNT:
        return []
    return [f"{what}: must be a whole number from 0 to 2^63 - 1, not {value!r}"]


def _where(path: str) -> str:
    return f"params[{path!r}]" if path else "params"
