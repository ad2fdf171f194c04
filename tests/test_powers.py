"""The powers in bias corrections are rounded once from their exact values."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest

import fusestep as fs
from tables.updates import power


def updated(plan: Any, times: int) -> None:
    """Makes a plan go on from that many updates."""
    plan.load(
        updates=[times],
        attempted=times,
        applied=times,
        accumulated=(0.0, 0, 0.0, []),
        settings=plan.settings,
        program=None,
        targets=[],
        nonfinite="propagate",
    )


class Corrections:
    """What an Adam without memory of squares divides by: 1 - beta^t."""

    def __init__(self, beta: float) -> None:
        self.w = np.zeros(1)
        self.opt = fs.Adam(self.w, lr=1.0, betas=(beta, 0.0), eps=1e-300)
        (state,) = self.opt.state.values()
        self.m = state["m"]

    def agrees(self, t: int, correction: float) -> bool:
        """Whether the step that follows t - 1 others divides by this very double."""
        for lr in (1.0, correction, correction * 0.7):
            self.w[:], self.m[:] = 0.0, 1.0
            self.opt.lr = lr
            updated(self.opt._plan, t - 1)
            self.opt.step(np.ones(1))
            if self.w[0] != -(lr / correction):
                return False
        return True


def correction(beta: float, t: int) -> float:
    with mpmath.workprec(300):
        return 1.0 - float(mpmath.mpf(beta) ** t)


def test_corrections_tell_neighbouring_doubles_apart() -> None:
    seen = Corrections(0.9)
    for t in (3, 7, 40):
        right = correction(0.9, t)
        assert seen.agrees(t, right)
        assert not seen.agrees(t, math.nextafter(right, 1))
        assert not seen.agrees(t, math.nextafter(right, 0))


BETAS = [0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 0.999999, 0.5, 0.123, 1e-5, 1 - 2.0**-40]


@pytest.mark.parametrize("beta", BETAS)
def test_powers_of_steps_one_after_the_other_and_far_apart_are_correctly_rounded(
    beta: float,
) -> None:
    seen, rng = Corrections(beta), random.Random(1)
    at = [*range(1, 70), *(int(10 ** rng.uniform(0, 6)) for _ in range(60))]
    # backwards and forwards: nothing that is remembered may be taken for something else
    at += [31, 33, 32, 16, 15, 10**6, 10**6 + 1, 10**6 - 1, 2**31, 2**31 + 5, 2**53 - 1]
    assert [t for t in at if not seen.agrees(t, correction(beta, t))] == []


@pytest.mark.parametrize("gap", [2.0**-53, 2.0**-50, 2.0**-40])
def test_powers_that_last_for_ever_are_right_to_the_last_bit_or_its_neighbour(gap: float) -> None:
    beta, rng = 1.0 - gap, random.Random(2)
    seen = Corrections(beta)
    for t in (
        2**35 + 7,
        2**40 + 1,
        2**52 + 3,
        2**53 - 1,
        *(rng.getrandbits(53) for _ in range(40)),
    ):
        right = correction(beta, t)
        near = (right, math.nextafter(right, 0), math.nextafter(right, 1))
        assert any(seen.agrees(t, value) for value in near)


def test_the_powers_are_those_of_exact_arithmetic() -> None:
    for beta in (0.9, 0.999):
        for t in (1, 2, 3, 10, 1000):
            assert power(beta, t) == float(Fraction(beta) ** t)
            assert 1.0 - power(beta, t) == correction(beta, t)


def test_many_rates_at_once_do_not_disturb_each_other() -> None:
    betas = [0.5 + k / 100 for k in range(40)]
    params = {str(k): np.zeros(1) for k in range(40)}
    groups = [{"match": str(k), "betas": (beta, 0.0)} for k, beta in enumerate(betas)]
    opt = fs.Adam(params, lr=1.0, eps=1e-300, groups=groups)
    for t in range(1, 20):
        for w, state in zip(params.values(), opt.state.values(), strict=True):
            w[:], state["m"][:] = 0.0, 1.0
        opt.step({path: np.ones(1) for path in params})
        expected = [-(1.0 / correction(beta, t)) for beta in betas]
        assert [float(w[0]) for w in params.values()] == expected
