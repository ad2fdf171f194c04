"""DeepSpeed's schedulers: update n has the value of batch n - 1, update 0 the least."""

from __future__ import annotations

import math
from collections.abc import Callable

from .shared import wave


def rise(batch: int, warmup_num_steps: int, warmup_type: str) -> float:
    """Of batches before ``warmup_num_steps``, from 0 to 1."""
    if warmup_type == "log":
        return math.log(batch + 1) / math.log(warmup_num_steps)
    return batch / warmup_num_steps


def warmup(
    t: int,
    base: float,
    warmup_min_lr: float = 0.0,
    warmup_max_lr: float | None = None,
    warmup_num_steps: int = 1000,
    warmup_type: str = "log",
) -> float:
    high, length = base if warmup_max_lr is None else warmup_max_lr, max(warmup_num_steps, 2)
    if t == 0:
        return warmup_min_lr
    part = rise(t - 1, length, warmup_type) if t - 1 < length else 1.0
    return warmup_min_lr + (high - warmup_min_lr) * part


def warmup_decay(
    t: int,
    total_num_steps: int,
    warmup_min_lr: float = 0.0,
    warmup_max_lr: float = 0.001,
    warmup_num_steps: int = 1000,
    warmup_type: str = "log",
) -> float:
    length = max(warmup_num_steps, 2)
    if t - 1 < length:
        return warmup(t, 0.0, warmup_min_lr, warmup_max_lr, warmup_num_steps, warmup_type)
    part = max((total_num_steps - (t - 1)) / max(total_num_steps - length, 1), 0)
    return warmup_min_lr + (warmup_max_lr - warmup_min_lr) * part


def warmup_cosine(
    t: int,
    base: float,
    total_num_steps: int,
    warmup_min_ratio: float = 0.0,
    warmup_num_steps: int = 1000,
    cos_min_ratio: float = 1e-4,
    warmup_type: str = "log",
) -> float:
    length = max(warmup_num_steps, 2)
    if t == 0:
        return 0.0
    if t - 1 < length:
        part = rise(t - 1, length, warmup_type)
        return base * (warmup_min_ratio + (1 - warmup_min_ratio) * part)
    x = min((t - length) / max(total_num_steps - length, 1), 1)
    return base * (cos_min_ratio + (1 - cos_min_ratio) * wave(x))


def range_test(
    t: int,
    lr_range_test_min_lr: float = 1e-3,
    lr_range_test_step_size: int = 2000,
    lr_range_test_step_rate: float = 1.0,
    lr_range_test_staircase: bool = False,
) -> float:
    size = lr_range_test_step_size
    spans = t // size if lr_range_test_staircase else t / size
    return lr_range_test_min_lr * (1 + lr_range_test_step_rate * spans)


def one_cycle(
    t: int,
    cycle_min_lr: float,
    cycle_max_lr: float,
    decay_lr_rate: float = 0.0,
    cycle_first_step_size: float = 2000,
    cycle_second_step_size: float | None = None,
    cycle_first_stair_count: int = 0,
    cycle_second_stair_count: int | None = None,
    decay_step_size: float = 0,
) -> float:
    up, down = cycle_first_step_size, cycle_second_step_size or cycle_first_step_size
    if t >= up + down:
        late = (t - up - down) / decay_step_size if decay_step_size else 0.0
        return cycle_min_lr / (1 + decay_lr_rate * late)
    stairs, passed, length = cycle_first_stair_count, float(t), up
    if t > up:
        passed, length = up + down - t, down
        stairs = stairs if cycle_second_stair_count is None else cycle_second_stair_count
    part = math.floor(passed * stairs / length) / stairs if stairs else passed / length
    return cycle_min_lr + (cycle_max_lr - cycle_min_lr) * part


FORMULAS: dict[str, Callable[..., float]] = {
    "WarmupLR": warmup,
    "WarmupDecayLR": warmup_decay,
    "WarmupCosineLR": warmup_cosine,
    "LRRangeTest": range_test,
    "OneCycle": one_cycle,
}
