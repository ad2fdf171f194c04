"""The table of curves under test, each beside its formula in fractions and 300-bit arithmetic.

Arguments count as the doubles that they are, and places where pieces meet are found in fractions.
Times are fractions of steps; an `Epoch` (or a number of samples) counts as at a boundary within
1e-9 of it.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_right
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath

import fusestep as fs

N = Any  # a fraction, or a number of 300 bits
mp = mpmath.mp.clone()
mp.prec = 300
ONE = Fraction(1)


class Epoch(Fraction):
    """A time that is near a boundary before it is there."""


def reached(t: N) -> N:
    """The time that decides what has come."""
    return t + Fraction(1, 10**9) if isinstance(t, Epoch) else t


def spans(t: N, span: N) -> int:
    """How many whole spans have passed."""
    return math.floor(reached(t) / span)


def since(t: N, begin: N) -> N:
    """The time since a boundary that has come."""
    return max(t - begin, Fraction(0)) if isinstance(t, Epoch) else t - begin


def real(x: N) -> N:
    return mp.mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else mp.mpf(x)


def raised(base: N, exponent: N) -> N:
    if exponent == 0:
        return ONE
    return mp.power(real(base), real(exponent)) if base != 0 else Fraction(0)


def part(t: Fraction, length: Fraction) -> Fraction:
    return min(t / length, ONE)


def between(first: N, last: N, x: N) -> N:
    return real(first) + (real(last) - real(first)) * real(x)


def wave(x: Fraction) -> N:
    """From 1 to 0 as x goes from 0 to 1."""
    return (1 + mp.cospi(real(x))) / 2


def come(x: Fraction, shape: str = "linear") -> N:
    """How much of the way has come when x of the time has passed."""
    if shape == "linear":
        return x
    return mp.sqrt(real(x)) if shape == "1-sqrt" else 1 - wave(x)


def through(t: Fraction, times: list[N], values: list[N], shape: str = "linear") -> N:
    """Through points, held beyond them."""
    k = bisect_right(times, reached(t))
    if k in (0, len(times)):
        return values[max(k - 1, 0)]
    x = since(t, times[k - 1]) / (times[k] - times[k - 1])
    return between(values[k - 1], values[k], come(x, shape))


@functools.cache
def restarts(length: Fraction, t_mult: Fraction) -> list[Fraction]:
    begins = [Fraction(0), length]
    while begins[-1] <= 2**53:
        begins.append(begins[-1] + (begins[-1] - begins[-2]) * t_mult)
    return begins


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10: four words for four words under a key of two."""
    (c0, c1, c2, c3), (k0, k1), mask = counter, key, 2**32 - 1
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & mask, (a >> 32) ^ c3 ^ k1, a & mask
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return [c0, c1, c2, c3]


def polynomial(t: N, start: N, length: N, end: N = 0, power: N = 1, cycle: bool = False) -> N:
    whole = length * max(-spans(-t, length), 1) if cycle else length
    return between(end, start, raised(1 - part(t, whole), power))


def exponential(t: N, start: N, rate: N, every: N = 1, staircase: N = False, floor: N = None) -> N:
    value = real(start) * raised(rate, spans(t, every) if staircase else t / every)
    return value if floor is None else max(value, real(floor))


def inverse_time(t: N, start: N, scale: N, power: N = 1, staircase: bool = False) -> N:
    passed = Fraction(spans(t, scale)) if staircase else t / scale
    return real(start) / raised(1 + passed, power)


def cosine_restarts(t: N, start: N, length: N, end: N = 0, t_mult: N = 1, decay: N = 1) -> N:
    if t_mult == 1:
        i = spans(t, length)
        x = since(t, i * length) / length
    else:
        begins = restarts(length, t_mult)
        i = bisect_right(begins, reached(t)) - 1
        x = min(since(t, begins[i]) / (begins[i + 1] - begins[i]), ONE)
    return between(end, real(start) * raised(decay, i), wave(x))


def noam(t: N, dim: N, warmup: N, scale: N = 1) -> N:
    n, w = real(t + 1), real(warmup)
    return real(scale) / mp.sqrt(real(dim)) * min(1 / mp.sqrt(n), n / (w * mp.sqrt(w)))


