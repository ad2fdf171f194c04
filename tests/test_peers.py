"""Beside torch and optax, where they are installed: the same algorithms, to rounding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from tables.models import DTYPES, Array, arrays
from tables.peer_modules import imported
from tables.registry import ROWS, Row

SIZES = (5, 100, 1000)
STEPS = 50

# relative to the largest value that an element had on its way: that is what rounding scales with
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-12}

every_dtype = pytest.mark.parametrize("dtype", DTYPES)


class Path:
    """Parameters on their way through the steps."""

    def __init__(self, params: list[Array]) -> None:
        self.params = params
        self.largest = [np.abs(p) for p in params]

    def note(self) -> None:
        for largest, p in zip(self.largest, self.params, strict=True):
            np.maximum(largest, np.abs(p), out=largest)

    def assert_agrees(self, expected: list[Array]) -> None:
        for found, there, largest in zip(self.params, expected, self.largest, strict=True):
            error = np.abs(found - there) / largest
            assert error.max() <= TOLERANCE[found.dtype.type]


def gradients(dtype: type) -> list[list[Array]]:
    return [arrays(SIZES, dtype, seed) for seed in range(1, STEPS + 1)]


IN_TORCH = ("sgd", "adam", "nadam", "radam", "rmsprop", "adagrad", "adamax", "adadelta", "rprop")
NOT_IN_TORCH = ("eps_in_sqrt", "lr_in_momentum")
INITIAL = "initial_accumulator_value"
EPS_MODES = {"adamax": "max", "radam": "hat"}
# what torch's Adam and AdamW do not have
OPTIONS_OF_TIMM = {"nesterov", "cautious", "update_clip", "cautious_decay", "decay_by", "max_lr"}


def in_torch(row: Row) -> tuple[str, dict[str, Any]] | None:
    """The torch optimizer and options that mean the same, if there is one."""
    h = row.full
    if row.rule not in IN_TORCH or any(h.get(name) for name in NOT_IN_TORCH):
        return None
    if row.rule == "adam" and row.options.keys() & OPTIONS_OF_TIMM:
        return None
    elsewhere = row.optimizer is not fs.AdamW and row.rule not in ("nadam", "radam")
    if elsewhere and h.get("decoupled_weight_decay") and h["weight_decay"] != 0:
        return None
    if h.get("eps_mode") not in (None, EPS_MODES.get(row.rule, "after")):
        return None
    if not h.get("bias_correction", True) or (row.rule == "rmsprop" and h[INITIAL] != 0):
        return None
    left_out = {"eps_mode", "bias_correction", *NOT_IN_TORCH}
    if row.rule != "adagrad":
        left_out.add(INITIAL)
    if row.rule == "adam":
        left_out |= OPTIONS_OF_TIMM
    if row.rule not in ("nadam", "radam"):
        left_out.add("decoupled_weight_decay")
    options = {name: value for name, value in h.items() if name not in left_out}
    return row.optimizer.__name__, options


@pytest.fixture
def double_counts() -> Iterator[None]:
    """Torch's NAdam has its product of momenta in the default dtype."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


TORCH_ROWS = [row for row in ROWS if in_torch(row) is not None]


@every_dtype
@pytest.mark.usefixtures("double_counts")
@pytest.mark.parametrize("row", TORCH_ROWS, ids=lambda row: row.id)
def test_fifty_steps_agree_with_torch(row: Row, dtype: type) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    name, options = in_torch(row) or ("", {})
    params = arrays(SIZES, dtype, 0)
    tensors = [torch.from_numpy(p.copy()).requires_grad_() for p in params]
    theirs = getattr(torch.optim, name)(tensors, **options, foreach=False)
    ours, path = row.build(params), Path(params)
    for grads in gradients(dtype):
        ours.step(grads)
        path.note()
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = torch.from_numpy(grad)
        theirs.step()
    path.assert_agrees([tensor.detach().numpy() for tensor in tensors])


