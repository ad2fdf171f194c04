"""The formulas of curves, in fractions and 300-bit arithmetic.

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


def inverse_time(t: N, start: N, timescale: N, power: N = 1, staircase: bool = False) -> N:
    passed = Fraction(spans(t, timescale)) if staircase else t / timescale
    return real(start) / raised(1 + passed, power)


def cosine_restarts(t: N, start: N, length: N, end: N = 0, t_mult: N = 1, factor: N = 1) -> N:
    if t_mult == 1:
        i = spans(t, length)
        x = since(t, i * length) / length
    else:
        begins = restarts(length, t_mult)
        i = bisect_right(begins, reached(t)) - 1
        x = min(since(t, begins[i]) / (begins[i + 1] - begins[i]), ONE)
    return between(end, real(start) * raised(factor, i), wave(x))


def noam(t: N, dim: N, warmup: N, scale: N = 1) -> N:
    n, w = real(t + 1), real(warmup)
    return real(scale) / mp.sqrt(real(dim)) * min(1 / mp.sqrt(n), n / (w * mp.sqrt(w)))


def one_cycle(
    t: N, peak: N, total: N, pct_start: N = 0.3, three_phase: bool = False, **more: Any
) -> N:
    first = peak / more.get("div_factor", 25)
    up = Fraction(float(pct_start) * float(total) - 1)  # torch's phases end at doubles
    times = [Fraction(0), up, 2 * up, total - 1]
    values = [first, peak, first, first / more.get("final_div_factor", 10000)]
    if not three_phase:
        del times[2], values[2]
    return through(t, times, values, more.get("anneal_strategy", "cosine"))


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


def power(t: N, scale: N, exponent: N, cap: N = None) -> N:
    value = real(scale) * raised(max(t, ONE), exponent)
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


def ademamix_beta3(t: N, beta1: N, beta3: N, length: N) -> N:
    x, first, last = real(part(t + 1, length)), mp.log(real(beta1)), mp.log(real(beta3))
    return mp.exp(first * last / ((1 - x) * last + x * first))


def sequence(t: N, pieces: list[N], at: list[N]) -> N:
    k = bisect_right(at, reached(t))
    piece, own = pieces[k], since(t, at[k - 1]) if k else t
    return piece.exact(own) if hasattr(piece, "exact") else piece


FORMULAS: dict[str, Callable[..., N]] = {
    "constant": lambda t, value: value,
    "linear": lambda t, start, end, length: start + (end - start) * part(t, length),
    "inverse_offset": lambda t, start, offset: start - offset / max(t, ONE),
    "step": lambda t, start, factor, every: real(start) * raised(factor, spans(t, every)),
    "multistep": lambda t, start, factor, at: (
        real(start) * raised(factor, bisect_right(at, reached(t)))
    ),
    "staircase_linear": lambda t, start, fraction, every, length: (
        start * (1 - fraction * spans(type(t)(min(t, length)), every) * every / length)
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
    "ademamix_alpha": lambda t, alpha, length: alpha * part(t + 1, length),
    "gradual_warmup": lambda t, base, factor, length: (
        base + (factor * base - base) * part(t, length)
    ),
}
_WRITTEN_OUT = (polynomial, exponential, inverse_time, cosine_restarts, noam, one_cycle, cyclic)
_WRITTEN_OUT += (tanh, power, random, warmup, warmup_cosine, wsd, ademamix_beta3, sequence)
FORMULAS |= {formula.__name__: formula for formula in _WRITTEN_OUT}
