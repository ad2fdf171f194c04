"""What the optimizers under test have by default, as the oracle wants it."""

from __future__ import annotations

SGD = {
    "lr": 1e-3,
    "momentum": 0.0,
    "dampening": 0.0,
    "nesterov": False,
    "weight_decay": 0.0,
    "decoupled_weight_decay": False,
    "maximize": False,
}
ADAM = {
    "lr": 1e-3,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.0,
    "amsgrad": False,
    "bias_correction": True,
    "eps_mode": "after",
    "maximize": False,
}
FAMILY = ADAM.copy()
ADAM |= {"nesterov": False, "cautious": False, "update_clip": None}
ADAMW = {
    **ADAM,
    "weight_decay": 0.01,
    "cautious_decay": False,
    "decay_by": "lr",
    "max_lr": None,
}
BELIEF = {**FAMILY, "eps": 1e-16, "eps_root": 1e-16, "decoupled_weight_decay": False}
NADAM = {
    "lr": 2e-3,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.0,
    "momentum_decay": 4e-3,
    "decoupled_weight_decay": False,
    "maximize": False,
}
RADAM = {
    "lr": 1e-3,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.0,
    "decoupled_weight_decay": False,
    "eps_mode": "hat",
    "maximize": False,
}
ADOPT = {
    "lr": 1e-3,
    "betas": (0.9, 0.9999),
    "eps": 1e-6,
    "weight_decay": 0.0,
    "clip_exp": 0.25,
    "decoupled_weight_decay": False,
    "maximize": False,
}
ADEMAMIX = {
    "lr": 1e-3,
    "betas": (0.9, 0.999, 0.9999),
    "alpha": 5.0,
    "eps": 1e-8,
    "weight_decay": 0.01,
    "maximize": False,
}
SCHEDULE_FREE = {
    "weight_decay": 0.0,
    "warmup_steps": 0.0,
    "r": 0.0,
    "weight_lr_power": 2.0,
    "maximize": False,
}
SCHEDULE_FREE_SGD = {"lr": 1.0, "momentum": 0.9, **SCHEDULE_FREE}
SCHEDULE_FREE_ADAMW = {"lr": 2.5e-3, "betas": (0.9, 0.999), "eps": 1e-8, **SCHEDULE_FREE}
LION = {
    "lr": 1e-4,
    "betas": (0.9, 0.99),
    "weight_decay": 0.0,
    "cautious": False,
    "maximize": False,
}
RMSPROP = {
    "lr": 1e-2,
    "alpha": 0.99,
    "eps": 1e-8,
    "weight_decay": 0.0,
    "momentum": 0.0,
    "centered": False,
    "eps_in_sqrt": False,
    "lr_in_momentum": False,
    "initial_accumulator_value": 0.0,
    "decoupled_weight_decay": False,
    "maximize": False,
}
ADAGRAD = {
    "lr": 1e-2,
    "lr_decay": 0.0,
    "eps": 1e-10,
    "weight_decay": 0.0,
    "eps_in_sqrt": False,
    "initial_accumulator_value": 0.0,
    "decoupled_weight_decay": False,
    "maximize": False,
}
ADAMAX = {
    "lr": 2e-3,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.0,
    "eps_mode": "max",
    "decoupled_weight_decay": False,
    "maximize": False,
}
ADADELTA = {
    "lr": 1.0,
    "rho": 0.9,
    "eps": 1e-6,
    "weight_decay": 0.0,
    "decoupled_weight_decay": False,
    "maximize": False,
}
RPROP = {"lr": 1e-2, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0), "maximize": False}
LAMB = {
    "lr": 1e-3,
    "betas": (0.9, 0.999),
    "eps": 1e-6,
    "weight_decay": 0.01,
    "bias_correction": True,
    "grad_averaging": True,
    "adam_w_mode": True,
    "always_adapt": False,
    "trust_clip": False,
    "maximize": False,
}
LARS = {
    "lr": 1.0,
    "momentum": 0.0,
    "dampening": 0.0,
    "nesterov": False,
    "weight_decay": 0.0,
    "trust_coefficient": 1e-3,
    "eps": 1e-8,
    "trust_clip": False,
    "always_adapt": False,
    "maximize": False,
}
STABLE = {
    "lr": 1e-3,
    "betas": (0.9, 0.99),
    "eps": 1e-6,
    "weight_decay": 0.01,
    "decay_by": "lr",
    "max_lr": None,
    "maximize": False,
}
