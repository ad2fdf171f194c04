"""Rules that go by signs, or by sums and averages of squares, in NumPy: see oracle.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .updates import Array, State, decayed, power


def _sign(x: Array) -> Array:
    """A zero keeps its own."""
    return np.where(x > 0, x.dtype.type(1), np.where(x < 0, x.dtype.type(-1), x))


def _root(h: dict[str, Any], x: Array) -> Array:
    eps = x.dtype.type(h["eps"])
    return np.sqrt(x + eps) if h["eps_in_sqrt"] else np.sqrt(x) + eps


def lion(h: dict[str, Any], t: int, p: Array, g: Array, state: State) -> Array:
    real = p.dtype.type
    beta1, beta2 = h["betas"]
    p, g = decayed(h, True, p, g)
    m = state["m"]
    state["m"] = m + real(1.0 - beta2) * (g - m)
    u = _sign(m + real(1.0 - beta1) * (g - m))
    if not h["cautious"] or g.size == 0:
        return p - real(h["lr"]) * u
    keeps = u * g > 0
    scale = g.size / max(float(np.count_nonzero(keeps)), 1e-3 * g.size)
    return p - np.where(keeps, real(np.float64(real(h["lr"])) * scale) * u, real(0))


def rmsprop(h: dict[str, Any], t: int, p: Array, g: Array, state: State) -> Array:
    real = p.dtype.type
    p, g = decayed(h, h["decoupled_weight_decay"], p, g)
    kept, rate = real(h["alpha"]), real(1.0 - h["alpha"])
    v = np.full_like(p, h["initial_accumulator_value"]) if t == 1 else state["v"]
    second = state["v"] = kept * v + rate * (g * g)
    if h["centered"]:
        m = state["m"] = state["m"] + rate * (g - state["m"])
        second = np.maximum(second - m * m, real(0))
    d = _root(h, second)
    if h["momentum"] == 0:
        return p - real(h["lr"]) * g / d
    mu = real(h["momentum"])
    if h["lr_in_momentum"]:
        b = state["momentum"] = mu * state["momentum"] + real(h["lr"]) * g / d
        return p - b
    b = state["momentum"] = mu * state["momentum"] + g / d
    return p - real(h["lr"]) * b


def adagrad(h: dict[str, Any], t: int, p: Array, g: Array, state: State) -> Array:
    lr = h["lr"] / (1.0 + (t - 1) * h["lr_decay"])
    p, g = decayed({**h, "lr": lr}, h["decoupled_weight_decay"], p, g)
    total = np.full_like(p, h["initial_accumulator_value"]) if t == 1 else state["sum"]
    total = state["sum"] = total + g * g
    return p - p.dtype.type(lr) * g / _root(h, total)


def adamax(h: dict[str, Any], t: int, p: Array, g: Array, state: State) -> Array:
    real = p.dtype.type
    beta1, beta2 = h["betas"]
    eps, after = real(h["eps"]), h["eps_mode"] == "after"
    p, g = decayed(h, h["decoupled_weight_decay"], p, g)
    m = state["m"] = state["m"] + real(1.0 - beta1) * (g - state["m"])
    u = np.maximum(real(beta2) * state["u"], np.abs(g) if after else np.abs(g) + eps)
    state["u"] = u
    return p - real(h["lr"] / (1.0 - power(beta1, t))) * m / (u + eps if after else u)


def adadelta(h: dict[str, Any], t: int, p: Array, g: Array, state: State) -> Array:
    real = p.dtype.type
    kept, rate, eps = real(h["rho"]), real(1.0 - h["rho"]), real(h["eps"])
    p, g = decayed(h, h["decoupled_weight_decay"], p, g)
    v = state["v"] = kept * state["v"] + rate * (g * g)
    delta = np.sqrt(state["acc_delta"] + eps) / np.sqrt(v + eps) * g
    state["acc_delta"] = kept * state["acc_delta"] + rate * (delta * delta)
    return p - real(h["lr"]) * delta


def rprop(h: dict[str, Any], t: int, p: Array, g: Array, state: State) -> Array:
    real = p.dtype.type
    smaller, larger = map(real, h["etas"])
    least, most = map(real, h["step_sizes"])
    size = np.full_like(p, h["lr"]) if t == 1 else state["step_size"]
    product = g * state["previous"]
    size = size * np.where(product > 0, larger, np.where(product < 0, smaller, real(1)))
    size = state["step_size"] = np.minimum(np.maximum(size, least), most)
    g = state["previous"] = np.where(product < 0, real(0), g)
    return p - _sign(g) * size


UPDATES: dict[str, Callable[..., Array]] = {
    "lion": lion,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
    "adamax": adamax,
    "adadelta": adadelta,
    "rprop": rprop,
}


def _of_rmsprop(h: dict[str, Any]) -> list[str]:
    return ["v", *["m"] * h["centered"], *["momentum"] * (h["momentum"] != 0)]


STATES: dict[str, Callable[..., list[str]]] = {
    "lion": lambda h: ["m"],
    "rmsprop": _of_rmsprop,
    "adagrad": lambda h: ["sum"],
    "adamax": lambda h: ["m", "u"],
    "adadelta": lambda h: ["v", "acc_delta"],
    "rprop": lambda h: ["step_size", "previous"],
}
