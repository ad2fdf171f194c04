"""The format of saved states, and what makes states of earlier ones states of this."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

FORMAT = 4

# settings that states of format 3 lack, and what they were then
_SINCE_3 = {
    **{"ema": None, "ema_every": 1, "agc": None, "agc_eps": 1e-3, "agc_axis": None},
    "lazy": "exact",
    **{"nesterov": False, "cautious": False, "update_clip": None},
    **{"cautious_decay": False, "decay_by": "lr", "max_lr": None},
    **{"grad_averaging": True, "adam_w_mode": True, "always_adapt": False, "trust_clip": False},
}

State = dict[str, Any]


def older(names: Container[str]) -> dict[int, Callable[[State], State]]:
    """For each earlier format what makes a state of it one of this, with these settings."""
    then = {name: value for name, value in _SINCE_3.items() if name in names}

    def from_3(state: State) -> State:
        if isinstance(settings := state.get("settings"), dict):
            state["settings"] = {**then, **settings}
        return state

    return {2: lambda state: from_3(_from_2(state)), 3: from_3}


def _from_2(state: State) -> State:
    """A state of format 2 as one of format 3: limits stand among the settings."""
    try:
        settings = state["settings"]
        settings.update({name: state.pop(name) for name in ("clip_norm", "clip_value")})
        for values in (settings, *(group["settings"] for group in state["groups"])):
            if "decoupled" in values:
                values["decoupled_weight_decay"] = values.pop("decoupled")
    except (AttributeError, KeyError, TypeError):
        raise ValueError("saved 2, and the rest is not in that form") from None
    return state
