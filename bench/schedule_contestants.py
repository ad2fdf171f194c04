"""One curve, a warm-up and half a cosine wave, as everybody computes it, and whether they agree."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import fusestep as fs

from .agreement import ADAMW, Contestant, Disagreement
from .contestants import Fusestep, FusestepBound
from .measure import Step
from .models import Problem
from .peers import TorchFused, optax_absent, torch_absent
from .sweeps import activate

Doubles = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]

# torch's LinearLR can't begin at 0
PEAK, START, END, WARMUP = ADAMW.lr, 1e-6, 0.0, 100

# the whole curve for one clock: more steps than torch takes between two rewinds
SHORT = 100_000
LONG = 1_000_000

# of the peak
DOUBLE, FLOAT32 = 1e-12, 1e-5


@dataclass(frozen=True)
class Evaluation:
    """What is timed, and by how much its values are off, in peaks."""

    step: Step
    deviation: Callable[[], float]
    tolerance: float = DOUBLE
    before: Step = lambda: None


@dataclass(frozen=True)
class Entry:
    """A contestant by name; ``absent`` gives the reason why it cannot be here, or nothing."""

    name: str
    build: Callable[[], Evaluation]
    absent: Callable[[], str] = lambda: ""


def warmup_cosine(total: int) -> fs.Expression:
    return fs.schedules.warmup_cosine(peak=PEAK, warmup=WARMUP, total=total, end=END, start=START)


def formula(step: int, total: int) -> float:
    """As people write it in Python."""
    if step < WARMUP:
        return START + (PEAK - START) * step / WARMUP
    x = min((step - WARMUP) / (total - WARMUP), 1.0)
    return END + (PEAK - END) * 0.5 * (1.0 + math.cos(math.pi * x))


def formulas(steps: Steps, total: int) -> Doubles:
    """As people write it in NumPy."""
    rising = START + (PEAK - START) * steps / WARMUP
    x = np.minimum((steps - WARMUP) / (total - WARMUP), 1.0)
    falling = END + (PEAK - END) * 0.5 * (1.0 + np.cos(np.pi * x))
    return np.where(steps < WARMUP, rising, falling)


def assert_within(what: str, deviation: float, allowed: float) -> None:
    if not deviation <= allowed:
        raise Disagreement(f"{what} is off by {deviation:.1e}; at most {allowed:.0e}")


def deviation(found: Any, expected: Doubles, scale: float = PEAK) -> float:
    """NaN, which no tolerance allows, where either is NaN."""
    return float(np.max(np.abs(np.asarray(found, np.float64) - expected))) / scale


# One clock.

_MIDDLE = SHORT // 2
_SOME = np.unique([*range(0, SHORT, SHORT // 200), WARMUP - 1, WARMUP, WARMUP + 1, SHORT - 1])


def _by_step(function: Callable[[Any], Any], expected: Doubles | None = None) -> Evaluation:
    return Evaluation(
        functools.partial(function, _MIDDLE),
        lambda: deviation(
            [function(step) for step in _SOME.tolist()],
            formulas(_SOME, SHORT) if expected is None else expected,
        ),
    )


def _more_nodes() -> Evaluation:
    s = fs.schedules
    rise = s.linear(0.0, PEAK, length=WARMUP)
    restarts = s.cosine_restarts(PEAK, length=WARMUP, t_mult=2)
    factor = s.random(0.9, 1.1, every=10, seed=1)
    later = restarts(np.maximum(_SOME - WARMUP, 0))
    expected = np.where(_SOME < WARMUP, rise(_SOME), later) * factor(_SOME)
    return _by_step(s.sequence([rise, restarts], at=[WARMUP]) * factor, expected)


def _sequential(optimizer: Any, total: int) -> Any:
    torch: Any = importlib.import_module("torch.optim.lr_scheduler")
    rise = torch.LinearLR(optimizer, START / PEAK, total_iters=WARMUP)
    fall = torch.CosineAnnealingLR(optimizer, total - WARMUP, eta_min=END)
    return torch.SequentialLR(optimizer, [rise, fall], [WARMUP])


def _lambda(optimizer: Any, total: int) -> Any:
    torch: Any = importlib.import_module("torch.optim.lr_scheduler")
    return torch.LambdaLR(optimizer, lambda step: formula(step, total) / PEAK)


class _TorchClock:
    """A scheduler with a tiny optimizer, whose own steps are not timed."""

    def __init__(self, scheduler: Callable[[Any, int], Any]) -> None:
        self.new_scheduler = scheduler

    def rewind(self) -> None:
        torch: Any = importlib.import_module("torch")
        parameter = torch.nn.Parameter(torch.zeros(1))
        self.optimizer = torch.optim.SGD([parameter], lr=PEAK)
        self.scheduler = self.new_scheduler(self.optimizer, SHORT)
        self.optimizer.step()  # without which the scheduler warns

    def deviation(self) -> float:
        self.rewind()
        found = np.empty(SHORT)
        for step in range(SHORT):
            found[step] = self.optimizer.param_groups[0]["lr"]
            self.scheduler.step()
        return deviation(found, formulas(np.arange(SHORT), SHORT))


def _torch(scheduler: Callable[[Any, int], Any]) -> Evaluation:
    clock = _TorchClock(scheduler)
    return Evaluation(lambda: clock.scheduler.step(), clock.deviation, before=clock.rewind)


def _optax(total: int) -> Any:
    optax: Any = importlib.import_module("optax")
    return optax.warmup_cosine_decay_schedule(START, PEAK, WARMUP, total, END)


def _optax_clock(jitted: bool) -> Evaluation:
    jax: Any = importlib.import_module("jax")
    schedule = jax.jit(_optax(SHORT)) if jitted else _optax(SHORT)
    middle = jax.numpy.int32(_MIDDLE)
    return Evaluation(
        lambda: schedule(middle).block_until_ready(),
        lambda: deviation(
            [schedule(jax.numpy.int32(step)) for step in _SOME], formulas(_SOME, SHORT)
        ),
        FLOAT32,
    )


ONE_CLOCK = (
    Entry("fusestep", lambda: _by_step(warmup_cosine(SHORT))),
    Entry("fusestep, restarts and random", _more_nodes),
    Entry("Python function", lambda: _by_step(functools.partial(formula, total=SHORT))),
    Entry("torch SequentialLR", lambda: _torch(_sequential), torch_absent),
    Entry("torch LambdaLR", lambda: _torch(_lambda), torch_absent),
    Entry("optax", lambda: _optax_clock(jitted=False), optax_absent),
    Entry("optax jitted", lambda: _optax_clock(jitted=True), optax_absent),
)


# Many steps at once.


def _at_once(function: Callable[[], Any], before: Step = lambda: None) -> Evaluation:
    def check() -> float:
        return deviation(function(), formulas(np.arange(LONG), LONG))

    return Evaluation(function, check, before=before)


def _fusestep_at_once(isa: str, threads: int) -> Evaluation:
    def before() -> None:
        activate(isa)
        fs.set_num_threads(threads)

    curve, steps = warmup_cosine(LONG), np.arange(LONG)
    return _at_once(lambda: curve(steps), before)


def _numpy_at_once() -> Evaluation:
    steps = np.arange(LONG)
    return _at_once(lambda: formulas(steps, LONG))


def _optax_at_once(double: bool) -> Evaluation:
    jax: Any = importlib.import_module("jax")
    enable: Any = getattr(jax, "enable_x64", None)
    if enable is None:  # older jax
        enable = importlib.import_module("jax.experimental").enable_x64
    with enable(double):
        schedule, steps = jax.jit(_optax(LONG)), jax.numpy.arange(LONG)

    def step() -> Any:
        with enable(double):
            return schedule(steps).block_until_ready()

    evaluation = _at_once(step)
    return evaluation if double else Evaluation(step, evaluation.deviation, FLOAT32)


def many_steps() -> list[Entry]:
    """The first is what fusestep does by itself; leave threads and instruction set as they were."""
    info = fs.build_info()
    active, threads = info["isa_active"], fs.get_num_threads()

    def own(name: str, isa: str, threads: int) -> Entry:
        return Entry(name, lambda: _fusestep_at_once(isa, threads))

    return [
        own("fusestep", active, threads),
        own("fusestep, 1 thread", active, 1),
        *(own(f"fusestep, {isa}", isa, threads) for isa in info["isa_supported"]),
        Entry("NumPy", _numpy_at_once),
        Entry("optax jitted, float32", lambda: _optax_at_once(double=False), optax_absent),
        Entry("optax jitted, float64", lambda: _optax_at_once(double=True), optax_absent),
    ]


LIST_COMPREHENSION = Entry(
    "Python list comprehension", lambda: _at_once(lambda: [formula(s, LONG) for s in range(LONG)])
)


# Inside a step of an optimizer.

FOLLOWED = 2 * WARMUP  # steps that must agree: into the cosine


class ByHand(FusestepBound):
    """Sets numbers from curves, or pairs of them, before every step."""

    def __init__(self, problem: Problem, curves: Mapping[str, Any]) -> None:
        super().__init__(problem, ADAMW)
        self.curves = curves
        self.step = self.set_then_step

    def set_then_step(self) -> None:
        t = self.optimizer.steps_applied
        for name, curve in self.curves.items():
            value = tuple(c(t) for c in curve) if isinstance(curve, tuple) else curve(t)
            setattr(self.optimizer, name, value)
        self.optimizer.step()


class TorchScheduled(TorchFused):
    """Follows the curve by SequentialLR, whose step is part of this one."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem, ADAMW)
        self.scheduler = _sequential(self.optimizer, LONG)
        self.step = self.step_both

    def step_both(self) -> None:
        self.optimizer.step()
        self.scheduler.step()


def follow(
    problem: Problem, followers: Mapping[str, Contestant], by_hand: ByHand
) -> dict[str, float]:
    """Deviations of fresh contestants that follow their curves; raises Disagreement."""
    everybody = [*followers.values(), by_hand]
    (gradient,) = problem.gradients
    for t in range(FOLLOWED):
        factor = ADAMW.factors[t % len(ADAMW.factors)]
        gradient *= factor
        for contestant in everybody:
            contestant.refresh()
            contestant.step()
        gradient /= factor
    expected = by_hand.parameter(0).astype(np.float64)
    scale = float(np.max(np.abs(expected)))
    deviations: dict[str, float] = {}
    for name, contestant in followers.items():
        contestant.refresh()
        deviations[name] = deviation(contestant.parameter(0), expected, scale)
        allowed = 0.0 if isinstance(contestant, Fusestep) else FLOAT32
        assert_within(f"{name}, after {FOLLOWED} steps,", deviations[name], allowed)
    return deviations
