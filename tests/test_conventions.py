"""Options that give the rules of Keras, optax, timm and TensorFlow: 50 steps beside them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from tables.models import Array, arrays
from tables.peer_modules import imported

SIZES = (1, 5, 100, 1000)
STEPS = 50
# five decades, and zeros
GRADIENTS = [
    [g * 10.0 ** (step % 5 - 3) for g in arrays(SIZES, np.float64, step)]
    for step in range(1, STEPS + 1)
]
for model in GRADIENTS:
    for gradient in model:
        gradient[::7] = 0.0

KERAS_RMSPROP = {"alpha": 0.9, "eps": 1e-7, "eps_in_sqrt": True, "lr_in_momentum": True}
DECOUPLED = {"weight_decay": 0.1, "decoupled_weight_decay": True}
KERAS_ADAGRAD = {"eps": 1e-7, "eps_in_sqrt": True, "initial_accumulator_value": 0.1}
BETAS = (0.85, 0.97)

KERAS: list[tuple[Any, dict[str, Any], str, dict[str, Any]]] = [
    (fs.RMSprop, {**KERAS_RMSPROP, **DECOUPLED}, "RMSprop", {}),
    (fs.RMSprop, {**KERAS_RMSPROP, "momentum": 0.8}, "RMSprop", {"momentum": 0.8}),
    (
        fs.RMSprop,
        {**KERAS_RMSPROP, "momentum": 0.8, "centered": True, **DECOUPLED},
        "RMSprop",
        {"momentum": 0.8, "centered": True},
    ),
    (fs.Adagrad, {**KERAS_ADAGRAD, **DECOUPLED}, "Adagrad", {}),
    (
        fs.Adamax,
        {"betas": BETAS, "eps": 1e-7, "eps_mode": "after", **DECOUPLED},
        "Adamax",
        {"beta_1": 0.85, "beta_2": 0.97},
    ),
    (fs.Adadelta, {"rho": 0.95, "eps": 1e-7, **DECOUPLED}, "Adadelta", {}),
    (fs.Lion, {"weight_decay": 0.1}, "Lion", {}),
    (fs.AdamW, {"eps": 1e-7, "eps_mode": "hat", "weight_decay": 0.1}, "AdamW", {}),
    (fs.NAdam, {"eps": 1e-7, "momentum_decay": 1.0, **DECOUPLED}, "Nadam", {}),
]
OPTAX_RMSPROP = {"alpha": 0.9, "eps_in_sqrt": True, "lr_in_momentum": True}
# here weight decay is another transform, that comes first and is coupled
OPTAX: list[tuple[Any, dict[str, Any], str, dict[str, Any]]] = [
    (fs.RMSprop, OPTAX_RMSPROP, "rmsprop", {}),
    (
        fs.RMSprop,
        {**OPTAX_RMSPROP, "momentum": 0.8, "centered": True, "initial_accumulator_value": 0.5},
        "rmsprop",
        {"momentum": 0.8, "centered": True, "initial_scale": 0.5},
    ),
    (
        fs.RMSprop,
        {"alpha": 0.9, "eps": 1e-3},
        "rmsprop",
        {"eps": 1e-3, "eps_in_sqrt": False},
    ),
    (fs.Adagrad, KERAS_ADAGRAD, "adagrad", {}),
    (fs.Adamax, {"betas": BETAS}, "adamax", {"b1": 0.85, "b2": 0.97}),
    (fs.Adadelta, {}, "adadelta", {}),
    (fs.Lion, {}, "lion", {}),
    (fs.Lion, {"betas": (0.9, 0.9)}, "lion", {"b1": 0.9, "b2": 0.9}),
]
TF_RMSPROP = {**KERAS_RMSPROP, "eps": 1e-10, "initial_accumulator_value": 1.0}
TORCH: list[tuple[Any, dict[str, Any], str, str, dict[str, Any]]] = [
    (fs.RMSprop, {**TF_RMSPROP, "momentum": 0.8}, "timm.optim", "RMSpropTF", {"momentum": 0.8}),
    (fs.RMSprop, {**TF_RMSPROP, "centered": True}, "timm.optim", "RMSpropTF", {"centered": True}),
    (
        fs.RMSprop,
        {**TF_RMSPROP, "lr_in_momentum": False, "momentum": 0.8, "decoupled_weight_decay": True},
        "timm.optim",
        "RMSpropTF",
        {"lr_in_momentum": False, "momentum": 0.8, "decoupled_decay": True},
    ),
    (fs.Lion, {"betas": BETAS}, "timm.optim", "Lion", {"betas": BETAS, "foreach": False}),
    (fs.Lion, {"cautious": True}, "timm.optim", "Lion", {"caution": True, "foreach": False}),
    (fs.Lion, {}, "lion_pytorch", "Lion", {}),
]


def stepped(optimizer: Any, **options: Any) -> list[Array]:
    params = arrays(SIZES, np.float64, 0)
    opt = optimizer(params, lr=0.02, **options)
    for grads in GRADIENTS:
        opt.step(grads)
    return params


def assert_agree(found: list[Array], expected: Any) -> None:
    for a, b in zip(found, expected, strict=True):
        assert np.abs(a - np.asarray(b)).max() <= 1e-12 * np.abs(a).max()


@pytest.fixture(scope="module")
def keras() -> Iterator[Any]:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    found = pytest.importorskip("keras", reason="Keras, or its backend, is not installed")
    before = found.config.floatx()
    found.config.set_floatx("float64")
    yield found
    found.config.set_floatx(before)


@pytest.fixture
def double_jax() -> Iterator[Any]:
    pytest.importorskip("optax", reason="optax is not installed")
    jax = pytest.importorskip("jax", reason="jax is not installed")
    with jax.enable_x64(True):
        yield jax


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning")
@pytest.mark.parametrize(("optimizer", "options", "name", "theirs"), KERAS, ids=str)
def test_fifty_steps_agree_with_keras(
    keras: Any, optimizer: Any, options: dict[str, Any], name: str, theirs: dict[str, Any]
) -> None:
    variables = [keras.Variable(p, dtype="float64") for p in arrays(SIZES, np.float64, 0)]
    decay = options.get("weight_decay")
    peer = getattr(keras.optimizers, name)(0.02, weight_decay=decay, **theirs)
    for grads in GRADIENTS:
        peer.apply([keras.ops.convert_to_tensor(g, dtype="float64") for g in grads], variables)
    assert_agree(stepped(optimizer, **options), [keras.ops.convert_to_numpy(v) for v in variables])


@pytest.mark.parametrize(("optimizer", "options", "name", "theirs"), OPTAX, ids=str)
def test_fifty_steps_agree_with_optax(
    double_jax: Any, optimizer: Any, options: dict[str, Any], name: str, theirs: dict[str, Any]
) -> None:
    import optax

    tree = [double_jax.numpy.asarray(p) for p in arrays(SIZES, np.float64, 0)]
    if name == "lion":
        transform = optax.lion(0.02, weight_decay=0.1, **theirs)
    else:
        transform = getattr(optax, name)(0.02, **theirs)
        transform = optax.chain(optax.add_decayed_weights(0.1), transform)
    state = transform.init(tree)
    update = double_jax.jit(transform.update)
    for grads in GRADIENTS:
        updates, state = update([double_jax.numpy.asarray(g) for g in grads], state, tree)
        tree = optax.apply_updates(tree, updates)
    assert_agree(stepped(optimizer, **options, weight_decay=0.1), tree)


@pytest.mark.parametrize(("optimizer", "options", "module", "name", "theirs"), TORCH, ids=str)
def test_fifty_steps_agree_with_what_is_built_on_torch(
    optimizer: Any, options: dict[str, Any], module: str, name: str, theirs: dict[str, Any]
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rules = imported(module)
    tensors = [torch.from_numpy(p).requires_grad_() for p in arrays(SIZES, np.float64, 0)]
    peer = getattr(rules, name)(tensors, lr=0.02, weight_decay=0.1, **theirs)
    for grads in GRADIENTS:
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = torch.from_numpy(grad)
        peer.step()
    expected = [tensor.detach().numpy() for tensor in tensors]
    assert_agree(stepped(optimizer, **options, weight_decay=0.1), expected)


def test_the_first_step_of_rprop_is_the_first_one_which_optax_takes_late(double_jax: Any) -> None:
    import optax

    transform = optax.rprop(0.5)
    updates, _ = transform.update(np.array([3.0, -4.0]), transform.init(np.zeros(2)))
    if np.any(updates):
        pytest.skip("this optax takes it, too")  # from 0.2.8 on a release may
    w = np.zeros(2)
    fs.Rprop(w, lr=0.5).step(np.array([3.0, -4.0]))
    assert w.tolist() == [-0.5, 0.5]


CONSTANT = np.linspace(100.0, 3000.0, 1000, dtype=np.float32)
CENTRED = {"alpha": 0.5, "centered": True}


def centred_steps(**options: Any) -> Array:
    """Fifty steps of one gradient, whose variance is 0, to rounding; some of it falls below."""
    w, below = np.zeros_like(CONSTANT), np.zeros(CONSTANT.shape, bool)
    opt = fs.RMSprop(w, lr=1e-8, **CENTRED, **options)
    for _ in range(50):
        opt.step(CONSTANT)
        state = opt.state[""]
        below |= state["v"] < state["m"] * state["m"]
    assert below.any()
    return w


def test_a_variance_that_rounding_brings_below_0_is_0_and_nan_in_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tensor = torch.zeros(1000, requires_grad=True)
    tensor.grad = torch.from_numpy(CONSTANT)
    theirs = torch.optim.RMSprop([tensor], lr=1e-8, **CENTRED)
    for _ in range(50):
        theirs.step()
    assert tensor.isnan().any()
    assert np.isfinite(centred_steps()).all()


def test_a_variance_that_rounding_brings_below_0_is_0_and_nan_in_optax(double_jax: Any) -> None:
    import optax

    transform = optax.rmsprop(1e-8, decay=0.5, centered=True)
    tree = double_jax.numpy.zeros(1000, np.float32)
    state = transform.init(tree)
    for _ in range(50):
        updates, state = transform.update(double_jax.numpy.asarray(CONSTANT), state, tree)
        tree = optax.apply_updates(tree, updates)
    assert np.isnan(np.asarray(tree)).any()
    assert np.isfinite(centred_steps(eps_in_sqrt=True, lr_in_momentum=True)).all()
