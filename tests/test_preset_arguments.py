"""What presets of other libraries refuse, each argument by its name."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pytest

from fusestep.schedules import presets
from tables.preset_rows import CONTROLS, ROWS

NAMES = [f"{peer}.{name}" for peer in presets.__all__ for name in getattr(presets, peer).__all__]

FINITE = [np.nan, np.inf, -np.inf, None, "1", True, 1j, [1.0]]
LEAST_0, ABOVE_0 = [*FINITE, -1.0], [*FINITE, -1.0, 0.0]
PART, COUNT, LENGTH = [*LEAST_0, 1.1], [*LEAST_0, 1.5], [*LEAST_0, 1.5, 0]
CHOICE, FLAG = ["nonsense", 3, None], [None, 1, "yes"]
LIST = [5, "abc", None, [None], ["1"]]
PAIRS = [5, "ab", [1, 2], [[1, 2, 3]], {0: 1.0}, {1: -1.0}, {"a": 1.0}, {1: "b"}, {1: None}]


def given(values: list[Any]) -> list[Any]:
    """For arguments that may be None."""
    return [value for value in values if value is not None]


# what each argument is, by its name, but for some that are something else in one preset
_KINDS = {
    "base base_lr max_lr eta_min swa_lr value init_value end_value peak_value alpha": FINITE,
    "initial_learning_rate end_learning_rate warmup_target warmup_lr_init lb ub": FINITE,
    "warmup_min_lr warmup_max_lr lr_range_test_min_lr lr_range_test_step_rate": FINITE,
    "cycle_min_lr cycle_max_lr transition_begin transition_steps lr_end": FINITE,
    "gamma power exponent decay_rate lr_min cycle_decay m_mul threshold eps num_cycles": LEAST_0,
    "warmup_t warmup_steps decay_lr_rate decay_step_size": LEAST_0,
    "step_size total_iters T_max T_0 step_size_up step_size_down div_factor": ABOVE_0,
    "final_div_factor t_initial k_decay first_decay_steps timescale inv_gamma": ABOVE_0,
    "warmup_gamma warmup_power cycle_first_step_size cycle_second_step_size": ABOVE_0,
    "decay_t": ABOVE_0,
    "factor start_factor end_factor min_lr_rate min_lr_ratio warmup_lr_rate decay": PART,
    "warmup_min_ratio cos_min_ratio min_decay beta min_value ema_momentum min_lr": PART,
    "num_warmup_steps num_decay_steps num_stable_steps anneal_epochs patience": COUNT,
    "cooldown update_after_step cycle_first_stair_count cycle_second_stair_count": COUNT,
    "warmup reset_start": COUNT,
    "total_steps epochs steps_per_epoch T_mult cycle_limit warmup_num_steps": LENGTH,
    "total_num_steps lr_range_test_step_size num_training_steps window_size": LENGTH,
    "mode scale_mode anneal_strategy threshold_mode warmup_type decay_type": CHOICE,
    "interpolate_type": CHOICE,
    "smooth three_phase warmup_prefix staircase cycle lr_range_test_staircase": FLAG,
    "use_num_updates use_ema_warmup use_warmup": FLAG,
    "cycle_mul t_mul": [*LEAST_0, 0.5, 1.001],
    "pct_start pct_final": [*LEAST_0, 0.0, 1.0, 1.5],
    "lr_lambda scale_fn": ["f", True, [1]],
    "schedulers": [*LIST, [], [1.0]],
    "schedules": [*LIST, [], [1.0]],
    "milestones boundaries": [*LIST, [0], [3, 2], [1, 2, 3, 4]],
    "values": [*LIST, [], [np.nan, 1, 2], [1.0]],
    "boundaries_and_scales": PAIRS,
    "cosine_kwargs": [5, "ab", [], [5], [{}], [{"value": 1}]],
}
KINDS = {name: bad for names, bad in _KINDS.items() for name in names.split()}
SPECIAL: dict[str, list[Any]] = {
    "torch.MultiStepLR.milestones": [*LIST, [-1]],
    "torch.ExponentialLR.gamma": ABOVE_0,
    "torch.CyclicLR.gamma": ABOVE_0,
    "torch.LinearLR.start_factor": [*PART, 0.0],
    "torch.ChainedScheduler.schedulers": [*LIST, []],
    "torch.ChainedScheduler.base": ABOVE_0,
    "torch.ReduceLROnPlateau.base": ABOVE_0,
    "torch.ReduceLROnPlateau.factor": [*PART, 0.0, 1.0],
    "transformers.GreedyLR.base": ABOVE_0,
    "transformers.GreedyLR.factor": [*PART, 0.0, 1.0],
    "transformers.GreedyLR.min_lr": LEAST_0,
    "transformers.GreedyLR.max_lr": [*LEAST_0, 1e-4],
    "transformers.get_reduce_on_plateau_schedule.base": ABOVE_0,
    "transformers.get_reduce_on_plateau_schedule.factor": [*PART, 0.0, 1.0],
    "transformers.get_cosine_with_min_lr_schedule_with_warmup.base": ABOVE_0,
    "transformers.get_cosine_with_min_lr_schedule_with_warmup_lr_rate.base": ABOVE_0,
    "transformers.get_cosine_with_hard_restarts_schedule_with_warmup.num_cycles": LENGTH,
    "transformers.get_polynomial_decay_schedule_with_warmup.lr_end": [*FINITE, 1.0],
    "timm.MultiStepLRScheduler.decay_t": [*LIST, [-1]],
    "keras.ExponentialDecay.decay_rate": ABOVE_0,
    "keras.PiecewiseConstantDecay.boundaries": [*LIST, [], [-1, 1], [3, 2], [1]],
    "optax.warmup_constant_schedule.warmup_steps": FINITE,
    "optax.linear_onecycle_schedule.transition_steps": LENGTH,
    "optax.cosine_onecycle_schedule.transition_steps": LENGTH,
}
# decay_steps is a total in one of them
STEPS = {"optax.warmup_cosine_decay_schedule": [*ABOVE_0, 10.0]}


def preset(name: str) -> Any:
    peer, own = name.split(".")
    return getattr(getattr(presets, peer), own)


def bad_values(name: str, argument: str) -> list[Any]:
    if argument == "decay_steps":
        return STEPS.get(name, ABOVE_0)
    values = SPECIAL.get(f"{name}.{argument}", KINDS[argument])
    default = inspect.signature(preset(name)).parameters[argument].default
    return given(values) if default is None else values


def prefix(name: str) -> str:
    """What an error begins with; a class does not name itself."""
    return "" if isinstance(preset(name), type) else rf"presets\.{name}: "


CASES = [(name, a) for name in NAMES for a in inspect.signature(preset(name)).parameters]


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_a_bad_argument_is_refused_by_name(name: str, argument: str) -> None:
    good: dict[str, Any] = {"base": 0.3}
    if name not in CONTROLS:
        row = next(r for r in ROWS if f"{r.peer}.{r.name}" == name and argument in r.arguments)
        good = row.given()
    accepted, unnamed = [], []
    for bad in bad_values(name, argument):
        try:
            accepted.append((bad, preset(name)(**{**good, argument: bad})))
        except (TypeError, ValueError) as error:
            if not re.search(rf"^{prefix(name)}.*\b{argument}\b", str(error)):
                unnamed.append((bad, str(error)))
    assert (accepted, unnamed) == ([], [])


@pytest.mark.parametrize("name", NAMES)
def test_an_argument_that_there_is_not_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=r"^[\w.]+ has no argument 'last_epoch'"):
        preset(name)(last_epoch=-1)
