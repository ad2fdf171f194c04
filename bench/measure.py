"""Timing several contestants within one run, in turns, so that what disturbs one disturbs all."""

from __future__ import annotations

import gc
import itertools
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Step = Callable[[], object]


@dataclass(frozen=True)
class Effort:
    """How long to measure: what all rounds of one comparison may take, and how many there are."""

    seconds: float
    fewest: int
    most: int
    batch_seconds: float  # steps shorter than this are timed several at once


FULL = Effort(seconds=8.0, fewest=7, most=41, batch_seconds=0.01)
QUICK = Effort(seconds=0.2, fewest=3, most=5, batch_seconds=0.001)


@dataclass(frozen=True)
class Timing:
    """Seconds for one step: the median over rounds, and the quartiles."""

    median: float
    lower: float
    upper: float
    rounds: int
    batch: int


def in_turns(
    steps: Mapping[str, Step], effort: Effort, before: Mapping[str, Step] | None = None
) -> dict[str, Timing]:
    """Times all steps in every round, each time beginning with another.

    ``before[name]``, if given, is called ahead of that contestant's turn, untimed.
    """
    prepare = before or {}
    batches: dict[str, int] = {}
    turn_seconds = 0.0
    for name, step in steps.items():
        prepare.get(name, _nothing)()
        batches[name], once = _batch(step, effort.batch_seconds)
        turn_seconds += 1.1 * batches[name] * once + 0.005
    rounds = int(min(max(effort.seconds / turn_seconds, effort.fewest), effort.most))

    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                prepare.get(name, _nothing)()
                _settle()
                _run(steps[name], max(1, batches[name] // 10))
                seconds[name].append(_run(steps[name], batches[name]) / batches[name])
    finally:
        if collecting:
            gc.enable()
    return {name: timing(seconds[name], batches[name]) for name in names}


def singly(steps: Mapping[str, Step], rounds: int, before: Mapping[str, Step]) -> dict[str, Timing]:
    """Times one run of each step in every round, in any order: for steps of a second or so.

    ``before[name]``, if given, is called ahead of that contestant's turn, untimed.
    """
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in random.Random(turn).sample(names, len(names)):
            before.get(name, _nothing)()
            seconds[name].append(_run(steps[name], 1))
    return {name: timing(seconds[name], 1) for name in names}


def _nothing() -> None:
    pass


def _run(step: Step, times: int) -> float:
    begin = time.perf_counter()
    for _ in itertools.repeat(None, times):
        step()
    return time.perf_counter() - begin


def _batch(step: Step, batch_seconds: float) -> tuple[int, float]:
    """How many steps fill a batch, and about how long one takes."""
    _settle()
    times = 1
    while True:
        once = min(_run(step, times) for _ in range(3)) / times
        if once * times >= batch_seconds / 2:
            return max(1, round(batch_seconds / once)), once
        times *= 2


def _settle() -> None:
    """Waits until no other thread computes.

    OpenMP's threads, and others, go on spinning for milliseconds after their work is done, and
    would take a core from whoever comes next.
    """
    for _ in range(50):
        spent = time.process_time()
        time.sleep(0.001)
        if time.process_time() - spent < 0.0002:
            return


def timing(seconds: list[float], batch: int) -> Timing:
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(median, lower, upper, rounds=len(seconds), batch=batch)
