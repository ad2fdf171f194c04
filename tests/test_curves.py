"""Every curve against its formula in exact arithmetic, and the ways of evaluating against each
other."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import _core
from fusestep.expression import clip, floor, maximum, minimum, where
from models import Array, assert_same_bits

pytest.importorskip("mpmath", reason="mpmath is not installed")
from curves import ROWS, Row, mp, philox, real

FAR = (1e6, 1e12, 2.0**53)
SUPPORTED = fs.build_info()["isa_supported"]
every_row = pytest.mark.parametrize("row", ROWS, ids=repr)


def times_of(row: Row) -> list[float]:
    """The start, every boundary and its neighbours, far beyond, and 200 times inside."""
    end, generator = max(row.boundaries, default=1000.0), Random(repr(row))
    near = [s for b in row.boundaries for s in (b - 1, math.nextafter(b, 0), b, b + 1e-9, b - 1e-9)]
    near += [s for b in row.boundaries for s in (math.nextafter(b, math.inf), b + 1)]
    whole = [generator.randint(0, math.ceil(end)) for _ in range(100)]
    inside = [generator.uniform(0, end) for _ in range(100)]
    return [t for t in (0, 1, 2, *near, *FAR, *whole, *inside) if t >= 0]


def fraction(x: Any) -> Fraction:
    """A number of 300 bits as a fraction; what is far below the least double is 0."""
    if isinstance(x, Fraction):
        return x
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
    return [(error(found, row.exact(Fraction(t))), t, found) for t, found in values]


def test_every_curve_has_a_row() -> None:
    curves = {*fs.schedules.__all__} - {"as_lambda", "initial_lr"}
    assert curves - {row.name for row in ROWS} == set(), "tests/curves.py has no row"


def test_every_option_of_every_curve_is_in_a_row() -> None:
    for name in {row.name for row in ROWS} - {"constant"}:
        options = set(inspect.signature(getattr(fs.schedules, name)).parameters) - {"by"}
        assert options - {k for row in ROWS if row.name == name for k in row.arguments} == set()
    assert {row.by for row in ROWS} == {"step", "samples", "epoch"}


def test_the_generator_of_the_table_gives_the_published_words() -> None:
    words = philox([0, 0, 0, 0], [0, 0])
    assert words == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@every_row
def test_a_value_is_within_two_units_of_the_last_place(row: Row) -> None:
    assert [e for e in errors(row) if not e[0] <= 2] == []


def test_nearly_every_value_is_the_nearest_double() -> None:
    found = [(e, row, t, value) for row in ROWS for e, t, value in errors(row)]
    others = [e for e in found if e[0] > 0.5 + 1e-9]
    assert len(found) > 10_000
    assert len(others) < len(found) / 1000, (len(others), len(found), others[:20])


# what begins, ends and is held exactly: times and values by the names of arguments
STATED: dict[str, Callable[..., dict[float, float]]] = {
    "linear": lambda a: {0: a["start"], a["length"]: a["end"]},
    "polynomial": lambda a: {0: a["start"], a["length"]: a.get("end", 0)},
    "cosine": lambda a: {0: a["start"], a["length"]: a.get("end", 0)},
    "rex": lambda a: {0: a["start"], a["length"]: a["end"]},
    "inverse_sqrt": lambda a: {0: a["peak"], a["timescale"]: a["peak"]},
    "interpolate": lambda a: {0: a["points"][0][1], **dict(a["points"])},
    "piecewise": lambda a: {0: a["values"][0], **dict(zip(a["at"], a["values"][1:], strict=True))},
    "one_cycle": lambda a: {a["total"] * a.get("warm", 0.3) - 1: a["peak"]},
    "cyclic": lambda a: {0: a["low"], a["up"]: a["high"]},
    "warmup": lambda a: {a["length"]: 1.0} | ({0: a.get("start", 0)} if a["length"] else {}),
    "warmup_cosine": lambda a: {0: a.get("start", 0), a["warmup"]: a["peak"], **_end(a, "total")},
    "warmup_linear": lambda a: {0: a.get("start", 0), a["warmup"]: a["peak"], **_end(a, "total")},
    "warmup_constant": lambda a: {0: a.get("start", 0), a["warmup"]: a["peak"]},
    "gradual_warmup": lambda a: {0: a["base"], a["length"]: a["k"] * a["base"]},
    "wsd": lambda a: {a["warmup"]: a["peak"], a["warmup"] + a["stable"]: a["peak"]},
}


def _end(arguments: dict[str, Any], at: str) -> dict[float, float]:
    return {arguments[at]: arguments.get("end", 0)}


@pytest.mark.parametrize("row", [row for row in ROWS if row.name in STATED], ids=repr)
def test_curves_begin_peak_and_end_exactly_and_are_held(row: Row) -> None:
    a, curve = row.arguments, row.build()
    stated = STATED[row.name](a)
    if a.get("mode") == "exp_range":
        del stated[a["up"]]
    assert {t: curve(**{row.by: t}) for t in stated} == stated
    if row.name not in ("inverse_sqrt", "one_cycle", "cyclic", "wsd") and "cycle" not in a:
        last = stated[max(stated)]
        assert [curve(**{row.by: t}) for t in (max(stated) + 1, *FAR)] == [last] * 4


@every_row
@pytest.mark.parametrize("isa", SUPPORTED)
def test_all_ways_to_evaluate_give_the_same_bits(row: Row, isa: str) -> None:
    _core.use_isa(SUPPORTED[0])
    curve = row.build()
    reals = np.random.default_rng(0).uniform(0, 1.2 * max(row.boundaries, default=100), 20_100)
    reals[: len(times_of(row))] = times_of(row)
    whole = np.rint(reals).astype(np.int64)
    expected = [curve(**{row.by: t}) for t in (reals, whole)]
    _core.use_isa(isa)
    shuffled = np.random.default_rng(1).permutation(len(reals))
    for threads in (1, 2, 3):
        fs.set_num_threads(threads)
        for t, values in zip((reals, whole), expected, strict=True):
            assert_same_bits([curve(**{row.by: t})], [values])
            assert_same_bits([curve(**{row.by: t[::-1]})], [values[::-1]])
            assert_same_bits([curve(**{row.by: t[shuffled]})], [values[shuffled]])
    for t, values in zip((reals, whole), expected, strict=True):
        singly = np.array([curve(**{row.by: one}) for one in t[:400].tolist()])
        assert_same_bits([singly], [values[:400]])
        assert_same_bits([curve(**{row.by: t[:7]})], [values[:7]])
        assert_same_bits([curve(**{row.by: t[:400].reshape(20, 20)}).ravel()], [values[:400]])


NO_TIMES = [-1, -1e-300, -(2**80), math.nan, math.inf, -math.inf, 2**53 + 1, 2.0**53 + 2, 10**400]
NO_NUMBERS = [True, np.True_, "3", b"3", 1j, [None], ["1"], [True], {}, np.array([1], object)]


@pytest.mark.parametrize("by", ["step", "samples", "epoch"])
@pytest.mark.parametrize("build", ["linear", "constant", "table", "random"])
def test_what_is_no_time_is_refused_by_name(by: str, build: str) -> None:
    row = next(row for row in ROWS if row.name == build)
    curve = row.build().by(by)
    for bad in NO_TIMES:
        with pytest.raises(ValueError, match=rf"^{by} must be .* not"):
            curve(**{by: bad})
        if abs(bad) < 2**63 or not isinstance(bad, int):
            for array in (np.array([1, bad, 2]), np.array(bad), [bad]):
                with pytest.raises(ValueError, match=rf"^{by} must be .* not"):
                    curve(**{by: array})
    for bad in NO_NUMBERS:
        with pytest.raises(TypeError, match=rf"^{by} must be a number .* not"):
            curve(**{by: bad})
    with pytest.raises(ValueError, match=rf"^{by} must be"):
        curve(**{by: np.array([2**53 + 1], np.uint64)})
    if build != "constant":
        for missing in ({}, {by: None}, {"batch_size": 1}):
            with pytest.raises(ValueError, match=rf"\b{by}\b"):
                curve(**missing)
    assert curve(**{by: 2**53}) == curve(**{by: 2.0**53}) == curve(**{by: np.int64(2**53)})
    assert curve(**{by: -0.0}) == curve(**{by: 0})


FINITE = [math.nan, math.inf, -math.inf, 10**400, None, "1", True, 1j, [1.0]]
LEAST_0 = [*FINITE, -1, -1e-300]
ABOVE_0 = [*LEAST_0, 0, 0.0, -0.0]
RISING = [[0, 1], [2, 1], [1, 1], [-1, 2], [math.nan], ["1"], [None], [True], 5, "12", None]
LIST = [[], [math.nan], ["1"], [None], [[1]], 5, "12", None]
CHOICE = ["nonsense", "", None, 3, ["linear"]]
FLAG = ["no", None, 2, 0.0, []]
PAIRS = [[], [[0, 1]], [[1, 1], [1, 2]], [[2, 1], [1, 2]], [[-1, 1], [2, 1]], [1, 2], 5, None]
PAIRS += [[[0, 1], [1, math.nan]], [[0, 1], [1, 2, 3]], "abcd", ["ab", "cd"], [[None, 1], [2, 3]]]
SEED = [-1, 2**63, 1.5, True, None, "1"]

# what each argument is, by its name, but for a few that are something else in one curve
KINDS: dict[str, list[Any]] = {
    **dict.fromkeys(
        "value start end low high peak offset scale lower upper a b base k".split(), FINITE
    ),
    **dict.fromkeys("length every timescale dim up gamma start_div end_div rate".split(), ABOVE_0),
    **dict.fromkeys(("factor", "exponent", "warmup", "stable", "power"), LEAST_0),
    **dict.fromkeys(("total", "warm"), [*ABOVE_0, 1e-3]),
    **dict.fromkeys(("by", "kind", "shape", "mode", "anneal", "distribution"), CHOICE),
    **dict.fromkeys(("cycle", "staircase", "three_phase"), FLAG),
    **dict.fromkeys(("floor", "cap"), [v for v in FINITE if v is not None]),
    **{"down": [v for v in ABOVE_0 if v is not None], "t_mult": [*ABOVE_0, 0.5, 1.0001]},
    **{"at": [*RISING, [1, 2, 3, 4]], "values": LIST, "points": PAIRS, "seed": SEED},
    "pieces": [[], [1], [1, 2, 3, 4, 5], 5, None, "abc", [None, 1, 2], ["1", 1, 2], [True, 1, 2]],
}
SPECIAL: dict[tuple[str, str], list[Any]] = {
    ("staircase_linear", "decay"): FINITE,
    ("cosine_restarts", "decay"): LEAST_0,
    ("wsd", "decay"): ABOVE_0,
    ("inverse_time", "scale"): ABOVE_0,
    ("noam", "warmup"): ABOVE_0,
    ("warmup", "length"): LEAST_0,
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
    for bad in SPECIAL.get((name, argument), KINDS.get(argument, [])) or pytest.fail("no kind"):
        row = Row(name, **{**FIRST[name].arguments, argument: bad})
        try:
            curve = getattr(fs.schedules, name)(**{**FIRST[name].arguments, argument: bad})
        except (ValueError, TypeError) as error:
            assert re.search(rf"\b{argument}\b", str(error)), (bad, error)
        else:
            pytest.fail(f"{row!r} is accepted: {curve!r}")