def one_cycle(t: N, peak: N, total: N, warm: N = 0.3, three_phase: bool = False, **more: Any) -> N:
    first = peak / more.get("start_div", 25)
    up = Fraction(float(warm) * float(total) - 1)  # torch's phases end at doubles
    times = [Fraction(0), up, 2 * up, total - 1]
    values = [first, peak, first, first / more.get("end_div", 10000)]
    if not three_phase:
        del times[2], values[2]
    return through(t, times, values, more.get("anneal", "cosine"))


def cyclic(t: N, low: N, high: N, up: N, down: N = None, mode: str = "", gamma: N = 1) -> N:
    down = up if down is None else down
    cycle = spans(t, up + down)
    within = since(t, cycle * (up + down))
    height = within / up if within < up else (up + down - within) / down
    scales = {"exp_range": (gamma, t), "triangular2": (Fraction(1, 2), cycle)}
    return between(low, high, real(height) * real(raised(*scales.get(mode, (ONE, 1)))))


def tanh(t: N, start: N, end: N, length: N, lower: N = -7, upper: N = 3) -> N:
    x = part(t, length)
    return between(end, start, (1 - mp.tanh(real(lower * (1 - x) + upper * x))) / 2)


def power(t: N, a: N, b: N, cap: N = None) -> N:
    value = real(a) * raised(max(t, ONE), b)
    return value if cap is None else min(value, real(cap))


def random(t: N, low: N, high: N, distribution: str = "", every: N = 1, seed: N = 0) -> N:
    index, key = spans(t, every), int(seed)
    words = philox([index % 2**32, index >> 32, 0, 0], [key % 2**32, key >> 32])
    uniform = Fraction((words[1] << 32 | words[0]) >> 11, 2**53)
    if distribution == "loguniform":
        return real(low) * raised(high / low, uniform)
    return low + (high - low) * uniform


def warmup(t: N, length: N, start: N = 0, shape: str = "linear") -> N:
    x = part(t, length) if length else ONE
    return raised(start, 1 - x) if shape == "exponential" else between(start, 1, come(x, shape))


def warmup_cosine(t: N, peak: N, warmup: N, total: N, end: N = 0, start: N = 0) -> N:
    if reached(t) < warmup:
        return between(start, peak, t / warmup)
    return between(end, peak, wave(part(since(t, warmup), total - warmup)))


def wsd(t: N, peak: N, warmup: N, stable: N, decay: N, start: N = 0, end: N = 0, **more: Any) -> N:
    if reached(t) < warmup + stable:
        return through(t, [0, warmup], [start, peak])
    return between(peak, end, come(part(since(t, warmup + stable), decay), **more))


def sequence(t: N, pieces: list[N], at: list[N]) -> N:
    k = bisect_right(at, reached(t))
    piece, own = pieces[k], since(t, at[k - 1]) if k else t
    return piece.exact(own) if isinstance(piece, Row) else piece


FORMULAS: dict[str, Callable[..., N]] = {
    "constant": lambda t, value: value,
    "linear": lambda t, start, end, length: start + (end - start) * part(t, length),
    "inverse_offset": lambda t, start, offset: start - offset / max(t, ONE),
    "step": lambda t, start, factor, every: real(start) * raised(factor, spans(t, every)),
    "multistep": lambda t, start, factor, at: (
        real(start) * raised(factor, bisect_right(at, reached(t)))
    ),
    "staircase_linear": lambda t, start, decay, every, length: (
        start * (1 - decay * spans(type(t)(min(t, length)), every) * every / length)
    ),
    "piecewise": lambda t, values, at: values[bisect_right(at, reached(t))],
    "interpolate": lambda t, points, kind="linear": through(t, *zip(*points, strict=True), kind),
    "cosine": lambda t, start, length, end=0, exponent=1: between(
        end, start, raised(wave(part(t, length)), exponent)
    ),
    "inverse_sqrt": lambda t, peak, timescale: real(peak) / mp.sqrt(real(max(t / timescale, 1))),
    "rex": lambda t, start, end, length: between(end, start, 2 - 2 / (2 - part(t, length))),
    "table": lambda t, values: values[min(spans(t, ONE), len(values) - 1)],
    "warmup_linear": lambda t, peak, warmup, total, end=0, start=0: through(
        t, [0, warmup, total], [start, peak, end]
    ),
    "warmup_constant": lambda t, peak, warmup, start=0: through(t, [0, warmup], [start, peak]),
    "gradual_warmup": lambda t, base, k, length: base + (k * base - base) * part(t, length),
}
_WRITTEN_OUT = (polynomial, exponential, inverse_time, cosine_restarts, noam, one_cycle, cyclic)
_WRITTEN_OUT += (tanh, power, random, warmup, warmup_cosine, wsd, sequence)
FORMULAS |= {formula.__name__: formula for formula in _WRITTEN_OUT}