@every_dtype
def test_clipping_to_a_norm_agrees_with_torch(dtype: type) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    params = arrays(SIZES, dtype, 0)
    tensors = [torch.from_numpy(p.copy()).requires_grad_() for p in params]
    theirs, ours = torch.optim.AdamW(tensors, lr=0.01), fs.AdamW(params, lr=0.01, clip_norm=5.0)
    path = Path(params)
    for grads in gradients(dtype):
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = torch.from_numpy(grad.copy())
        norm = torch.nn.utils.clip_grad_norm_(tensors, 5.0)
        assert norm > 5.0
        for tensor in tensors:
            tensor.grad *= (norm + 1e-6) / norm  # which torch adds to the norm
        theirs.step()
        assert ours.step(grads).grad_norm == pytest.approx(float(norm), rel=1e-6)
        path.note()
    path.assert_agrees([tensor.detach().numpy() for tensor in tensors])


def test_torch_scales_a_norm_below_the_limit_where_that_is_small() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    w, tensor = np.zeros(1), torch.zeros(1, dtype=torch.float64, requires_grad=True)
    tensor.grad = torch.tensor([9e-7], dtype=torch.float64)
    torch.nn.utils.clip_grad_norm_([tensor], 1e-6)
    fs.SGD(w, lr=1.0, clip_norm=1e-6).step(np.array([9e-7]))
    assert w[0] == -9e-7
    assert float(tensor.grad[0]) == pytest.approx(9e-7 * 1e-6 / 1.9e-6)


@every_dtype
def test_a_parameter_frozen_for_some_steps_agrees_with_torch(dtype: type) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    params = arrays(SIZES, dtype, 0)
    tensors = [torch.from_numpy(p.copy()).requires_grad_() for p in params]
    theirs, ours = torch.optim.AdamW(tensors, lr=0.01), fs.AdamW(params, lr=0.01)
    path = Path(params)
    for step, grads in enumerate(gradients(dtype)):
        frozen = 1 if 3 <= step <= 20 else None
        for i, (tensor, grad) in enumerate(zip(tensors, grads, strict=True)):
            tensor.grad = None if i == frozen else torch.from_numpy(grad)
        theirs.step()
        ours.step([None if i == frozen else g for i, g in enumerate(grads)])
        path.note()
    path.assert_agrees([tensor.detach().numpy() for tensor in tensors])


TIMM: list[tuple[str, dict[str, Any], type[fs.optim.Optimizer], dict[str, Any]]] = [
    ("AdamWLegacy", {"caution": True}, fs.AdamW, {"cautious": True}),
    (
        "AdamWLegacy",
        {"clipping_threshold": 0.5, "amsgrad": True},
        fs.AdamW,
        {"update_clip": 0.5, "amsgrad": True},
    ),
    ("AdamWLegacy", {"corrected_weight_decay": True}, fs.AdamW, {"decay_by": "max_lr"}),
    ("NAdamW", {}, fs.AdamW, {"nesterov": True}),
    (
        "NAdamW",
        {"caution": True, "clipping_threshold": 0.5, "corrected_weight_decay": True},
        fs.AdamW,
        {"nesterov": True, "cautious": True, "update_clip": 0.5, "decay_by": "max_lr"},
    ),
    ("Lamb", {"max_grad_norm": None}, fs.LAMB, {}),
    (
        "Lamb",
        {"max_grad_norm": 1.0, "trust_clip": True},
        fs.LAMB,
        {"clip_norm": 1.0, "trust_clip": True},
    ),
    (
        "Lamb",
        {"weight_decay": 0.0, "always_adapt": True, "grad_averaging": False},
        fs.LAMB,
        {"weight_decay": 0.0, "always_adapt": True, "grad_averaging": False, "clip_norm": 1.0},
    ),
    ("Lars", {"trust_coeff": 0.02, "eps": 0.3}, fs.LARS, {"trust_coefficient": 0.02, "eps": 0.3}),
    (
        "Lars",
        {"momentum": 0.9, "nesterov": True, "trust_clip": True},
        fs.LARS,
        {"momentum": 0.9, "nesterov": True, "trust_clip": True},
    ),
    (
        "Lars",
        {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.0, "always_adapt": True},
        fs.LARS,
        {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.0, "always_adapt": True},
    ),
]


