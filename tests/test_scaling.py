"""Learning rates that follow the batch: NumPy's values, saved forms, use in optimizers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusestep as fs
import fusestep.expression as fe
from fusestep import scaling, schedules

SIZES = np.array([1, 2, 7, 31, 32, 33, 64, 100, 320, 4096, 65536, 10**9])
COSINE = schedules.cosine(start=0.5, length=100)
# an expression at step 30, and its values by NumPy
ROWS: list[tuple[Any, Callable[[Any], Any]]] = [
    (scaling.linear(0.1, 32), lambda b: 0.1 * (b / 32)),
    (scaling.linear(COSINE, 100), lambda b: COSINE(30) * (b / 100)),
    (scaling.sqrt(0.1, 32), lambda b: 0.1 * np.sqrt(b / 32)),
    (scaling.sqrt(COSINE, 7), lambda b: COSINE(30) * np.sqrt(b / 7)),
    (scaling.power(0.1, 32, 0.75), lambda b: 0.1 * (b / 32) ** 0.75),
    (scaling.power(COSINE, 5, exponent=0), lambda b: COSINE(30) * np.ones(b.shape)),
    (scaling.noise_curve(0.4, 900.0), lambda b: 0.4 / (1 + 900 / b)),
    (scaling.noise_curve(COSINE, fe.step * 9, 0.5), lambda b: COSINE(30) / np.sqrt(1 + 270 / b)),
    (scaling.noise_curve(0.4, 0), lambda b: np.full(b.shape, 0.4)),
]
rows = pytest.mark.parametrize(("found", "expected"), ROWS, ids=[repr(row[0]) for row in ROWS])


@rows
def test_values_are_those_of_numpy(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found(30, batch_size=SIZES), expected(SIZES), rtol=1e-15, atol=0)


@rows
def test_a_rule_is_saved_and_written_with_its_name_and_arguments(found: Any, expected: Any) -> None:
    assert fe.from_json(found.to_json()) == found
    assert fe.parse(repr(found)) == found
    assert fe.from_json(found.to_json())(30, batch_size=64) == found(30, batch_size=64)


def test_the_rules_are_written_apart_from_curves_of_the_same_name() -> None:
    assert repr(scaling.linear(0.1, 32)) == "scaling.linear(lr=0.1, base_batch=32)"
    assert repr(scaling.sqrt(COSINE, 32)) == f"scaling.sqrt(lr={COSINE!r}, base_batch=32)"


def test_every_rule_has_a_docstring_with_an_example() -> None:
    for name in scaling.__all__:
        assert ">>>" in (inspect.getdoc(getattr(scaling, name)) or ""), name


def test_an_optimizer_uses_the_rate_for_the_batch_of_the_step() -> None:
    w = np.ones(3)
    opt = fs.SGD(w, lr=scaling.linear(0.1, 32))
    assert opt.step(np.ones(3), clock=fs.Clock(batch_size=64)).lr == 0.2
    np.testing.assert_array_equal(w, np.ones(3) - 0.2)
    assert opt.step(np.ones(3), clock=fs.Clock(batch_size=8)).lr == 0.025
    with pytest.raises(ValueError, match="batch_size"):
        opt.step(np.ones(3))


def test_sde_adam_changes_all_settings_at_once() -> None:
    settings = scaling.sde_adam(betas=(0.9, 0.999), eps=1e-8, lr=1e-3, base_batch=32)
    k = SIZES[:6] / 32
    sizes: dict[str, Any] = {"batch_size": SIZES[:6]}
    np.testing.assert_allclose(settings["lr"](**sizes), 1e-3 * np.sqrt(k), rtol=1e-15)
    np.testing.assert_allclose(settings["eps"](**sizes), 1e-8 / np.sqrt(k), rtol=1e-15)
    for beta, plain in zip(settings["betas"], (0.9, 0.999), strict=True):
        # NumPy rounds 1 - beta times k before it subtracts
        np.testing.assert_allclose(beta(**sizes), 1 - k * (1 - plain), rtol=4e-16)
        assert beta(batch_size=32) == plain
        assert fe.from_json(beta.to_json()) == beta


@pytest.mark.parametrize(("size", "refused"), [(64, False), (319, False), (320, True), (999, True)])
def test_an_optimizer_refuses_a_batch_for_which_there_are_no_betas(
    size: int, refused: bool
) -> None:
    settings = scaling.sde_adam(betas=(0.9, 0.999), eps=1e-8, lr=1e-3, base_batch=32)
    w = np.ones(3)
    opt = fs.Adam(w, **settings)
    clock = fs.Clock(batch_size=size)
    if refused:
        assert settings["betas"][0](clock) == -1.0
        with pytest.raises(ValueError, match="beta"):
            opt.step(np.ones(3), clock=clock)
        np.testing.assert_array_equal(w, np.ones(3))
    else:
        assert opt.step(np.ones(3), clock=clock).applied
        assert opt.betas == tuple(beta(clock) for beta in settings["betas"])


def test_sde_adam_takes_expressions_everywhere() -> None:
    beta = schedules.linear(start=0.5, end=0.75, length=2)
    settings = scaling.sde_adam(betas=(beta, 0.75), eps=COSINE, lr=COSINE, base_batch=10)
    clock = fs.Clock(step=2, batch_size=20)
    assert [value(clock) for value in settings["betas"]] == [0.5, 0.5]
    assert settings["lr"](clock) == pytest.approx(COSINE(2) * np.sqrt(2), rel=1e-15)
    assert settings["eps"](clock) == pytest.approx(COSINE(2) / np.sqrt(2), rel=1e-15)


def sde(betas: Any = (0.9, 0.999), eps: Any = 1e-8, lr: Any = 0.1, base_batch: Any = 32) -> Any:
    return scaling.sde_adam(betas, eps, lr, base_batch)


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: scaling.linear(32, 0.1), "base_batch must be a whole number, not 0.1"),
    (lambda: scaling.linear(0.1, 0), "base_batch must be at least 1, not 0"),
    (lambda: scaling.linear(np.inf, 32), "lr must be finite, not inf"),
    (lambda: scaling.sqrt("x", 32), "lr must be a number, not 'x'"),
    (lambda: scaling.sqrt(0.1, True), "base_batch must be a whole number, not True"),
    (lambda: scaling.power(0.1, 32, -1), "exponent must be finite and at least 0, not -1"),
    (lambda: scaling.power(0.1, 32, COSINE), "exponent must be a number"),
    (lambda: scaling.noise_curve(0.1, -1), "noise_scale must be finite and at least 0, not -1"),
    (lambda: scaling.noise_curve(0.1, "x"), "noise_scale must be a number, not 'x'"),
    (lambda: scaling.noise_curve(None, 1), "lr_max must be a number, not None"),
    (lambda: scaling.noise_curve(0.1, 1, np.nan), "exponent must be finite"),
    (lambda: sde(betas=0.9), "betas must be a list, not 0.9"),
    (lambda: sde(betas=(0.9,)), "betas must hold at least 2, not 1"),
    (lambda: sde(betas=(0.9, 0.9, 0.9)), "betas must be two, not (0.9, 0.9, 0.9)"),
    (lambda: sde(betas=(0.9, 1.0)), "betas[1] must be in [0, 1), not 1"),
    (lambda: sde(eps=-1e-8), "eps must be finite and at least 0"),
    (lambda: sde(lr=None), "lr must be a number, not None"),
    (lambda: sde(base_batch=1.5), "base_batch must be a whole number, not 1.5"),
]


@pytest.mark.parametrize(("bad", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments_are_named(bad: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        bad()
