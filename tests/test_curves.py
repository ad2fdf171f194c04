"""Every curve against its formula in exact arithmetic, and evaluated in every way."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable
from fractions import Fraction
from random import Random
from typing import Any, Literal, get_origin

import numpy as np
import pytest

import fusestep as fs
from fusestep import _core
from fusestep.expression import clip, floor, maximum, minimum, step, where
from tables.models import assert_same_bits

pytest.importorskip("mpmath", reason="mpmath is not installed")
from tables.curve_formulas import Epoch, mp, philox, real
from tables.curves import ROWS, Row

FAR = (1e6, 1e12, 2.0**53 - 1)
SUPPORTED = fs.build_info()["isa_supported"]
every_row = pytest.mark.parametrize("row", ROWS, ids=repr)


def times_of(row: Row) -> list[float]:
    """The start, every boundary and its neighbours, far beyond, and 200 times inside."""
    end, generator = max(row.boundaries, default=1000.0), Random(repr(row))
    near = [b + d for b in row.boundaries for d in (-1, -1.1e-9, -0.9e-9, 0, 0.9e-9, 1.1e-9, 1)]
    near += [math.nextafter(b, far) for b in row.boundaries for far in (0, math.inf)]
    whole = [generator.randint(0, math.ceil(end)) for _ in range(100)]
    inside = [generator.uniform(0, end) for _ in range(100)]
    return [t for t in (0, 1, 2, *near, *FAR, *whole, *inside) if t >= 0]


def fraction(x: Any) -> Fraction:
    """A number of 300 bits as a fraction; what is far below the least double is 0."""
    x = real(x)
    if mp.fabs(x) < mp.ldexp(1, -1300):
        return Fraction(0)
    return Fraction(int(x.man)) * Fraction(2) ** int(x.exp) * (-1 if x < 0 else 1)


def error(found: float, exact: Any) -> float:
    """In units of the last place of the nearest double."""
    if mp.fabs(real(exact)) >= mp.ldexp(1, 1024):
        return 0.0 if found == math.copysign(math.inf, exact) else math.inf
    true = fraction(exact)
    difference = abs(Fraction(found) - true) if math.isfinite(found) else Fraction(2**1100)
    return float(difference / Fraction(math.ulp(float(true))))


@functools.cache
def errors(row: Row) -> list[tuple[float, float, float]]:
    curve = row.build()
    values = ((t, curve(**{row.by: t})) for t in times_of(row))
    time = Fraction if row.by == "step" else Epoch
    return [(error(found, row.exact(time(t))), t, found) for t, found in values]


def test_every_curve_has_a_row() -> None:
    curves = {*fs.schedules.__all__} - {"as_lambda", "as_scheduler", "initial_lr", "presets"}
    assert curves - {row.name for row in ROWS} == set(), "tests/tables/curves.py has no row"


def test_every_option_of_every_curve_is_in_a_row() -> None:
    for name in {row.name for row in ROWS} - {"constant"}:
        options = set(inspect.signature(getattr(fs.schedules, name)).parameters) - {"by"}
        assert options - {k for row in ROWS if row.name == name for k in row.arguments} == set()
    assert {row.by for row in ROWS} == {"step", "samples", "epoch"}


def test_every_curve_takes_its_arguments_in_one_order_and_a_choice_is_a_literal() -> None:
    for name in {row.name for row in ROWS}:
        parameters = inspect.signature(getattr(fs.schedules, name)).parameters
        assert {p.kind for p in parameters.values()} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
        assert [*parameters].index("by") == len(parameters) - 1 if "by" in parameters else True
        for argument in {*parameters} & {*_CHOICES.split()}:
            assert get_origin(parameters[argument].annotation) is Literal, (name, argument)


def test_the_generator_of_the_table_gives_the_published_words() -> None:
    assert philox([0, 0, 0, 0], [0, 0]) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@every_row
def test_a_value_is_within_two_units_of_the_last_place(row: Row) -> None:
    assert [e for e in errors(row) if not e[0] <= 2] == []


def test_nearly_every_value_is_the_nearest_double() -> None:
    found = [(e, row, t, value) for row in ROWS for e, t, value in errors(row)]
    others = [e for e in found if e[0] > 0.5 + 1e-9]
    assert len(found) > 10_000
    assert len(others) < len(found) / 1000, (len(others), len(found), others[:20])


# values that hold exactly, by the arguments of a curve; where True, the last one from then on
_FALL = (lambda a: {0: a["start"], a["length"]: a["end"]}, True)
_ARC = (lambda a: {0: a["start"], a["warmup"]: a["peak"], a["total"]: a["end"]}, True)
STATED: dict[str, tuple[Callable[..., dict[float, float]], bool]] = {
    **dict.fromkeys(("linear", "polynomial", "cosine", "rex"), _FALL),
    **dict.fromkeys(("warmup_cosine", "warmup_linear"), _ARC),
    "warmup_constant": (lambda a: {0: a["start"], a["warmup"]: a["peak"]}, True),
    "gradual_warmup": (lambda a: {0: a["base"], a["length"]: a["factor"] * a["base"]}, True),
    "warmup": (lambda a: {0: a["start"] if a["length"] else 1, a["length"]: 1}, True),
    "interpolate": (lambda a: {0: a["points"][0][1], **dict(a["points"])}, True),
    "piecewise": (lambda a: dict(zip([0, *a["at"]], a["values"], strict=True)), True),
    "inverse_sqrt": (lambda a: {0: a["peak"], a["timescale"]: a["peak"]}, False),
    "one_cycle": (lambda a: {a["total"] * a.get("pct_start", 0.3) - 1: a["peak"]}, False),
    "cyclic": (lambda a: {0: a["low"], a["up"] + (a["down"] or a["up"]): a["low"]}, False),
    "wsd": (lambda a: dict.fromkeys((a["warmup"], a["warmup"] + a["stable"]), a["peak"]), False),
}


@pytest.mark.parametrize("row", [row for row in ROWS if row.name in STATED], ids=repr)
def test_curves_begin_peak_and_end_exactly_and_are_held(row: Row) -> None:
    state, is_held = STATED[row.name]
    stated = state({"start": 0, "end": 0, "down": 0, **row.arguments})
    if is_held and "cycle" not in row.arguments:
        stated |= dict.fromkeys((max(stated) + 1, *FAR), stated[max(stated)])
    assert {t: row.build()(**{row.by: t}) for t in stated} == stated


@every_row
@pytest.mark.parametrize("isa", SUPPORTED)
def test_all_ways_to_evaluate_give_the_same_bits(row: Row, isa: str) -> None:
    curve = row.build()
    reals = np.random.default_rng(0).uniform(0, 1.2 * max(row.boundaries, default=100), 20_100)
    reals[: len(times_of(row))] = times_of(row)
    shuffled = np.random.default_rng(1).permutation(len(reals))
    for t in (reals, np.rint(reals).astype(np.int64)):
        _core.use_isa(SUPPORTED[0])
        values = curve(**{row.by: t})
        _core.use_isa(isa)
        for threads in (1, 2, 3):
            fs.set_num_threads(threads)
            for order in (slice(None), slice(None, None, -1), slice(7), shuffled):
                assert_same_bits([curve(**{row.by: t[order]})], [values[order]])
        singly = np.array([curve(**{row.by: one}) for one in t[:400].tolist()])
        assert_same_bits([singly], [values[:400]])
        assert_same_bits([curve(**{row.by: t[:400].reshape(20, 20)}).ravel()], [values[:400]])


@pytest.mark.parametrize("t_mult", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 2, 3, 5, 7, 10, 100])
def test_every_restart_is_exact(length: int, t_mult: int) -> None:
    begins, lengths = [0], [length]
    while begins[-1] + lengths[-1] <= 10**6:
        begins.append(begins[-1] + lengths[-1])
        lengths.append(lengths[-1] * t_mult)
    arguments = {"start": 0.3, "end": 0.01, "length": length, "t_mult": t_mult}
    curve = fs.schedules.cosine_restarts(**arguments)
    at, durations = np.array(begins), np.array(lengths)
    assert set(curve(at)) == set(curve(at.astype(float))) == {0.3}
    late = curve(at[1:] - 1) - 0.01
    assert (late <= (0.3 - 0.01) * (np.pi / 2 / durations[:-1]) ** 2 + 1e-17).all()
    decayed = fs.schedules.cosine_restarts(**arguments, factor=0.9)
    for i, begin in list(enumerate(begins))[:300]:
        assert decayed(begin) == float(Fraction(0.3) * Fraction(0.9) ** i)


def test_curves_move_repeat_and_change_their_clock() -> None:
    for row in (row for row in ROWS if row.by == "step"):
        curve = row.build()
        for t in times_of(row)[-50:]:
            moved = [curve.shifted(7.3)(t), curve.repeated(3.7)(t), curve.by("epoch")(epoch=t)]
            s = Fraction(t)
            own = [max(s - Fraction(7.3), Fraction(0)), s % Fraction(3.7), Epoch(t)]
            assert max(error(v, row.exact(o)) for v, o in zip(moved, own, strict=True)) < 0.51


def test_a_sequence_begins_anew_in_one_clock_and_goes_on_in_the_others() -> None:
    falls = [fs.schedules.linear(1, 0, length=100, by=by) for by in ("step", "epoch")]
    curve = fs.schedules.sequence([7, falls[0] + falls[1]], at=[50])
    assert curve(step=60, epoch=60) == float(Fraction(9, 10) + Fraction(4, 10))
    assert curve(step=[0, 49, 49.5, 50], epoch=0).tolist() == [7, 7, 7, 2]
    two = fs.schedules.sequence([1, curve, falls[0]], at=[10, 70])
    assert two(step=[9, 10, 59, 60, 70], epoch=100).tolist() == [1, 7, 7, 1, 1]


# each on an expression, and on a fraction with the doubles in it as fractions
ARITHMETIC: list[Callable[..., Any]] = [
    *(lambda x, q: x + q(0.1), lambda x, q: q(0.1) - x, lambda x, q: x * q(0.3)),
    *(lambda x, q: 7 / (x + q(0.1)), lambda x, q: -x, lambda x, q: +x, lambda x, q: abs(x - 9)),
    *(lambda x, q: (x - 20) // 3, lambda x, q: 100 // (x + q(0.3)), lambda x, q: x // q(0.1)),
    *(lambda x, q: (x - 20) % 3, lambda x, q: 100 % (x + q(0.3)), lambda x, q: x % q(0.1)),
    *(lambda x, q: (x - 7) // q(-0.7), lambda x, q: (x - 7) % q(-0.7), lambda x, q: (x - 9) ** 3),
    *(lambda x, q: (x + q(0.1)) ** -2, lambda x, q: (x - 7) ** 0, lambda x, q: x * x - 9 * x),
    *(lambda x, q: x < 9, lambda x, q: x <= 9, lambda x, q: x > 9, lambda x, q: x >= 9),
    lambda x, q: (x * q(0.1) <= q(0.3)) + (x * q(0.1) >= q(0.3)),
    lambda x, q: (min if q is Fraction else minimum)(x, 9, 20 - x),
    lambda x, q: (max if q is Fraction else maximum)(q(0.5), x / 3, 20 - x),
    lambda x, q: min(max(x, q(2.5)), 7) if q is Fraction else clip(x, 2.5, 7),
    lambda x, q: (3 * x if x < 9 else -x) if q is Fraction else where(x < 9, 3 * x, -x),
    lambda x, q: (1 if x != 9 else 2) if q is Fraction else where(x - 9, 1, 2),
    lambda x, q: (math.floor if q is Fraction else floor)(q(9.5) - x),
]


@pytest.mark.parametrize("formula", ARITHMETIC)
def test_arithmetic_is_that_of_fractions_rounded_once(formula: Callable[..., Any]) -> None:
    times = [0, 3, 9, 10, 19.7, 0.1, 0.3, 0.3 - 2**-54, 3 * 0.1, 1e9 / 7, 1e15 / 7, 2.0**53 - 1]
    found = [formula(step, lambda x: x)(t) for t in times]
    assert found == [float(Fraction(formula(Fraction(t), Fraction))) for t in times]


NO_TIMES = [-1, -1e-300, math.nan, math.inf, -math.inf, 2**53 + 1, 2.0**53 + 2]
TOO_LARGE = [2**64, -(2**64), 10**400]  # for an array of whole numbers
NO_NUMBERS = [True, np.True_, "3", b"3", 1j, [None], ["1"], [True], {}, np.array([1], object)]


@pytest.mark.parametrize("by", ["step", "samples", "epoch"])
@pytest.mark.parametrize("build", ["linear", "constant", "table", "random"])
def test_what_is_no_time_is_refused_by_name(by: str, build: str) -> None:
    row = next(row for row in ROWS if row.name == build)
    curve = row.build().by(by)
    for bad in NO_TIMES + TOO_LARGE:
        arrays = [np.array([1, bad, 2]), np.array(bad), [bad]] if bad in NO_TIMES else []
        for value in (bad, *arrays):
            with pytest.raises(ValueError, match=rf"^{by} must be .* not"):
                curve(**{by: value})
    for bad in NO_NUMBERS:
        with pytest.raises(TypeError, match=rf"^{by} must be a number .* not"):
            curve(**{by: bad})
    if build != "constant":
        for missing in ({}, {by: None}, {"batch_size": 1}):
            with pytest.raises(ValueError, match=rf"\b{by}\b"):
                curve(**missing)
    largest = 2**53 - 1
    assert len({curve(**{by: t}) for t in (largest, float(largest), np.int64(largest))}) == 1
    assert curve(**{by: -0.0}) == curve(**{by: 0})


FINITE = [math.nan, math.inf, -math.inf, None, "1", True, 1j, [1.0]]
LEAST_0 = [*FINITE, -1, -1e-300]
ABOVE_0 = [*LEAST_0, 0, 0.0, -0.0]
RISING = [[0, 1], [2, 1], [1, 1], [-1, 2], [math.nan], ["1"], [None], [True], 5, "12", None]
LIST = [[], [math.nan], ["1"], [None], [[1]], 5, "12", None]
CHOICE = ["nonsense", "", None, 3, ["linear"]]
FLAG = ["no", None, 2, 0.0, []]
PAIRS = [[], [[0, 1]], [[1, 1], [1, 2]], [[2, 1], [1, 2]], [[-1, 1], [2, 1]], [1, 2], 5, None]
PAIRS += [[[0, 1], [1, math.nan]], [[0, 1], [1, 2, 3]], "abcd", ["ab", "cd"], [[None, 1], [2, 3]]]
SEED = [-1, 2**63, 1.5, True, None, "1"]

_CHOICES = "by kind shape mode anneal_strategy distribution"
# what each argument is, by its name, but for a few that are something else in one curve
_KINDS = [
    ("value", [*FINITE, 10**400]),
    ("beta1 beta3", [*ABOVE_0, 1, 1.5]),
    ("start end low high peak offset scale lower upper base alpha", FINITE),
    ("length every timescale dim up gamma div_factor final_div_factor rate", ABOVE_0),
    ("factor exponent warmup stable power", LEAST_0),
    ("total pct_start", [*ABOVE_0, 1e-3]),
    (_CHOICES, CHOICE),
    ("cycle staircase three_phase", FLAG),
    ("floor cap", [v for v in FINITE if v is not None]),
    ("down", [v for v in ABOVE_0 if v is not None]),
    ("t_mult", [*ABOVE_0, 0.5, 1 - 2**-53]),
    ("at", [*RISING, [1, 2, 3, 4]]),
    ("values", LIST),
    ("points", PAIRS),
    ("seed", SEED),
    ("pieces", [[], [1], [1, 2, 3, 4], 5, None, "abc", [None, 1, 2], ["1", 1, 2], [True, 1, 2]]),
]
KINDS = {name: bad for names, bad in _KINDS for name in names.split()}
_NEEDED = [("wsd", "decay"), ("noam", "warmup")]
SPECIAL: dict[tuple[str, str], list[Any]] = {
    **dict.fromkeys(_NEEDED, ABOVE_0),
    **dict.fromkeys([("cosine_restarts", "factor"), ("warmup", "length")], LEAST_0),
    ("staircase_linear", "fraction"): FINITE,
    ("gradual_warmup", "factor"): FINITE,
    ("power", "exponent"): FINITE,
    ("multistep", "at"): RISING,
    ("warmup_cosine", "total"): [*ABOVE_0, 100, 99],
    ("warmup_linear", "total"): [*ABOVE_0, 100, 99],
    ("tanh", "upper"): [*FINITE, -7, -8],
    ("random", "high"): [*FINITE, -0.1, -1],
}
FIRST = {row.name: row for row in reversed(ROWS)}
ARGUMENTS = [(n, a) for n in FIRST for a in inspect.signature(getattr(fs.schedules, n)).parameters]


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_a_bad_argument_is_refused_by_name(name: str, argument: str) -> None:
    accepted, unnamed = [], []
    for bad in SPECIAL.get((name, argument)) or KINDS[argument]:
        try:
            getattr(fs.schedules, name)(**{**FIRST[name].arguments, argument: bad})
            accepted.append(bad)
        except (ValueError, TypeError) as error:
            if not re.search(rf"\b{argument}\b", str(error)):
                unnamed.append((bad, str(error)))
    assert (accepted, unnamed) == ([], [])


def test_restarts_are_exact_after_thousands_of_slowly_growing_cycles() -> None:
    curve, growth = fs.schedules.cosine_restarts(start=1, length=1, t_mult=1.01), Fraction(1.01)
    for i in (1, 100, 1000, 2000):
        begin = float((growth**i - 1) / (growth - 1))
        assert curve(math.nextafter(begin, math.inf)) > 0.99
        assert curve(math.nextafter(begin, 0)) < 1e-6
