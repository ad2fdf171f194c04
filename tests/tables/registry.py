"""The table of rules under test: every rule with every option away from its default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import fusestep as fs

from . import defaults

# settings that a class decides for its user, and the oracle has to be told
_DECIDED = {"Adam": {"decoupled_weight_decay": False}, "AdamW": {"decoupled_weight_decay": True}}


@dataclass(frozen=True)
class Row:
    """One optimizer with some options; ``full`` are all its settings, as the oracle wants them."""

    rule: str
    optimizer: type[fs.optim.Optimizer]
    defaults: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def full(self) -> dict[str, Any]:
        decided = _DECIDED.get(self.optimizer.__name__, {})
        return {**self.defaults, **self.options, **decided}

    @property
    def id(self) -> str:
        options = "-".join(f"{k}={v}" for k, v in self.options.items())
        return f"{self.optimizer.__name__}-{options}" if options else self.optimizer.__name__

    def build(self, params: Any, **more: Any) -> fs.optim.Optimizer:
        return self.optimizer(params, **{**self.options, **more})


def _rows(
    rule: str, optimizer: Any, defaults: dict[str, Any], *options: dict[str, Any]
) -> list[Row]:
    return [Row(rule, optimizer, defaults, o) for o in ({}, *options)]


ROWS: list[Row] = [
    *_rows(
        "sgd",
        fs.SGD,
        defaults.SGD,
        {"lr": 0.3, "weight_decay": 0.1},
        {"lr": 0.3, "weight_decay": 0.1, "decoupled_weight_decay": True},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.85, "weight_decay": 0.02},
        {"lr": 0.1, "momentum": 0.7, "nesterov": True},
        {"lr": 0.1, "momentum": 0.7, "nesterov": True, "weight_decay": 0.02},
        {
            "lr": 0.1,
            "momentum": 0.7,
            "nesterov": True,
            "weight_decay": 0.02,
            "decoupled_weight_decay": True,
        },
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.02, "maximize": True},
    ),
    *_rows(
        "adam",
        fs.Adam,
        defaults.ADAM,
        {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.1},
        {"lr": 0.02, "amsgrad": True},
        {"lr": 0.02, "amsgrad": True, "weight_decay": 0.1, "maximize": True},
        {"lr": 0.02, "bias_correction": False, "eps": 1e-3},
        {"lr": 0.02, "eps_mode": "hat", "eps": 1e-7},
        {"lr": 0.02, "eps_mode": "hat", "bias_correction": False, "amsgrad": True},
        {"lr": 0.02, "nesterov": True, "weight_decay": 0.1},
        {"lr": 0.02, "nesterov": True, "amsgrad": True, "maximize": True},
        {"lr": 0.02, "cautious": True, "weight_decay": 0.1},
        {"lr": 0.02, "update_clip": 0.7, "weight_decay": 0.1, "eps_mode": "hat"},
        {"lr": 0.02, "cautious": True, "update_clip": 1.1, "nesterov": True, "amsgrad": True},
    ),
    *_rows(
        "adam",
        fs.AdamW,
        defaults.ADAMW,
        {"lr": 0.02, "weight_decay": 0.3, "betas": (0.0, 0.5)},
        {"lr": 0.02, "weight_decay": 0.3, "amsgrad": True, "eps_mode": "hat"},
        {"lr": 0.02, "weight_decay": 0.3, "maximize": True, "bias_correction": False},
        {"lr": 0.02, "weight_decay": 0.3, "nesterov": True, "cautious_decay": True},
        {"lr": 0.02, "weight_decay": 0.3, "cautious_decay": True, "amsgrad": True},
        {"lr": 0.02, "weight_decay": 0.3, "cautious": True, "maximize": True},
        {"lr": 0.02, "weight_decay": 0.3, "update_clip": 0.9, "betas": (0.0, 0.5)},
        {
            "lr": 0.02,
            "weight_decay": 0.3,
            "cautious": True,
            "update_clip": 0.8,
            "cautious_decay": True,
            "nesterov": True,
        },
        {"lr": 0.02, "weight_decay": 0.3, "decay_by": "max_lr", "max_lr": 0.05},
        {"lr": 0.02, "weight_decay": 3e-3, "decay_by": "schedule", "max_lr": 0.03},
    ),
    *_rows(
        "adabelief",
        fs.AdaBelief,
        defaults.BELIEF,
        {"lr": 0.02, "weight_decay": 0.1, "eps": 1e-8, "eps_root": 1e-12},
        {"lr": 0.02, "weight_decay": 0.1, "decoupled_weight_decay": True, "amsgrad": True},
        {"lr": 0.02, "bias_correction": False, "eps": 1e-8, "eps_root": 0.0, "maximize": True},
        {"lr": 0.02, "eps_mode": "hat", "betas": (0.5, 0.9)},
    ),
    *_rows(
        "nadam",
        fs.NAdam,
        defaults.NADAM,
        {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.1, "momentum_decay": 0.3},
        {"lr": 0.02, "weight_decay": 0.1, "decoupled_weight_decay": True, "eps": 1e-3},
        {"lr": 0.02, "momentum_decay": 1.0, "weight_decay": 0.1, "maximize": True},
        {"lr": 0.02, "betas": (0.0, 0.5), "momentum_decay": 0.0},
    ),
    *_rows(
        "radam",
        fs.RAdam,
        defaults.RADAM,
        {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.1, "eps": 1e-3},
        {"lr": 0.02, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
        {"lr": 0.02, "eps_mode": "after", "betas": (0.5, 0.9), "weight_decay": 0.1},
        {"lr": 0.02, "betas": (0.9, 0.5)},
    ),
    *_rows(
        "adopt",
        fs.ADOPT,
        defaults.ADOPT,
        {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.1, "clip_exp": 0.333},
        {"lr": 0.02, "weight_decay": 0.1, "decoupled_weight_decay": True, "eps": 1e-2},
        {"lr": 0.02, "clip_exp": None, "betas": (0.5, 0.99), "maximize": True},
        {"lr": 0.02, "clip_exp": 0.0, "weight_decay": 0.1, "maximize": True},
    ),
    *_rows(
        "ademamix",
        fs.AdEMAMix,
        defaults.ADEMAMIX,
        {"lr": 0.02, "betas": (0.8, 0.95, 0.99), "alpha": 2.0, "eps": 1e-3},
        {"lr": 0.02, "betas": (0.5, 0.9, 0.0), "weight_decay": 0.3, "maximize": True},
        {"lr": 0.02, "alpha": 0.0, "weight_decay": 0.0},
    ),
    *_rows(
        "schedule_free_sgd",
        fs.ScheduleFreeSGD,
        defaults.SCHEDULE_FREE_SGD,
        {"lr": 0.3, "momentum": 0.7, "weight_decay": 0.1, "warmup_steps": 4.0},
        {"lr": 0.3, "r": 0.5, "weight_lr_power": 1.5, "weight_decay": 0.02, "maximize": True},
        {"lr": 0.3, "warmup_steps": 3.0, "weight_lr_power": 0.0, "r": 2.0},
    ),
    *_rows(
        "schedule_free_adamw",
        fs.ScheduleFreeAdamW,
        defaults.SCHEDULE_FREE_ADAMW,
        {"lr": 0.02, "betas": (0.7, 0.95), "weight_decay": 0.1, "warmup_steps": 4.0, "eps": 1e-3},
        {"lr": 0.02, "r": 0.5, "weight_lr_power": 1.5, "weight_decay": 0.1, "maximize": True},
    ),
    *_rows(
        "lion",
        fs.Lion,
        defaults.LION,
        {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.3},
        {"lr": 0.02, "betas": (0.0, 0.0), "weight_decay": 0.1, "maximize": True},
        {"lr": 0.02, "weight_decay": 0.3, "cautious": True},
    ),
    *_rows(
        "rmsprop",
        fs.RMSprop,
        defaults.RMSPROP,
        {"lr": 0.02, "alpha": 0.9, "weight_decay": 0.1},
        {"lr": 0.02, "centered": True, "eps": 1e-3, "weight_decay": 0.1, "maximize": True},
        {"lr": 0.02, "momentum": 0.7, "weight_decay": 0.1},
        {"lr": 0.02, "momentum": 0.7, "centered": True, "weight_decay": 0.1},
        {"lr": 0.02, "centered": True, "eps_in_sqrt": True, "alpha": 0.5},
        {"lr": 0.02, "momentum": 0.7, "centered": True, "initial_accumulator_value": 0.5},
        {
            "lr": 0.02,
            "alpha": 0.9,
            "eps": 1e-7,
            "weight_decay": 0.1,
            "momentum": 0.9,
            "eps_in_sqrt": True,
            "lr_in_momentum": True,
            "initial_accumulator_value": 1.0,
            "decoupled_weight_decay": True,
            "maximize": True,
        },
    ),
    *_rows(
        "adagrad",
        fs.Adagrad,
        defaults.ADAGRAD,
        {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "eps": 1e-3},
        {"lr": 0.1, "eps_in_sqrt": True, "initial_accumulator_value": 0.1, "maximize": True},
        {"lr": 0.1, "lr_decay": 0.5, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    *_rows(
        "adamax",
        fs.Adamax,
        defaults.ADAMAX,
        {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.1, "eps": 1e-3},
        {"lr": 0.02, "eps_mode": "after", "weight_decay": 0.1, "maximize": True},
        {"lr": 0.02, "betas": (0.0, 0.5), "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    *_rows(
        "adadelta",
        fs.Adadelta,
        defaults.ADADELTA,
        {"lr": 0.5, "rho": 0.95, "eps": 1e-3, "weight_decay": 0.1, "maximize": True},
        {"lr": 0.5, "rho": 0.5, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    *_rows(
        "rprop",
        fs.Rprop,
        defaults.RPROP,
        {"lr": 0.1, "etas": (0.25, 1.5), "step_sizes": (0.01, 0.2)},
        {"lr": 0.1, "etas": (0.7, 1.3), "maximize": True},
    ),
    *_rows(
        "lamb",
        fs.LAMB,
        defaults.LAMB,
        {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.3, "eps": 1e-3},
        {"lr": 0.02, "weight_decay": 0.0},
        {"lr": 0.02, "bias_correction": False, "weight_decay": 0.1, "maximize": True},
        {"lr": 0.02, "weight_decay": 0.0, "always_adapt": True, "trust_clip": True},
        {"lr": 0.02, "weight_decay": 0.3, "adam_w_mode": False, "grad_averaging": False},
        {"lr": 0.02, "weight_decay": 0.0, "grad_averaging": False},
    ),
    *_rows(
        "lars",
        fs.LARS,
        defaults.LARS,
        {"lr": 0.5, "weight_decay": 0.1, "trust_coefficient": 0.02, "eps": 0.3},
        {"lr": 0.2, "momentum": 0.9, "dampening": 0.85, "weight_decay": 0.1},
        {"lr": 0.2, "momentum": 0.7, "nesterov": True, "trust_clip": True, "weight_decay": 0.1},
        {"lr": 2e-4, "weight_decay": 0.1, "trust_clip": True},
        {
            "lr": 0.2,
            "momentum": 0.7,
            "always_adapt": True,
            "trust_coefficient": 0.5,
            "maximize": True,
        },
    ),
    *_rows(
        "stable_adamw",
        fs.StableAdamW,
        defaults.STABLE,
        {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.3, "eps": 1e-3, "maximize": True},
        {
            "lr": 0.02,
            "betas": (0.0, 0.5),
            "weight_decay": 3e-3,
            "decay_by": "schedule",
            "max_lr": 0.03,
        },
        {"lr": 0.02, "weight_decay": 0.3, "decay_by": "max_lr", "max_lr": 0.05},
    ),
]


def _needs_sums(row: Row) -> bool:
    """Whether results depend on what an array is."""
    h = row.full
    if row.rule in ("lamb", "lars"):
        return bool(h["weight_decay"] != 0 or h["always_adapt"])
    if row.rule == "stable_adamw":
        return True
    return bool(h.get("cautious")) or h.get("update_clip") is not None


SUMMED = [row for row in ROWS if _needs_sums(row)]
# one of each optimizer, with options, for what concerns the machinery around rules
ONE_EACH = list({row.optimizer: row for row in ROWS}.values())
ELEMENTWISE = [row for row in ROWS if not _needs_sums(row)]
