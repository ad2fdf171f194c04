"""Lion and Rprop: what a sign makes of zeros and NaN, and steps of exactly one size."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fusestep as fs
from tables.models import DTYPES


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", [fs.Lion, fs.Rprop])
def test_every_gradient_however_small_moves_an_element_by_the_same(
    optimizer: type[fs.optim.Optimizer], dtype: type
) -> None:
    tiny, largest = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    options = {"betas": (0.0, 0.0)} if optimizer is fs.Lion else {}
    w = np.zeros(6, dtype)
    gradient = np.array([tiny, -tiny, largest, -largest, 0.0, -0.0], dtype)
    optimizer(w, lr=0.25, **options).step(gradient)
    assert w.tolist() == [-0.25, 0.25, -0.25, 0.25, 0.0, 0.0]


@pytest.mark.parametrize("optimizer", [fs.Lion, fs.Rprop])
def test_nan_is_not_hidden_by_a_sign(optimizer: type[fs.optim.Optimizer]) -> None:
    w = np.ones(2)
    optimizer(w, lr=0.25).step(np.array([np.nan, 1.0]))
    assert math.isnan(w[0])
    assert w[1] == 0.75


def test_lion_decays_the_parameter_before_its_step_also_where_the_gradient_is_0() -> None:
    w = np.array([4.0, 4.0])
    fs.Lion(w, lr=0.25, weight_decay=0.5).step(np.array([0.0, 1.0]))
    assert w.tolist() == [3.5, 3.25]


def test_lion_with_two_equal_betas_follows_the_sign_of_plain_momentum() -> None:
    w, m = np.zeros(100), np.zeros(100)
    opt = fs.Lion(w, lr=0.25, betas=(0.75, 0.75))
    expected = np.zeros(100)
    for seed in range(10):
        gradient = np.random.default_rng(seed).standard_normal(100)
        m = m + 0.25 * (gradient - m)
        expected -= 0.25 * np.sign(m)
        opt.step(gradient)
    assert (w == expected).all()


def test_a_step_of_rprop_stays_within_its_limits_and_waits_after_a_change_of_sign() -> None:
    w = np.zeros(1)
    opt = fs.Rprop(w, lr=1.0, etas=(0.5, 2.0), step_sizes=(0.25, 4.0))
    sizes, places = [], []
    for gradient in (1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0):
        opt.step(np.array([gradient]))
        sizes.append(opt.state[""]["step_size"][0])
        places.append(w[0])
    assert sizes == [1.0, 2.0, 4.0, 4.0, 2.0, 2.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert places[:5] == [-1.0, -3.0, -7.0, -11.0, -11.0]
    assert places[5:] == [-9.0, -9.0, -10.0, -10.0, -9.5, -9.5, -9.75, -9.75]


def test_the_product_of_two_small_gradients_is_0_for_rprop() -> None:
    w = np.zeros(2, np.float32)
    opt = fs.Rprop(w, lr=1.0)
    for _ in range(3):
        opt.step(np.array([1e-24, 1e-18], np.float32))
    assert opt.state[""]["step_size"].tolist() == pytest.approx([1.0, 1.44])


@pytest.mark.parametrize("optimizer", [fs.RMSprop, fs.Adagrad, fs.Adadelta])
def test_a_gradient_whose_square_is_beyond_its_type_stops_its_element_without_nan(
    optimizer: type[fs.optim.Optimizer],
) -> None:
    w = np.ones(2, np.float32)
    opt = optimizer(w)
    opt.step(np.array([1e20, 1.0], np.float32))
    moved = w[1]
    assert w[0] == 1.0
    for _ in range(3):
        opt.step(np.ones(2, np.float32))
    assert w[0] == 1.0
    assert w[1] < moved


def test_adamax_takes_gradients_as_large_as_their_type_has_them() -> None:
    w = np.ones(2, np.float32)
    opt = fs.Adamax(w, lr=0.25)
    opt.step(np.array([3e38, -3e38], np.float32))
    assert w.tolist() == pytest.approx([0.75, 1.25])


@pytest.mark.parametrize(
    "optimizer", [fs.Lion, fs.RMSprop, fs.Adagrad, fs.Adamax, fs.Adadelta, fs.Rprop]
)
def test_gradients_of_0_alone_move_nothing(optimizer: type[fs.optim.Optimizer]) -> None:
    for options in ({}, {"centered": True, "momentum": 0.9}):
        if options and optimizer is not fs.RMSprop:
            continue
        w = np.array([1.0, -2.0, 0.0])
        opt = optimizer(w, lr=0.5, **options)
        for _ in range(5):
            opt.step(np.zeros(3))
        assert w.tolist() == [1.0, -2.0, 0.0]
