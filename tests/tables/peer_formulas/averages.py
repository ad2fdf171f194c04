"""The decay of averaged weights in several libraries, for update 0, 1, ..."""

from __future__ import annotations

from collections.abc import Callable


def counted(t: int, decay: float, use_num_updates: bool = True) -> float:
    return min(decay, (2 + t) / (11 + t)) if use_num_updates else decay


def within(n: int, come: float, lower: float, upper: float) -> float:
    return 0.0 if n <= 0 else min(max(come, lower), upper)


def powered(n: int, gamma: float, power: float) -> float:
    return 1 - (1 + max(n, 0) / gamma) ** -power


def diffusers(
    t: int,
    decay: float = 0.9999,
    min_decay: float = 0.0,
    update_after_step: int = 0,
    use_ema_warmup: bool = False,
    inv_gamma: float = 1.0,
    power: float = 2 / 3,
) -> float:
    n = max(t - update_after_step, 0)
    come = powered(n, inv_gamma, power) if use_ema_warmup else (1 + n) / (10 + n)
    return within(n, come, min_decay, decay)


def timm(
    t: int,
    decay: float = 0.9999,
    min_decay: float = 0.0,
    update_after_step: int = 0,
    use_warmup: bool = False,
    warmup_gamma: float = 1.0,
    warmup_power: float = 2 / 3,
) -> float:
    n = t - update_after_step
    come = powered(n, warmup_gamma, warmup_power) if use_warmup else decay
    return within(n, come, min_decay, decay)


def ema_pytorch(
    t: int,
    beta: float = 0.9999,
    update_after_step: int = 100,
    inv_gamma: float = 1.0,
    power: float = 2 / 3,
    min_value: float = 0.0,
) -> float:
    n = t - update_after_step
    return within(n, powered(n, inv_gamma, power), min_value, beta)


FORMULAS: dict[str, Callable[..., float]] = {
    "torch_swa": lambda t: t / (t + 1),
    "torch_ema": counted,
    "tensorflow": counted,
    "diffusers": diffusers,
    "timm": timm,
    "ema_pytorch": ema_pytorch,
    "keras": lambda t, ema_momentum=0.99: ema_momentum,
}
