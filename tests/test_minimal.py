"""If only one test file is run, this is the one: it needs pytest and the installed package."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep.optim import Optimizer

OPTIMIZERS = [
    value
    for value in (getattr(fs, name) for name in fs.__all__)
    if isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer
]
DTYPES = [np.float32, np.float64]
# three: beyond that, repeated products no longer have to equal the powers of the library
UPDATES = 3


def model(dtype: Any) -> dict[str, Any]:
    """Arrays around the widths of vectors, and one that several threads share."""
    rng = np.random.default_rng(0)
    sizes = {"empty": 0, "one": 1, "odd": 17, "large": 70_001}
    return {name: rng.standard_normal(size).astype(dtype) for name, size in sizes.items()}


def gradients(dtype: Any, update: int) -> dict[str, Any]:
    rng = np.random.default_rng(update)
    return {name: rng.standard_normal(p.shape).astype(dtype) for name, p in model(dtype).items()}


def assert_same_bits(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        assert left[name].tobytes() == right[name].tobytes(), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_goes_down_and_reports_its_learning_rate(optimizer: Any, dtype: Any) -> None:
    params = {"a": np.linspace(1, 2, 70_001, dtype=dtype), "b": [np.full((3, 5), -1, dtype)]}
    opt = optimizer(params, lr=0.125)
    for _ in range(2):  # the first update of ADOPT only takes the size of the gradient
        info = opt.step({"a": params["a"].copy(), "b": [params["b"][0].copy()]})
    assert info.applied
    assert info.lr == 0.125
    assert info.grad_norm is None
    assert (params["a"] < np.linspace(1, 2, 70_001, dtype=dtype)).all()
    assert (params["b"][0] > -1).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_sgd_has_the_bits_of_numpy(dtype: Any) -> None:
    params, expected = model(dtype), model(dtype)
    opt = fs.SGD(params, lr=0.1, momentum=0.9, dampening=0.25, weight_decay=0.01)
    lr, momentum, gain, decay = (dtype(value) for value in (0.1, 0.9, 0.75, 0.01))
    buffers: dict[str, Any] = {}
    for update in range(UPDATES):
        grads = gradients(dtype, update)
        opt.step(grads)
        for name, p in expected.items():
            g = grads[name] + decay * p
            b = buffers[name] = momentum * buffers[name] + gain * g if update else g
            expected[name] = p - lr * b
        assert_same_bits(params, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_adamw_has_the_bits_of_numpy(dtype: Any) -> None:
    params, expected = model(dtype), model(dtype)
    opt = fs.AdamW(params, lr=0.1, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.05)
    averages = {name: (np.zeros_like(p), np.zeros_like(p)) for name, p in expected.items()}
    shrink, rate1, rate2 = dtype(1 - 0.1 * 0.05), dtype(1 - 0.8), dtype(1 - 0.99)
    beta2 = dtype(0.99)
    for update in range(UPDATES):
        grads = gradients(dtype, update)
        opt.step(grads)
        # rounded once, which a library's pow may not do
        power1, power2 = (float(Fraction(beta) ** (update + 1)) for beta in (0.8, 0.99))
        step, correction = dtype(0.1 / (1 - power1)), dtype(1 / np.sqrt(1 - power2))
        for name, p in expected.items():
            g, (m, v) = grads[name], averages[name]
            m = m + rate1 * (g - m)
            v = beta2 * v + rate2 * (g * g)
            averages[name] = m, v
            expected[name] = p * shrink - step * m / (np.sqrt(v) * correction + dtype(1e-6))
        assert_same_bits(params, expected)


def test_clipping_scales_the_whole_gradient_down_to_the_norm() -> None:
    params = {"a": np.zeros(2), "b": np.zeros(1)}
    info = fs.SGD(params, lr=1.0, clip_norm=6.5).step(
        {"a": np.array([3.0, -4.0]), "b": np.array([12.0])}
    )
    assert info.grad_norm == 13.0
    np.testing.assert_allclose(params["a"], [-1.5, 2.0], rtol=1e-6)
    np.testing.assert_allclose(params["b"], [-6.0], rtol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_loaded_state_goes_on_with_the_same_bits(optimizer: Any) -> None:
    params = model(np.float32)
    decay = {"weight_decay": 0.1} if hasattr(optimizer, "weight_decay") else {}
    opt = optimizer(params, lr=0.01, clip_norm=1.0, **decay)
    opt.step(gradients(np.float32, 0))
    restored = {name: p.copy() for name, p in params.items()}
    other = optimizer(restored)
    other.load_state_dict(opt.state_dict())
    for update in (1, 2):
        grads = gradients(np.float32, update)
        assert opt.step(grads) == other.step(grads)
    assert_same_bits(params, restored)


def test_an_error_names_the_parameter_and_nothing_has_changed() -> None:
    params = model(np.float32)
    opt = fs.Adam({"dense": params})
    wrong = {**gradients(np.float32, 0), "odd": np.zeros(18, np.float32)}
    message = r"^params\['dense/odd'\]: gradient has shape \(18,\), the parameter has \(17,\)$"
    with pytest.raises(ValueError, match=message):
        opt.step({"dense": wrong})
    assert opt.steps_attempted == 0
    assert_same_bits(params, model(np.float32))


def test_build_info_tells_what_runs() -> None:
    info = fs.build_info()
    assert info["version"] == fs.__version__
    assert info["isa_active"] in info["isa_supported"]
    assert set(info["isa_supported"]) <= set(info["isa_compiled"])
    assert info["threads"] == fs.get_num_threads() >= 1