def follow(ours: fs.optim.Optimizer, theirs: Any, params: list[Array], tensors: Any) -> None:
    """Fifty steps of both, at a rate that falls."""
    torch = pytest.importorskip("torch")
    path, lr = Path(params), ours.lr
    for step, grads in enumerate(gradients(np.float64)):
        ours.lr = theirs.param_groups[0]["lr"] = lr * (1.0 - step / 100)
        ours.step(grads)
        path.note()
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = torch.from_numpy(grad.copy())
        theirs.step()
    path.assert_agrees([tensor.detach().numpy() for tensor in tensors])


@pytest.mark.parametrize(("name", "theirs", "optimizer", "ours"), TIMM, ids=str)
def test_fifty_steps_agree_with_timm(
    name: str, theirs: dict[str, Any], optimizer: Any, ours: dict[str, Any]
) -> None:
    timm = imported("timm.optim")
    torch = pytest.importorskip("torch")
    common = {"lr": 0.02, "weight_decay": 0.1}
    more = {"max_lr": 0.02} if "decay_by" in ours else {}
    params = arrays(SIZES, np.float64, 0)
    tensors = [torch.from_numpy(p.copy()).requires_grad_() for p in params]
    peer = getattr(timm, name)(tensors, **{**common, "foreach": False, **theirs})
    follow(optimizer(params, **{**common, **more, **ours}), peer, params, tensors)


@pytest.mark.parametrize("decay_by", ["lr", "schedule"])
def test_fifty_steps_agree_with_optimi(decay_by: Any) -> None:
    optimi = pytest.importorskip("optimi", reason="torch-optimi is not installed")
    torch = pytest.importorskip("torch")
    decouples = decay_by == "schedule"
    params = arrays(SIZES, np.float64, 0)
    tensors = [torch.from_numpy(p.copy()).requires_grad_() for p in params]
    common: dict[str, Any] = {"lr": 0.02, "betas": (0.9, 0.97)}
    common["weight_decay"] = 9e-4 if decouples else 0.1
    max_lr = 0.02 if decouples else None
    ours = fs.StableAdamW(params, **common, decay_by=decay_by, max_lr=max_lr)
    alone = {"foreach": False, "triton": False}
    theirs = optimi.StableAdamW(tensors, **common, decouple_lr=decouples, **alone)
    follow(ours, theirs, params, tensors)


OPTAX = [
    ("adamw", fs.AdamW, {"weight_decay": 0.1}, {"weight_decay": 0.1}),
    ("adam", fs.Adam, {"betas": (0.8, 0.95)}, {"b1": 0.8, "b2": 0.95}),
    ("sgd", fs.SGD, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "nesterov": True}),
    ("adabelief", fs.AdaBelief, {}, {}),
    ("lamb", fs.LAMB, {"weight_decay": 0.1}, {"weight_decay": 0.1}),
]


@pytest.mark.parametrize(("name", "optimizer", "options", "theirs"), OPTAX, ids=lambda v: str(v))
def test_fifty_steps_agree_with_optax(
    name: str, optimizer: Any, options: dict[str, Any], theirs: dict[str, Any]
) -> None:
    optax = pytest.importorskip("optax", reason="optax is not installed")
    jax = pytest.importorskip("jax", reason="jax is not installed")
    dtype = np.float64
    with jax.enable_x64(True):
        params = arrays(SIZES, dtype, 0)
        tree = [jax.numpy.asarray(p) for p in params]
        transform = getattr(optax, name)(0.01, **theirs)
        state = transform.init(tree)
        ours = optimizer(params, lr=0.01, **options)
        for grads in gradients(dtype):
            ours.step(grads)
            updates, state = transform.update([jax.numpy.asarray(g) for g in grads], state, tree)
            tree = optax.apply_updates(tree, updates)
        for found, expected in zip(params, tree, strict=True):
            # optax takes 1 - beta^t from float32 powers in places, so it is not followed to 1e-12
            assert np.abs(found - np.asarray(expected)).max() < 1e-9
