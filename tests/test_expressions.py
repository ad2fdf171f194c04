"""Expressions: operators, compositions against a recursive evaluator, JSON, text, errors."""

from __future__ import annotations

import copy
import math
import operator
import pickle
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import fusestep as fs
import fusestep.expression as fe
from fusestep import control, schedules
from fusestep.expression import vocabulary
from fusestep.gallery import GALLERY
from tables.reference import Reference

INPUTS = ("step", "samples", "epoch", "batch_size")
numbers = st.one_of(
    st.integers(-100, 100),
    st.floats(-100, 100, allow_subnormal=False).filter(lambda x: abs(x) > 1e-6),
)
lengths = st.one_of(st.integers(1, 300), st.floats(0.5, 300))
values = st.floats(0.001, 10)
units = st.sampled_from(["step", "samples", "epoch"])
curves = st.one_of(
    st.builds(schedules.linear, values, values, lengths, by=units),
    st.builds(schedules.cosine, values, lengths, values, by=units),
    st.builds(schedules.polynomial, values, length=lengths, power=st.floats(0.5, 3), by=units),
    st.builds(schedules.exponential, values, st.floats(0.5, 1), lengths, st.booleans(), by=units),
    st.builds(schedules.inverse_time, values, lengths, st.floats(0.5, 1), by=units),
    st.builds(schedules.warmup, st.integers(0, 50), values, st.sampled_from(["linear", "cosine"])),
    st.builds(schedules.cosine_restarts, values, length=lengths, t_mult=st.integers(1, 3)),
    st.builds(schedules.cyclic, values, values, lengths, mode=st.just("triangular2"), by=units),
    st.builds(schedules.tanh, values, values, lengths),
    st.builds(schedules.table, st.lists(values, min_size=1, max_size=5)),
    st.builds(schedules.multistep, values, values, st.just([3, 20, 90.5])),
    st.builds(schedules.wsd, values, lengths, lengths, lengths, shape=st.just("1-sqrt")),
    st.builds(control.Plateau, st.floats(0.1, 0.9), st.integers(0, 5)),
)
leaves = st.one_of(
    numbers.map(fe.nodes.Constant), st.sampled_from([fe.step, fe.epoch, fe.pi]), curves
)