class Row:
    """A curve, where its pieces meet (the last boundary is its end), and its arguments."""

    def __init__(self, name: str, *boundaries: float, **arguments: Any) -> None:
        self.name, self.boundaries, self.arguments = name, boundaries, arguments
        self.by = arguments.get("by", "step")

    def __repr__(self) -> str:
        return f"{self.name}-" + "-".join(f"{k}={v}" for k, v in self.arguments.items())

    def build(self) -> Any:
        return getattr(fs.schedules, self.name)(**_each(self.arguments, Row.build, lambda x: x))

    def exact(self, t: Fraction) -> N:
        """The value at a time."""
        arguments = _each(self.arguments, lambda row: row, Fraction)
        arguments.pop("by", None)
        return FORMULAS[self.name](t, **arguments)


def _each(item: Any, of_row: Any, of_number: Any) -> Any:
    if isinstance(item, dict):
        return {k: _each(v, of_row, of_number) for k, v in item.items()}
    if isinstance(item, list):
        return [_each(v, of_row, of_number) for v in item]
    if isinstance(item, Row):
        return of_row(item)
    return item if isinstance(item, (str, bool)) else of_number(item)


_ONE_CYCLE = {"peak": 0.1, "total": 1000, "warm": 0.25}
_WARM = {"peak": 0.1, "warmup": 100}
_POINTS = [[2.0, 0.1], [10, 1.0], [20.5, -0.3], [100, 0.7]]
_LINE = Row("linear", 70, start=1.0, end=0.1, length=70)
_WAVE = Row("cosine", 30, start=0.3, length=30)

