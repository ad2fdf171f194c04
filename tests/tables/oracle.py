"""The update rules in NumPy: the same operations in the same order, so results compare with ==.

Scalars are formed in double and rounded once to the compute type; array arithmetic stays in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext
from functools import cache
from typing import Any

import numpy as np

from . import roots
from .norms import clip_factor, clipped_in_units, lane_sum, multiplied, scaled_norm
from .updates import Array, State, decay_factor, power
from .updates import decayed as _decayed


def sgd(h: dict[str, Any], t: int, p: Array, g: Array, state: State) -> Array:
    real = p.dtype.type
    p, g = _decayed(h, h["decoupled_weight_decay"], p, g)
    if h["momentum"] != 0:
        mu = real(h["momentum"])
        b = g if t == 1 else mu * state["momentum"] + real(1.0 - h["dampening"]) * g
        state["momentum"] = b
        g = g + mu * b if h["nesterov"] else b
    return p - real(h["lr"]) * g


def adam(
    h: dict[str, Any], t: int, p: Array, g: Array, state: State, belief: bool = False
) -> Array:
    real = p.dtype.type
    before = p
    beta1, beta2 = h["betas"]
    c1 = root_c2 = 1.0
    if h["bias_correction"]:
        c1 = 1.0 - power(beta1, t)
        root_c2 = math.sqrt(1.0 - power(beta2, t))
    hat = h["eps_mode"] == "hat"
    step = real(h["lr"] * root_c2 / c1 if hat else h["lr"] / c1)
    correction = real(1.0 if hat else 1.0 / root_c2)
    p, g = _decayed(h, h["decoupled_weight_decay"], p, g)
    m, v = state["m"], state["v"]
    m = m + real(1.0 - beta1) * (g - m)
    if belief:
        v = (real(beta2) * v + real(1.0 - beta2) * ((g - m) * (g - m))) + real(h["eps_root"])
    else:
        v = real(beta2) * v + real(1.0 - beta2) * (g * g)
    state["m"], state["v"] = m, v
    if h["amsgrad"]:
        v = state["v_max"] = np.maximum(state["v_max"], v)
    d = np.sqrt(v) * correction + real(h["eps"])
    if h.get("nesterov"):
        m = m + real(1.0 - beta1) * (g - m)
    keeps = np.ones(g.shape, bool)
    length = np.float64(step)
    if h.get("update_clip") is not None and g.size > 0:
        squares = lane_sum((g / d).astype(np.float64).ravel() ** 2)
        excess = math.sqrt(squares / g.size) / float(real(h["update_clip"]))
        length = length / excess if excess > 1.0 else length
    if h.get("cautious") and g.size > 0:
        keeps = m * g > 0
        length = length * (g.size / max(float(np.count_nonzero(keeps)), 1e-3 * g.size))
    if h.get("cautious_decay"):
        towards_zero = ((m > 0) & (before > 0)) | ((m < 0) & (before < 0))
        p = np.where(towards_zero, p, before)
    return p - np.where(keeps, real(length) * m / d, real(0))


def adabelief(h: dict[str, Any], t: int, p: Array, g: Array, state: State) -> Array:
    return adam(h, t, p, g, state, belief=True)


@cache
def raised(base: float, exponent: float) -> float:
    """A power with any exponent, rounded once; 0^0 is 1."""
    if exponent == 0:
        return 1.0
    with localcontext() as context:
        context.prec = 60
        return float(Decimal.from_float(base) ** Decimal(exponent))


def nadam(h: dict[str, Any], t: int, p: Array, g: Array, state: State) -> Array:
    real = p.dtype.type
    beta1, beta2 = h["betas"]
    mu, next_mu = (
        beta1 * (1.0 - 0.5 * raised(0.96, number * h["momentum_decay"])) for number in (t, t + 1)
    )
    product = state.handed_on["mu_product"] = state.handed_on.get("mu_product", 1.0) * mu
    correction = real(1.0 / math.sqrt(1.0 - power(beta2, t)))
    gradient_step = real(h["lr"] * (1.0 - mu) / (1.0 - product))
    momentum_step = real(h["lr"] * next_mu / (1.0 - product * next_mu))
    p, g = _decayed(h, h["decoupled_weight_decay"], p, g)
    m = state["m"] = state["m"] + real(1.0 - beta1) * (g - state["m"])
    v = state["v"] = real(beta2) * state["v"] + real(1.0 - beta2) * (g * g)
    d = np.sqrt(v) * correction + real(h["eps"])
    return p - (gradient_step * g + momentum_step * m) / d


def radam(h: dict[str, Any], t: int, p: Array, g: Array, state: State) -> Array:
    real = p.dtype.type
    beta1, beta2 = h["betas"]
    c1, c2 = 1.0 - power(beta1, t), 1.0 - power(beta2, t)
    longest = 2.0 / (1.0 - beta2) - 1.0
    n = longest - 2.0 * t * power(beta2, t) / c2
    p, g = _decayed(h, h["decoupled_weight_decay"], p, g)
    m = state["m"] = state["m"] + real(1.0 - beta1) * (g - state["m"])
    v = state["v"] = real(beta2) * state["v"] + real(1.0 - beta2) * (g * g)
    if n <= 5.0:
        return p - real(h["lr"] / c1) * m
    r = math.sqrt((n - 4.0) * (n - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * n))
    hat = h["eps_mode"] == "hat"
    step = real(h["lr"] * r * math.sqrt(c2) / c1 if hat else h["lr"] * r / c1)
    return p - step * m / (np.sqrt(v) * real(1.0 if hat else 1.0 / math.sqrt(c2)) + real(h["eps"]))


def adopt(h: dict[str, Any], t: int, p: Array, g: Array, state: State) -> Array:
    real = p.dtype.type
    beta1, beta2 = h["betas"]
    decoupled = h["decoupled_weight_decay"]
    if t == 1:
        state["v"] = g * g if decoupled else _decayed(h, False, p, g)[1] ** 2
        return p
    p, g = _decayed(h, decoupled, p, g)
    u = g / np.maximum(np.sqrt(state["v"]), real(h["eps"]))
    largest = np.finfo(real).max
    if h["clip_exp"] is not None:
        largest = real(min(raised(t - 1.0, h["clip_exp"]), float(largest)))
    u = np.minimum(np.maximum(u, -largest), largest)
    m = state["m"] = state["m"] + real(1.0 - beta1) * (u - state["m"])
    state["v"] = real(beta2) * state["v"] + real(1.0 - beta2) * (g * g)
    return p - real(h["lr"]) * m


def ademamix(h: dict[str, Any], t: int, p: Array, g: Array, state: State) -> Array:
    real = p.dtype.type
    beta1, beta2, beta3 = h["betas"]
    p, g = _decayed(h, True, p, g)
    m = state["m"] = state["m"] + real(1.0 - beta1) * (g - state["m"])
    slow = state["m_slow"] = state["m_slow"] + real(1.0 - beta3) * (g - state["m_slow"])
    v = state["v"] = real(beta2) * state["v"] + real(1.0 - beta2) * (g * g)
    d = np.sqrt(v) * real(1.0 / math.sqrt(1.0 - power(beta2, t))) + real(h["eps"])
    return p - (real(h["lr"] / (1.0 - power(beta1, t))) * m + real(h["lr"] * h["alpha"]) * slow) / d


def _moved(h: dict[str, Any], t: int, beta1: float, y: Array, u: Array, state: State) -> Array:
    """What the two Schedule-Free rules do with their update."""
    real, kept = y.dtype.type, state.handed_on
    lr = h["lr"] * (t / h["warmup_steps"]) if t < h["warmup_steps"] else h["lr"]
    kept["lr_max"] = max(lr, kept.get("lr_max", 0.0))
    weight = raised(float(t), h["r"]) * raised(kept["lr_max"], h["weight_lr_power"])
    kept["weight_sum"] = kept.get("weight_sum", 0.0) + weight
    share = weight / kept["weight_sum"] if kept["weight_sum"] != 0 else 0.0
    u = u + real(h["weight_decay"]) * y
    y = y + real(share) * (state["z"] - y)
    state["z"] = state["z"] - real(lr) * u
    return y - real(lr * (1.0 - beta1 * (1.0 - share))) * u


def schedule_free_sgd(h: dict[str, Any], t: int, p: Array, g: Array, state: State) -> Array:
    return _moved(h, t, h["momentum"], p, g, state)


def schedule_free_adamw(h: dict[str, Any], t: int, p: Array, g: Array, state: State) -> Array:
    real = p.dtype.type
    beta1, beta2 = h["betas"]
    v = state["v"] = real(beta2) * state["v"] + real(1.0 - beta2) * (g * g)
    d = np.sqrt(v) * real(1.0 / math.sqrt(1.0 - power(beta2, t))) + real(h["eps"])
    return _moved(h, t, beta1, p, g / d, state)


def schedule_free_average(beta1: float, y: Array, z: Array) -> Array:
    return (z - y) * y.dtype.type(1.0 - 1.0 / beta1) + y


def lars(h: dict[str, Any], t: int, p: Array, g: Array, state: State) -> Array:
    real = p.dtype.type
    decay, lr = real(h["weight_decay"]), real(h["lr"])
    if h["weight_decay"] != 0 or h["always_adapt"]:
        sizes, slopes = (lane_sum(x.astype(np.float64).ravel() ** 2) for x in (p, g))
        ratio = np.float64(1.0)
        if sizes > 0 and slopes > 0:
            size, slope = (np.float64(math.sqrt(x)) for x in (sizes, slopes))
            below = slope + np.float64(decay) * size + np.float64(real(h["eps"]))
            ratio = np.float64(real(h["trust_coefficient"])) * size / below
        if h["trust_clip"]:
            ratio = ratio / np.float64(lr) if ratio < lr else np.float64(1.0)
        g = (g + decay * p) * real(ratio)
    if h["momentum"] != 0:
        mu = real(h["momentum"])
        b = g if t == 1 else mu * state["momentum"] + real(1.0 - h["dampening"]) * g
        state["momentum"] = b
        g = g + mu * b if h["nesterov"] else b
    return p - lr * g


def stable_adamw(h: dict[str, Any], t: int, p: Array, g: Array, state: State) -> Array:
    real = p.dtype.type
    beta1, beta2 = h["betas"]
    rate1 = (1.0 - beta1) / (1.0 - power(beta1, t))
    rate2 = (1.0 - beta2) / (1.0 - power(beta2, t))
    m = state["m"] = state["m"] + real(rate1) * (g - state["m"])
    v = state["v"] = real(1.0 - rate2) * state["v"] + real(rate2) * (g * g)
    lr = np.float64(real(h["lr"]))
    decay = np.float64(real(h["weight_decay"] * decay_factor(h)))
    if g.size > 0:
        ratios = (g * g / np.maximum(v, real(h["eps"] * h["eps"]))).astype(np.float64)
        rms = math.sqrt(lane_sum(ratios.ravel()) / g.size)
        lr = lr / rms if rms > 1.0 else lr
    p = p * real(1.0 - lr * decay)
    return p - real(lr) * m / (np.sqrt(v) + real(h["eps"]))


def lamb(h: dict[str, Any], t: int, p: Array, g: Array, state: State) -> Array:
    real = p.dtype.type
    coupled = h["weight_decay"] != 0 and not h["adam_w_mode"]
    g = g + real(h["weight_decay"]) * p if coupled else g
    weight = real(1.0 if h["grad_averaging"] else 1.0 / (1.0 - h["betas"][0]))
    beta1, beta2 = h["betas"]
    c1 = root_c2 = 1.0
    if h["bias_correction"]:
        c1 = 1.0 - power(beta1, t)
        root_c2 = math.sqrt(1.0 - power(beta2, t))
    m = state["m"] = state["m"] + real(1.0 - beta1) * (g * weight - state["m"])
    v = state["v"] = real(beta2) * state["v"] + real(1.0 - beta2) * (g * g)
    u = real(1.0 / c1) * m / (np.sqrt(v) * real(1.0 / root_c2) + real(h["eps"]))
    step = real(h["lr"])
    if h["weight_decay"] != 0 or h["always_adapt"]:
        u = u + real(h["weight_decay"]) * p if h["weight_decay"] != 0 and not coupled else u
        sizes, lengths = (lane_sum(x.astype(np.float64).ravel() ** 2) for x in (p, u))
        if sizes > 0 and lengths > 0:
            ratio = np.float64(math.sqrt(sizes)) / math.sqrt(lengths)
            clips = h["trust_clip"] and ratio > 1.0
            step = step if clips else real(np.float64(step) * ratio)
    return p - step * u


UPDATES: dict[str, Callable[..., Array]] = {
    "sgd": sgd,
    "adam": adam,
    "adabelief": adabelief,
    "nadam": nadam,
    "radam": radam,
    "adopt": adopt,
    "ademamix": ademamix,
    "schedule_free_sgd": schedule_free_sgd,
    "schedule_free_adamw": schedule_free_adamw,
    **roots.UPDATES,
    "lamb": lamb,
    "lars": lars,
    "stable_adamw": stable_adamw,
}


def _of_sgd(h: dict[str, Any]) -> list[str]:
    return ["momentum"] if h["momentum"] != 0 else []


def _of_adam(h: dict[str, Any]) -> list[str]:
    return ["m", "v", "v_max"] if h.get("amsgrad") else ["m", "v"]


# the names of the arrays that each rule keeps for a parameter
STATES = {
    "sgd": _of_sgd,
    "adam": _of_adam,
    "adabelief": _of_adam,
    "nadam": _of_adam,
    "radam": _of_adam,
    "adopt": _of_adam,
    "ademamix": lambda h: ["m", "m_slow", "v"],
    "schedule_free_sgd": lambda h: ["z"],
    "schedule_free_adamw": lambda h: ["z", "v"],
    **roots.STATES,
    "lamb": _of_adam,
    "lars": _of_sgd,
    "stable_adamw": _of_adam,
}
# those that begin as something else than zeros
FIRST: dict[str, Callable[[Array], Array]] = {"z": np.copy}


def states(rule: str, h: dict[str, Any]) -> list[str]:
    return STATES[rule](h)


class Oracle:
    """A model updated by NumPy alone, with averages where there is a decay."""

    def __init__(
        self,
        rule: str,
        options: dict[str, Any],
        params: Sequence[Array],
        ema: float | None = None,
        ema_every: int = 1,
        agc: float | None = None,
        agc_eps: float = 1e-3,
    ) -> None:
        self.rule, self.h = rule, options
        self.params = [p.copy() for p in params]
        names = states(rule, options)
        self.state = [
            State({name: FIRST.get(name, np.zeros_like)(p) for name in names}) for p in params
        ]
        self.updates = [0] * len(self.params)
        self.ema: list[float | None] = [ema] * len(self.params)
        self.ema_every = ema_every
        self.agc: list[float | None] = [agc] * len(self.params)
        self.agc_eps = agc_eps
        self.agc_axes = [0] * len(self.params)
        self.averages = [p.copy() for p in params]

    def step(
        self,
        grads: Sequence[Array | None],
        *,
        grad_scale: float = 1.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> float:
        """One step; returns the norm of the gradients before clipping."""
        with np.errstate(all="ignore"):
            scaled, shift = scaled_norm(grads, [p.size for p in self.params], grad_scale)
            norm = float(np.float64(scaled) / shift)
            factor = 1.0 if clip_norm is None else clip_factor(clip_norm, scaled, shift)
            if self.h["maximize"]:
                factor = -factor
            for i, g in enumerate(grads):
                if g is None:
                    continue
                real = g.dtype.type
                if grad_scale != 1.0:
                    g = g / real(grad_scale)
                g = multiplied(g, factor)
                if clip_value is not None:
                    limit = real(clip_value)
                    g = np.where(g < -limit, -limit, g)
                    g = np.where(g > limit, limit, g)
                agc = self.agc[i]
                if agc is not None:
                    axis = self.agc_axes[i]
                    g = clipped_in_units(self.params[i], g, agc, self.agc_eps, axis)
                self.updates[i] += 1
                self.params[i] = UPDATES[self.rule](
                    self.h, self.updates[i], self.params[i], g, self.state[i]
                )
                self._average(i)
        return norm

    def _average(self, i: int) -> None:
        decay, p, n = self.ema[i], self.params[i], self.updates[i]
        if decay is None or n % self.ema_every != 0:
            return
        rate = p.dtype.type(1.0 if n == self.ema_every else 1.0 - decay)
        if rate == 1:
            self.averages[i] = p.copy()
        elif rate != 0:
            self.averages[i] = self.averages[i] + rate * (p - self.averages[i])