def composed(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    two = [operator.add, operator.sub, operator.mul, operator.truediv, fe.minimum, fe.maximum]
    two += [operator.floordiv, operator.mod, operator.lt, operator.le]
    one = [operator.neg, abs, fe.floor, fe.cospi, lambda e: fe.sqrt(abs(e)), fe.cos, fe.sin]
    one += [lambda e: fe.exp(fe.clip(e, -50, 50)), lambda e: fe.log(abs(e) + 1)]
    return st.one_of(
        st.builds(lambda call, a, b: call(a, b), st.sampled_from(two), parts, parts),
        st.builds(lambda call, a: call(a), st.sampled_from(one), parts),
        st.builds(lambda a, n: a**n, parts, st.integers(0, 4)),
        st.builds(fe.where, parts, parts, parts),
        st.builds(lambda e, n: e.shifted(n), parts, st.integers(0, 50)),
        st.builds(lambda e, n: e.repeated(n), parts, lengths),
        st.builds(lambda e, unit: e.by(unit), parts, units),
        st.builds(lambda a, b: schedules.sequence([a, b], at=[30]), parts, parts),
    )


expressions = st.recursive(leaves, composed, max_leaves=8)
clocks = st.fixed_dictionaries(
    {
        "step": st.integers(0, 400),
        "samples": st.integers(0, 400),
        "epoch": st.floats(0, 400, allow_subnormal=False),
        "batch_size": st.integers(1, 64),
    }
)


@given(expressions, clocks)
def test_any_composition_has_the_value_of_a_recursive_evaluator(
    expression: fs.Expression, clock: dict[str, float]
) -> None:
    reference = Reference(clock)
    exact = reference.value(expression)
    assume(not reference.fragile and abs(reference.scale) < 1e200)
    for more in (1.1e-9, -1.1e-9):  # where an epoch is near a boundary it counts as there
        times = {name: clock[name] + more for name in ("samples", "epoch")}
        beside = Reference({**clock, **times})
        beside.value(expression)
        assume(beside.decided == reference.decided)
    value = expression(**clock)
    if exact != exact:
        assert not math.isfinite(value)
        return
    allowed = math.ulp(float(exact)) + float(reference.scale) * 2.0**-60
    assert abs(value - float(exact)) <= allowed


@given(expressions, clocks)
def test_a_composition_of_operators_that_are_finite_is_finite(
    expression: fs.Expression, clock: dict[str, float]
) -> None:
    value = expression(**clock)
    assume(math.isfinite(value))
    for result in (value + expression, expression * expression, -expression, abs(expression)):
        assert math.isfinite(result(**clock)) or abs(value) > 1e150
    for result in (fe.minimum(expression, 1), fe.maximum(expression, -1), fe.floor(expression)):
        assert math.isfinite(result(**clock))


@given(expressions, st.lists(clocks, min_size=1, max_size=70))
def test_one_clock_and_an_array_of_them_give_the_same_bits(
    expression: fs.Expression, many: list[dict[str, float]]
) -> None:
    columns = {name: np.array([clock[name] for clock in many]) for name in INPUTS}
    together = expression(**columns)
    one_by_one = np.array([expression(**clock) for clock in many])
    assert np.broadcast_to(together, one_by_one.shape).tobytes() == one_by_one.tobytes()


@given(expressions, clocks)
def test_json_and_text_give_the_same_expression_again(
    expression: fs.Expression, clock: dict[str, float]
) -> None:
    value = np.float64(expression(**clock))
    for again in (fe.from_json(expression.to_json()), fe.parse(repr(expression))):
        assert again == expression
        assert repr(again) == repr(expression)
        assert np.float64(again(**clock)).tobytes() == value.tobytes()


@pytest.mark.parametrize("text", GALLERY.values(), ids=list(GALLERY))
def test_every_curve_survives_json_text_pickle_and_copy(text: str) -> None:
    curve, steps = fe.parse(text), np.arange(150)
    before = curve(steps).tobytes()
    again = [fe.from_json(curve.to_json()), fe.parse(repr(curve))]
    for other in [*again, pickle.loads(pickle.dumps(curve)), copy.deepcopy(curve)]:
        assert other == curve
        assert other(steps).tobytes() == before


def test_an_expression_is_written_as_it_reads() -> None:
    lr = schedules.warmup_cosine(peak=1e-3, warmup=500, total=10_000)
    texts = {
        "warmup_cosine(peak=0.001, warmup=500, total=10000)": lr,
        "0.5 * warmup_cosine(peak=0.001, warmup=500, total=10000)": 0.5 * lr,
        "(step + 1) * 2 - 3 ** (step / 2)": (fe.step + 1) * 2 - 3 ** (fe.step / 2),
        "2 - (step - 1)": 2 - (fe.step - 1),
        "(-step) ** 2": (-fe.step) ** 2,
        "-step ** 2": -(fe.step**2),
        "(-2) ** step": (-2) ** fe.step,
        "where(step < 10, minimum(epoch, 1), abs(step))": fe.where(
            fe.step < 10, fe.minimum(fe.epoch, 1), abs(fe.step)
        ),
        "(step + 1).shifted(5).by('epoch')": (fe.step + 1).shifted(5).by("epoch"),
        "step // 3 % 2": fe.step // 3 % 2,
        "step // (3 % step)": fe.step // (3 % fe.step),
        "clip(value=cos(value=pi * step), lower=0, upper=1)": fe.clip(
            fe.cos(fe.pi * fe.step), 0, 1
        ),
        "Plateau(patience=3) * constant(value=0.1)": control.Plateau(patience=3)
        * schedules.constant(0.1),
    }
    for text, expression in texts.items():
        assert repr(expression) == text
        assert fe.parse(text) == expression


def test_numpy_numbers_and_arrays_in_arguments_are_written_as_those_of_python() -> None:
    lr = np.float64(0.5) * schedules.piecewise(np.array([1.0, 2.0]), at=[np.int64(3)])
    assert repr(lr) == "0.5 * piecewise(values=[1.0, 2.0], at=[3])"
    assert lr(np.int32(5)) == 1.0
    assert isinstance(lr(np.int64(5)), float)
    assert lr(np.float32([[5], [1]])).tolist() == [[1.0], [0.5]]


def test_every_name_of_the_vocabulary_is_public() -> None:
    rooms = (fe, schedules, control)
    for name in {*vocabulary.VOCABULARY, *vocabulary.NAMES} - {"abs"}:
        room, _, own = name.rpartition(".")
        outer = {"scaling": fs, "presets": schedules}.get(room.partition(".")[0])
        places = rooms if outer is None else [attrgetter(room)(outer)]
        assert any(own in place.__all__ for place in places), name


def test_expressions_refuse_what_is_no_number() -> None:
    for bad in ("x", None, [1], True, 1j):
        with pytest.raises(TypeError):
            fe.step + bad
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="a number in an expression must be finite"):
            fe.step * bad
    with pytest.raises(TypeError, match="neither true nor false"):
        bool(fe.step < 3)
    with pytest.raises(AttributeError):
        fe.step.anything = 3  # type: ignore[attr-defined]


def test_what_is_wrong_with_an_argument_names_the_curve() -> None:
    bad: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (
            ValueError,
            "cosine: length must be greater than 0, not 0",
            lambda: fe.parse("cosine(1, length=0)"),
        ),
        (ValueError, "wsd: shape must be one of", lambda: schedules.wsd(1, 2, 3, 4, shape="x")),  # type: ignore[arg-type]
        (TypeError, "linear: start must be a number, not 'a'", lambda: schedules.linear("a", 1, 2)),  # type: ignore[arg-type]
        (TypeError, "step: missing a required argument: 'every'", lambda: schedules.step(1.0, 0.5)),  # type: ignore[call-arg]
        (
            TypeError,
            "cosine has no argument 'speed'; known are start, end, length, exponent, by",
            lambda: fe.parse("cosine(1, length=1, speed=2)"),
        ),
        (TypeError, "clip: an expression is made of", lambda: fe.clip(fe.step, "a", 1)),
        (
            ValueError,
            "shifted: n must be finite and at least 0, not -1",
            lambda: fe.step.shifted(-1),
        ),
        (ValueError, "repeated: n must be greater than 0, not 0", lambda: fe.step.repeated(0)),
        (ValueError, "by: unit must be one of step, samples, epoch", lambda: fe.step.by("day")),  # type: ignore[arg-type]
    ]
    for error, message, call in bad:
        with pytest.raises(error, match="^" + message):
            call()
