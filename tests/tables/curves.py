"""The table of curves under test, each beside its formula."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import fusestep as fs
from tables.curve_formulas import FORMULAS, N


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


_ONE_CYCLE = {"peak": 0.1, "total": 1000, "pct_start": 0.25}
_DIVIDED = {"div_factor": 3, "final_div_factor": 7}
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
    Row("inverse_time", 10, 20, 1000, start=0.1, timescale=10),
    Row(
        "inverse_time", 0.7, 2.1, 70, start=1, timescale=0.7, power=0.55, staircase=True, by="epoch"
    ),
    Row("inverse_offset", 1, 100, start=0.1, offset=0.05),
    Row("step", 10, 20, 100, start=0.1, factor=0.3, every=10),
    Row("step", 0.1, 0.3, 0.6, 7, start=-2, factor=0.9, every=0.1, by="epoch"),
    Row("step", 5, 10, start=1.0, factor=0, every=5),
    Row("multistep", 30, 60, 90, start=0.1, factor=0.1, at=[30, 60, 90]),
    Row("multistep", 0.5, 2.7, start=-1, factor=1.7, at=[0.5, 2.7], by="epoch"),
    Row("staircase_linear", 10, 20, 95, start=0.1, fraction=0.9, every=10, length=95),
    Row("staircase_linear", 0.1, 0.3, 6, start=1, fraction=-2, every=0.1, length=6, by="epoch"),
    Row("piecewise", 30, 60, values=[0.1, -0.5, 3], at=[30, 60]),
    Row("piecewise", 0.3, values=[0.1, 0.2], at=[0.3], by="epoch"),
    Row("interpolate", 2, 10, 20.5, 100, points=_POINTS),
    Row("interpolate", 2, 10, 20.5, 100, points=_POINTS, kind="cosine", by="epoch"),
    Row("cosine", 1000, start=0.1, length=1000),
    Row("cosine", 9.7, start=-0.3, end=0.2, length=9.7, exponent=1.5, by="epoch"),
    Row("cosine_restarts", 7, 21, 49, 105, start=1, length=7, t_mult=2, factor=0.7),
    Row("cosine_restarts", 10, 25, 47.5, start=0.3, end=0.1, length=10, t_mult=1.5),
    Row("cosine_restarts", 0.1, 0.4, 1.3, start=1, end=-1, length=0.1, t_mult=3, by="epoch"),
    Row("cosine_restarts", 0.7, 2.1, 70, start=1, length=0.7, factor=0.99, by="epoch"),
    Row("inverse_sqrt", 100, 5000, peak=0.1, timescale=100),
    Row("noam", 1.5, 20, dim=100.5, warmup=2.5, scale=-3, by="epoch"),
    Row("one_cycle", 249, 999, **_ONE_CYCLE),
    Row("one_cycle", 249, 498, 999, **_ONE_CYCLE, three_phase=True, anneal_strategy="linear"),
    Row("one_cycle", 249, 999, **_ONE_CYCLE, **_DIVIDED, anneal_strategy="linear", by="epoch"),
    Row("one_cycle", 2, 4, 9, peak=-2, total=10, three_phase=True, by="samples"),
    Row("cyclic", 40, 80, 120, 800, low=0.01, high=0.1, up=40),
    Row("cyclic", 7, 10, 17, 90, low=0.3, high=-1, up=7, down=3, mode="triangular2"),
    Row("cyclic", 0.7, 2, 5, low=1, high=2, up=0.7, down=0.3, mode="exp_range", gamma=0.9),
    Row("wsd", 2, 9, 10, peak=1, warmup=2, stable=7, decay=1, start=-1, end=0.3, shape="cosine"),
    Row("wsd", 0.3, 0.9, peak=3, warmup=0, stable=0.3, decay=0.6, shape="1-sqrt", by="epoch"),
    Row("tanh", 2.3, start=-1, end=0.3, length=2.3, lower=-1.5, upper=0.2, by="epoch"),
    Row("rex", 0.7, start=-0.1, end=3, length=0.7, by="epoch"),
    Row("power", 1, 1000, scale=4.0, exponent=-0.51, cap=0.7),
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
    Row("gradual_warmup", 5, base=0.1, factor=8, length=5, by="epoch"),
    Row("ademamix_alpha", 99, alpha=5.0, length=100),
    Row("ademamix_alpha", 2.3, alpha=-0.3, length=3.3, by="epoch"),
    Row("ademamix_beta3", 99, beta1=0.9, beta3=0.9999, length=100),
    Row("ademamix_beta3", 2.3, beta1=0.999, beta3=0.3, length=3.3, by="epoch"),
    Row("sequence", 20, 100, 130, pieces=[0.3, _LINE, _WAVE], at=[20, 100]),
    Row("sequence", 0.3, pieces=[1, 2], at=[0.3], by="epoch"),
]
