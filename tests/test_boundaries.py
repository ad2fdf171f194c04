"""Times in epochs and samples meet every boundary, whatever fractions they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fusestep as fs
from fusestep import schedules as s
from fusestep.expression import epoch, floor, samples, step, where

# curves with the time in ``t`` and a span of u: by epoch a fraction of one, by step whole
CURVES: dict[str, Callable[[Any, float, str], fs.Expression]] = {
    "cosine_restarts": lambda t, u, by: s.cosine_restarts(1.0, 0.1, u, factor=0.9, by=by),
    "growing restarts": lambda t, u, by: s.cosine_restarts(1.0, length=u, t_mult=2, by=by),
    "slowly growing restarts": lambda t, u, by: s.cosine_restarts(1.0, length=u, t_mult=1.5, by=by),
    "step": lambda t, u, by: s.step(1.0, 0.5, every=u, by=by),
    "multistep": lambda t, u, by: s.multistep(1.0, 0.5, at=[u, 2 * u, 5 * u], by=by),
    "exponential": lambda t, u, by: s.exponential(1.0, 0.5, every=u, staircase=True, by=by),
    "inverse_time": lambda t, u, by: s.inverse_time(1.0, timescale=u, staircase=True, by=by),
    "staircase_linear": lambda t, u, by: s.staircase_linear(1.0, 0.5, u, length=4 * u, by=by),
    "piecewise": lambda t, u, by: s.piecewise([1.0, 3.0, 2.0], at=[u, 3 * u], by=by),
    "sequence": lambda t, u, by: s.sequence(
        [2.0, s.linear(0.0, 1.0, length=u, by=by), s.cosine_restarts(1.0, length=u, by=by)],
        at=[u, 3 * u],
        by=by,
    ),
    "polynomial": lambda t, u, by: s.polynomial(1.0, length=u, power=2, cycle=True, by=by),
    "cyclic": lambda t, u, by: s.cyclic(0.0, 1.0, up=u, by=by),
    "cyclic, two lengths": lambda t, u, by: s.cyclic(0.0, 1.0, u, 2 * u, "triangular2", by=by),
    "random": lambda t, u, by: s.random(1.0, 2.0, every=u, by=by),
    "interpolate": lambda t, u, by: s.interpolate([(u, 0.0), (2 * u, 1.0), (5 * u, 0.0)], by=by),
    "warmup_linear": lambda t, u, by: s.warmup_linear(1.0, warmup=u, total=3 * u, by=by),
    "wsd": lambda t, u, by: s.wsd(1.0, warmup=u, stable=u, decay=u, shape="1-sqrt", by=by),
    "repeated": lambda t, u, by: s.linear(1.0, 0.0, length=u, by=by).repeated(u),
    "repeated restarts": lambda t, u, by: s.cosine_restarts(1.0, length=u, by=by).repeated(3 * u),
    "shifted": lambda t, u, by: s.step(1.0, 0.5, every=u, by=by).shifted(2 * u),
    "product": lambda t, u, by: s.step(1.0, 0.5, every=u, by=by) * s.cyclic(1.0, 2.0, u, by=by),
    "//": lambda t, u, by: t // u,
    "%": lambda t, u, by: t % u,
    "% of a negative span": lambda t, u, by: t % -u,
    "floor": lambda t, u, by: floor(2 * (t / u) - 1),
    "floor from above": lambda t, u, by: -floor(-t / u),
    "<": lambda t, u, by: where(t < 2 * u, 1, 2),
    "<=": lambda t, u, by: where(2 * u <= t, 1, 2),
    ">": lambda t, u, by: where(t > 2 * u, 1, 2),
    ">=": lambda t, u, by: where(t - u >= u, 1, 2),
    "< on the right": lambda t, u, by: where(3 * u - t < u, 1, 2),
}


def epochs_of(batches: int) -> dict[str, npt.NDArray[np.float64]]:
    """The same times as a loader, a quotient and a running sum give them."""
    count = np.arange(7 * batches)
    return {
        "loader": count // batches + count % batches / batches,
        "quotient": count / batches,
        "sum": np.concatenate([[0.0], np.cumsum(np.full(7 * batches - 1, 1 / batches))]),
    }


def spans_of(batches: int) -> list[int]:
    """Lengths from 0.1 to 3 epochs, in batches."""
    tenths = [batches * k // 10 for k in (1, 2, 3, 7, 11, 23) if batches % 10 == 0]
    others = [-(-batches // 10), batches // 3, batches - 1, batches, 2 * batches - 1, 3 * batches]
    return sorted({*tenths, *others})


@pytest.mark.parametrize("name", CURVES)
def test_a_curve_by_epoch_is_the_one_by_batches_for_any_number_of_them(name: str) -> None:
    for batches in (3, 7, 10, 12, 30, 49, 97, 100, 1000):
        for span in spans_of(batches):
            whole = CURVES[name](step, span, "step")(np.arange(7 * batches))
            curve = CURVES[name](epoch, span / batches, "epoch")
            for way, times in epochs_of(batches).items():
                scale = batches if name.startswith("%") else 1
                found = curve(epoch=times) * scale
                off = np.flatnonzero(~(np.abs(found - whole) <= 1e-8 * span))
                assert off.size == 0, (batches, span, way, off[:5], found[off[:5]], whole[off[:5]])
                assert found.min() >= 0 or whole.min() < 0 or "negative" in name


@pytest.mark.parametrize(("rows", "size"), [(10, 1), (12, 1), (49, 7), (100, 3)])
def test_restarts_on_the_clock_of_a_loader_begin_at_the_first_value(rows: int, size: int) -> None:
    loader = fs.Loader(np.arange(rows), size, order="sequential", epochs=5, tail="drop")
    clocks = [batch.clock for batch in loader]
    for span in (size / rows, 2 * size / rows, 1.0, 2.0):
        curve = s.cosine_restarts(start=1.0, end=0.25, length=span, by="epoch")
        first = [c for c in clocks if abs(c.epoch / span - round(c.epoch / span)) < 1e-6]
        assert len(first) >= 3
        assert {curve(clock) for clock in first} == {1.0}
        index = {(epoch // span)(clock) for clock in first}
        assert index == {round(clock.epoch / span) for clock in first}


NEARLY, BEFORE = 0.9e-9, 1.1e-9


@pytest.mark.parametrize(("time", "by"), [(epoch, "epoch"), (samples, "samples")])
def test_within_a_billionth_of_a_boundary_is_there_and_before_it_is_not(
    time: fs.Expression, by: str
) -> None:
    for boundary in (0.1, 1.0, 3.0, 1000.0):
        conditions = [
            time >= boundary,
            boundary <= time,
            1 - (time < boundary),
            1 - (boundary > time),
        ]
        conditions += [floor(time / boundary), time // boundary, (2 * time - boundary) // boundary]
        conditions += [s.step(1.0, 2.0, every=boundary, by=by) - 1]
        conditions += [s.piecewise([0.0, 1.0], at=[boundary], by=by)]
        conditions += [
            -((-time) // boundary + 2),
            (time + 5 >= boundary + 5),
            floor(time - boundary) + 1,
        ]
        conditions += [time * 4 >= 4 * boundary, 3 * time - time >= 2 * boundary]
        conditions += [floor(where(time < 0, -time, time) / boundary)]
        for k, reached in enumerate(conditions):
            values = reached(**{by: boundary + np.array([-BEFORE, -NEARLY, 0, NEARLY])})
            ends = k == len(conditions) - 6  # a ceiling: beyond the boundary it would be 1
            assert values.tolist() == ([-1, -1, -1, -1] if ends else [0, 1, 1, 1]), k
        after = [time > boundary, 1 - (time <= boundary)]
        for passed in after:
            values = passed(**{by: boundary + np.array([-NEARLY, 0, NEARLY, BEFORE])})
            assert values.tolist() == [0, 0, 0, 1]
        for inside in (time % boundary, s.linear(0.0, 1.0, length=9, by=by).repeated(boundary)):
            values = inside(**{by: boundary + np.array([-NEARLY, -1e-10, 0])})
            assert values.tolist() == [0, 0, 0]


def test_steps_and_what_is_not_linear_in_time_meet_boundaries_exactly() -> None:
    just_before = math.nextafter(3.0, 0)
    assert (step // 3)(just_before) == floor(step / 3)(just_before) == 0
    assert (step >= 3)(just_before) == 0
    assert (step % 3)(just_before) == just_before
    assert s.step(1.0, 0.5, every=3)(just_before) == 1.0
    assert (epoch * epoch >= 9)(epoch=just_before) == 0
    assert floor(fs.expression.exp(epoch * 0) * 3 - 2**-50)(epoch=1) == 2


def test_samples_up_to_the_largest_are_divided_exactly() -> None:
    for n in (2**53 - 1, 2**53 - 2, 2**52 + 1, 10**15 + 1):
        for span in (1, 2, 3, 7, 1000, 2**31 + 1, n - 1, n):
            assert (samples // span)(samples=n) == n // span
            assert (samples % span)(samples=n) == n % span
            assert (samples >= span)(samples=n) == (n >= span)
        assert (samples < n)(samples=n - 1) == 1
        assert (samples < n)(samples=n) == 0