ROWS = [
    Row("constant", value=-0.1),
    _LINE,
    Row("linear", 12.3, start=-0.1, end=0.3, length=12.3, by="epoch"),
    Row("polynomial", 10, start=0.1, length=10),
    Row("polynomial", 33.3, start=-0.2, end=0.7, length=33.3, power=2.5, by="epoch"),
    Row("polynomial", 7, 14, 21, 700, start=1, end=1e-4, length=7, power=0.5, cycle=True),
    Row("exponential", 1, 2, 300, start=0.1, rate=0.97),
    Row("exponential", 10, 20, 70, start=3, rate=0.5, every=10, staircase=True, floor=0.01),
    Row("exponential", 0.1, 0.2, 0.3, 9, start=-1, rate=1.01, every=0.1, by="epoch"),
    Row("exponential", 0.1, 0.3, 0.7, 9, start=1, rate=0.9, every=0.1, staircase=True, by="epoch"),
    Row("inverse_time", 10, 20, 1000, start=0.1, scale=10),
    Row("inverse_time", 0.7, 2.1, 70, start=1, scale=0.7, power=0.55, staircase=True, by="epoch"),
    Row("inverse_offset", 1, 100, start=0.1, offset=0.05),
    Row("step", 10, 20, 100, start=0.1, factor=0.3, every=10),
    Row("step", 0.1, 0.3, 0.6, 7, start=-2, factor=0.9, every=0.1, by="epoch"),
    Row("step", 5, 10, start=1.0, factor=0, every=5),
    Row("multistep", 30, 60, 90, start=0.1, factor=0.1, at=[30, 60, 90]),
    Row("multistep", 0.5, 2.7, start=-1, factor=1.7, at=[0.5, 2.7], by="epoch"),
    Row("staircase_linear", 10, 20, 95, start=0.1, decay=0.9, every=10, length=95),
    Row("staircase_linear", 0.1, 0.3, 6, start=1, decay=-2, every=0.1, length=6, by="epoch"),
    Row("piecewise", 30, 60, values=[0.1, -0.5, 3], at=[30, 60]),
    Row("piecewise", 0.3, values=[0.1, 0.2], at=[0.3], by="epoch"),
    Row("interpolate", 2, 10, 20.5, 100, points=_POINTS),
    Row("interpolate", 2, 10, 20.5, 100, points=_POINTS, kind="cosine", by="epoch"),
    Row("cosine", 1000, start=0.1, length=1000),
    Row("cosine", 9.7, start=-0.3, end=0.2, length=9.7, exponent=1.5, by="epoch"),
    Row("cosine_restarts", 7, 21, 49, 105, start=1, length=7, t_mult=2, decay=0.7),
    Row("cosine_restarts", 10, 25, 47.5, start=0.3, end=0.1, length=10, t_mult=1.5),
    Row("cosine_restarts", 0.1, 0.4, 1.3, start=1, end=-1, length=0.1, t_mult=3, by="epoch"),
    Row("cosine_restarts", 0.7, 2.1, 70, start=1, length=0.7, decay=0.99, by="epoch"),
    Row("inverse_sqrt", 100, 5000, peak=0.1, timescale=100),
    Row("noam", 1.5, 20, dim=100.5, warmup=2.5, scale=-3, by="epoch"),
    Row("one_cycle", 249, 999, **_ONE_CYCLE),
    Row("one_cycle", 249, 498, 999, **_ONE_CYCLE, three_phase=True, anneal="linear"),
    Row("one_cycle", 249, 999, **_ONE_CYCLE, start_div=3, end_div=7, anneal="linear", by="epoch"),
    Row("one_cycle", 2, 4, 9, peak=-2, total=10, three_phase=True, by="samples"),
    Row("cyclic", 40, 80, 120, 800, low=0.01, high=0.1, up=40),
    Row("cyclic", 7, 10, 17, 90, low=0.3, high=-1, up=7, down=3, mode="triangular2"),
    Row("cyclic", 0.7, 2, 5, low=1, high=2, up=0.7, down=0.3, mode="exp_range", gamma=0.9),
    Row("wsd", 2, 9, 10, peak=1, warmup=2, stable=7, decay=1, start=-1, end=0.3, shape="cosine"),
    Row("wsd", 0.3, 0.9, peak=3, warmup=0, stable=0.3, decay=0.6, shape="1-sqrt", by="epoch"),
    Row("tanh", 2.3, start=-1, end=0.3, length=2.3, lower=-1.5, upper=0.2, by="epoch"),
    Row("rex", 0.7, start=-0.1, end=3, length=0.7, by="epoch"),
    Row("power", 1, 1000, a=4.0, b=-0.51, cap=0.7),
    Row("random", 1, 2, 300, low=-0.1, high=0.7, seed=2**40 + 3),
    Row(
        "random", 0.1, 0.3, 7, low=1e-5, high=0.1, distribution="loguniform", every=0.1, by="epoch"
    ),
    Row("table", 1, 2, 3, values=[0.3, -0.2, 0.1, 7]),
    Row("warmup", 4, length=4),
    Row("warmup", 0, length=0, start=0.3),
    Row("warmup", 3.3, length=3.3, start=-0.3, shape="cosine", by="epoch"),
    Row("warmup", 500, length=500, start=1e-3, shape="exponential"),
    Row("warmup_cosine", 100, 1000, **_WARM, total=1000),
    Row("warmup_cosine", 0.3, 7, peak=-1, warmup=0.3, total=7, end=0.2, start=0.9, by="epoch"),
    Row("warmup_linear", 100, 1000, **_WARM, total=1000, end=0.3, start=-0.1),
    Row("warmup_constant", 0.7, peak=-1, warmup=0.7, start=0.1, by="epoch"),
    Row("gradual_warmup", 5, base=0.1, k=8, length=5, by="epoch"),
    Row("sequence", 20, 100, 130, pieces=[0.3, _LINE, _WAVE], at=[20, 100]),
    Row("sequence", 0.3, pieces=[1, 2], at=[0.3], by="epoch"),
]
