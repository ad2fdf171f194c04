"""Each batch-size policy: a trace computed by hand, saved in the middle, typed again."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fusestep as fs
import fusestep.expression as fe
from fusestep import batch_sizes, schedules

NAN, INF = math.nan, math.inf
Clock = fs.Clock
# what a trace is made of: clocks for which a size is decided, dicts of what a step tells, and
# changes of the statistics
Event = Any


def unknown() -> Any:
    return SimpleNamespace(gradient_variance=None, squared_gradient=None, noise_scale=None)


def known(s: Any = None, g2: Any = None, noise: Any = None) -> dict[str, Any]:
    return {"gradient_variance": s, "squared_gradient": g2, "noise_scale": noise}


def follow(policy: Any, statistics: Any, events: Sequence[Event]) -> list[int]:
    """The size after each clock."""
    sizes = []
    for event in events:
        if isinstance(event, Clock):
            sizes.append(policy.next_size(event))
            assert policy.size == sizes[-1]
        elif "loss" in event or "lr" in event:
            policy.observe(**event)
        else:
            vars(statistics).update(event)
    return sizes


def at(unit: str, *times: float) -> list[Event]:
    return [Clock(**{unit: t}) for t in times]


def each(*told: Event) -> list[Event]:
    """A size after each of these."""
    return [event for one in told for event in (one, Clock())]


LINE = schedules.linear(start=0.1, end=0.0, length=10)
HAT = schedules.interpolate([(0, 0.0), (2, 1.0), (4, 0.5), (6, 0.25), (8, 0.0)])


def by_epoch(clock: fs.Clock) -> float:
    assert clock.batch_size is None
    return 10 * (clock.epoch or 0)


# the policy of some statistics, events, the size at each clock of them
TRACES: list[tuple[Callable[[Any], Any], list[Event], list[int]]] = [
    (lambda s: batch_sizes.fixed(100, multiple_of=32), at("step", 0, 9), [96, 96]),
    (
        lambda s: batch_sizes.polynomial(32, 128, 4, by="epoch"),
        at("epoch", 0, 1, 2.5, 4, 9),
        [32, 56, 92, 128, 128],
    ),
    (
        lambda s: batch_sizes.polynomial(64, 0, length=10, power=2, multiple_of=1),
        at("step", 0, 5, 7, 9, 10),
        [64, 16, 6, 1, 1],
    ),
    (
        lambda s: batch_sizes.exponential(20, 2, 10, multiple_of=8, maximum=128),
        at("step", 0, 5, 10, 20, 30, 10**9),
        [24, 32, 40, 80, 128, 128],
    ),
    (
        lambda s: batch_sizes.exponential(32, 2, 10, staircase=True, by="samples", maximum=100),
        at("samples", 0, 9, 10, 25, 10**6),
        [32, 32, 64, 100, 100],
    ),
    (
        lambda s: batch_sizes.exponential(start=64, rate=0.5, every=2, minimum=10),
        at("step", 0, 2, 4, 6),
        [64, 32, 16, 10],
    ),
    (lambda s: batch_sizes.coupled(LINE, 64), at("step", 0, 5, 9, 10), [64, 32, 6, 1]),
    (
        lambda s: batch_sizes.coupled(
            schedules.linear(1.0, 3.0, length=4) * fe.exp(0), base_batch=8
        ),
        at("step", 0, 1, 2, 9),
        [8, 12, 16, 24],
    ),
    (
        lambda s: batch_sizes.increase_instead_of_decay(HAT, base_batch=32, maximum=128),
        at("step", 0, 1, 2, 4, 5, 6, 7, 8),
        [32, 32, 32, 64, 85, 128, 128, 128],
    ),
    (
        lambda s: batch_sizes.doubling(128, every=20, by="epoch", maximum=500),
        at("epoch", 0, 19.9, 20, 40, 60),
        [128, 128, 256, 500, 500],
    ),
    (
        lambda s: batch_sizes.ramp(16, 1024, increment=8, over_samples=300_000),
        at("samples", 0, 2380, 2381, 150_000, 299_999, 300_000, 10**9),
        [16, 16, 24, 520, 1016, 1024, 1024],
    ),
    (
        lambda s: batch_sizes.ramp(64, 16, increment=16, over_samples=300),
        at("samples", 0, 99, 100, 200, 300),
        [64, 64, 48, 32, 16],
    ),
    (
        lambda s: batch_sizes.steps({0: 768, 250: 1536, 500: 3072}),
        at("samples", 0, 249, 250, 499, 500, 10**6),
        [768, 768, 1536, 1536, 3072, 3072],
    ),
    (lambda s: batch_sizes.steps({0: 8}), at("samples", 0, 5), [8, 8]),
    (lambda s: batch_sizes.expression(64 / (1 + LINE * 10)), at("step", 0, 5, 10), [32, 43, 64]),
    (lambda s: batch_sizes.expression(by_epoch, minimum=4), at("epoch", 0, 0.5, 1.26), [4, 5, 13]),
    (
        lambda s: batch_sizes.noise_scale(s, 2, start=30, multiple_of=8, maximum=512),
        each(known(), *(known(noise=b) for b in (99.0, None, 1e9, 0.0, INF))),
        [32, 200, 200, 512, 8, 512],
    ),
    (
        lambda s: batch_sizes.norm_test(s, 0.5, start=16, maximum=99),
        each(known(), known(8.0, 0.5), known(8.0, -1.0), known(9.0), known(3, 1), known(8.0, 0.0)),
        [16, 64, 64, 64, 12, 12],
    ),
    (lambda s: batch_sizes.norm_test(s, 0.5, start=9, maximum=99), each(known(8.0, 5e-324)), [99]),
    (
        lambda s: batch_sizes.diversity(s, 0.5, n_samples=32, start=16),
        each(known(), known(96.0, 1.0), known(np.float32(96), 1e-9), known(9.0, 0.0), known(0, 4)),
        [16, 12, 16, 16, 1],
    ),
    (
        lambda s: batch_sizes.cabs(s, start=16, maximum=512, smoothing=0.5),
        each(known(), known(640.0), {"loss": 0.5}, {"lr": 0.1}, {"loss": NAN}, {"loss": 1.0}),
        [16, 16, 16, 128, 128, 85],
    ),
    (
        lambda s: batch_sizes.cabs(s, start=16, smoothing=0.5),
        each(known(640.0), {"loss": 1.0, "lr": 0.1}, {"loss": INF, "lr": 0.2}, known()),
        [16, 64, 128, 128],
    ),
    (
        lambda s: batch_sizes.cabs(s, c=0.5, start=16, maximum=512, smoothing=0.0),
        each(known(10.0), {"loss": 1.0, "lr": 4.0}, {"loss": 0.0}, {"loss": 0.1, "lr": None}),
        [16, 20, 512, 200],
    ),
    (
        lambda s: batch_sizes.loss_ratio(32),
        each(known(), *({"loss": loss} for loss in (NAN, 2.0, 0.5, 4, INF)), {"lr": 0.1}),
        [32, 32, 32, 128, 16, 16, 16],
    ),
    (
        lambda s: batch_sizes.loss_ratio(32, lowest=1.0, maximum=256),
        each(*({"loss": loss} for loss in (3.0, 1.5, 1.0, 0.5))),
        [32, 128, 256, 256],
    ),
]
traced = pytest.mark.parametrize(
    ("make", "events", "expected"), TRACES, ids=[str(i) for i in range(len(TRACES))]
)
OTHERS = {"as_policy", "rule_of_thumb", "steps_per_epoch"}


@traced
def test_sizes_are_those_computed_by_hand(make: Any, events: Any, expected: Any) -> None:
    statistics = unknown()
    sizes = follow(make(statistics), statistics, events)
    assert sizes == expected
    assert {type(size) for size in sizes} == {int}


def test_every_policy_has_a_trace_and_a_docstring_with_an_example() -> None:
    made = {repr(make(unknown())).partition("(")[0] for make, _, _ in TRACES}
    functions = {name for name in batch_sizes.__all__ if name.islower()}
    assert made == {f"batch_sizes.{name}" for name in functions - OTHERS}
    for name in {"Policy", *functions}:
        assert ">>>" in (inspect.getdoc(getattr(batch_sizes, name)) or ""), name


@traced
def test_a_policy_saved_at_any_time_goes_on_as_if_it_never_stopped(
    make: Any, events: Any, expected: Any
) -> None:
    whole = unknown()
    uninterrupted = make(whole)
    follow(uninterrupted, whole, events)
    for stop in range(len(events) + 1):
        statistics = unknown()
        first, second = make(statistics), make(statistics)
        begun = follow(first, statistics, events[:stop])
        second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
        assert (second.size, second.overflow()) == (first.size, first.overflow())
        assert begun + follow(second, statistics, events[stop:]) == expected
        assert second.state_dict() == uninterrupted.state_dict()


@traced
def test_a_policy_is_typed_as_it_was(make: Any, events: Any, expected: Any) -> None:
    statistics = unknown()
    text = repr(make(statistics))
    if by_epoch.__name__ in text:
        return
    words = {**fe.vocabulary.VOCABULARY, **fe.vocabulary.NAMES, "batch_sizes": batch_sizes}
    again = eval(text.replace(repr(statistics), "statistics"), words, {"statistics": statistics})
    assert repr(again) == text
    assert follow(again, statistics, events) == expected


def test_the_rate_stays_while_the_batch_grows_and_takes_what_the_maximum_cuts_off() -> None:
    policy = batch_sizes.increase_instead_of_decay(HAT, base_batch=32, maximum=128)
    rates = []
    for clock in at("step", 0, 1, 2, 4, 6, 7, 8):
        policy.next_size(clock)
        rates.append(policy.lr())
    assert rates == [0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0]
    assert batch_sizes.increase_instead_of_decay(LINE, 32, 128).lr() == 0.1  # before the first size
    clipped = batch_sizes.increase_instead_of_decay(HAT, 32, 128, overflow="clip")
    follow(clipped, None, at("step", 2, 8))
    assert clipped.lr() == 1.0


def test_doubling_has_a_factor_for_the_rate() -> None:
    policy = batch_sizes.doubling(128, every=20, factor=2, lr_factor=0.5, by="epoch")
    assert policy.lr_factor(epoch=np.array([0, 19, 20, 60])).tolist() == [1.0, 1.0, 0.5, 0.125]
    assert batch_sizes.doubling(8, every=3).lr_factor(6) == 0.75**2


def test_the_rule_of_thumb_is_its_table() -> None:
    samples = (20, 9_999, 10_000, 99_999, 100_000)
    assert [batch_sizes.rule_of_thumb(n, uniform=False) for n in samples] == [20, 32, 64, 64, 64]
    assert [batch_sizes.rule_of_thumb(n, uniform=True) for n in samples] == [20, 64, 128, 128, 256]


def test_batches_of_an_epoch_are_counted_with_every_tail() -> None:
    for n in range(1, 20):
        for size in range(1, 25):
            sizes = [min(size, n - i) for i in range(0, n, size)]
            assert batch_sizes.steps_per_epoch(n, size) == len(sizes)
            assert batch_sizes.steps_per_epoch(n, size, "drop") == sizes.count(size)
            assert batch_sizes.steps_per_epoch(n, size, tail="carry") == n / size


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: batch_sizes.fixed(0), "n must be at least 1"),
    (lambda: batch_sizes.fixed(1.5), "n must be a whole number, not 1.5"),
    (lambda: batch_sizes.polynomial(0, 9, 9), "start must be greater than 0, not 0"),
    (lambda: batch_sizes.polynomial(9, -1, 9), "end must be finite and at least 0, not -1"),
    (lambda: batch_sizes.polynomial(9, 1, 0), "length must be greater than 0, not 0"),
    (lambda: batch_sizes.exponential(9, 0), "rate must be greater than 0, not 0"),
    (lambda: batch_sizes.exponential(NAN, 1), "start must be finite and at least 0, not nan"),
    (lambda: batch_sizes.exponential(1, 2, by="hour"), "by must be one of step, samples, epoch"),
    (lambda: batch_sizes.coupled(HAT, 8), "lr at time 0 must be greater than 0, not 0"),
    (
        lambda: batch_sizes.coupled(fe.batch_size * 2, 8),
        "lr must not read batch_size, which it decides",
    ),
    (lambda: batch_sizes.coupled(LINE, 0), "base_batch must be at least 1"),
    (
        lambda: batch_sizes.increase_instead_of_decay(-LINE, 8, 9),
        "lr_curve must be finite and at least",
    ),
    (lambda: batch_sizes.doubling(8, every=0), "every must be greater than 0, not 0"),
    (lambda: batch_sizes.doubling(8, every=1, lr_factor=-1), "lr_factor must be finite and at"),
    (lambda: batch_sizes.ramp(8, 8, 1, 9), "start and end of a ramp must differ, not both 8"),
    (lambda: batch_sizes.ramp(8, 17, 2, 9), "increment must divide end - start = 9, not 2"),
    (lambda: batch_sizes.steps({}), "sizes must be a dict {samples: size}, not {}"),
    (lambda: batch_sizes.steps({5: 8}), "the samples in sizes must begin with 0 and rise, not [5]"),
    (lambda: batch_sizes.steps({0: 8, 9: 1, 5: 3}), "begin with 0 and rise, not [0, 9, 5]"),
    (lambda: batch_sizes.steps({0: 0}), "sizes[0] must be at least 1"),
    (lambda: batch_sizes.expression("x"), "rule must be an expression or a function of the clock"),
    (
        lambda: batch_sizes.noise_scale(None, start=8),
        "statistics must have noise_scale, not be None",
    ),
    (lambda: batch_sizes.noise_scale(unknown(), 0, start=8), "c must be greater than 0, not 0"),
    (lambda: batch_sizes.noise_scale(unknown(), start=0), "start must be at least 1"),
    (lambda: batch_sizes.norm_test(unknown(), 1.0, start=8), "theta must be in [0, 1), not 1"),
    (lambda: batch_sizes.norm_test(unknown(), 0, start=8), "theta must be greater than 0, not 0"),
    (
        lambda: batch_sizes.diversity(unknown(), -1, 9, start=8),
        "delta must be finite and at least 0",
    ),
    (lambda: batch_sizes.diversity(unknown(), 1, 0, start=8), "n_samples must be at least 1"),
    (
        lambda: batch_sizes.cabs(unknown(), start=8, smoothing=1),
        "smoothing must be in [0, 1), not 1",
    ),
    (lambda: batch_sizes.loss_ratio(8, lowest=NAN), "lowest must be finite, not nan"),
    (
        lambda: batch_sizes.cabs(unknown(), start=8).observe(loss=-1),
        "loss must be finite and at least 0",
    ),
    (
        lambda: batch_sizes.loss_ratio(8, 2.0).observe(loss=2),
        "must be above lowest=2.0 for batch_sizes.loss_ra",
    ),
    (lambda: batch_sizes.rule_of_thumb(0, True), "n_samples must be at least 1"),
    (lambda: batch_sizes.rule_of_thumb(9, 1), "uniform must be True or False, not 1"),
    (lambda: batch_sizes.steps_per_epoch(9, 2, "wrap"), "tail must be one of short, drop, carry"),
]


@pytest.mark.parametrize(("bad", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments_and_losses_are_named(bad: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        bad()
