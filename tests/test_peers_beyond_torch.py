"""Beside libraries that have what torch has not, where they are installed: 50 steps in float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import schedules
from tables.models import Array, arrays
from tables.peer_modules import imported

SIZES = (1, 5, 100, 1000)
STEPS = 50
GRADIENTS = [arrays(SIZES, np.float64, seed) for seed in range(1, STEPS + 1)]
for step, model in enumerate(GRADIENTS):
    for gradient in model:
        gradient *= 10.0 ** (step % 5 - 2)
        gradient[::7] = 0.0


def assert_agree(found: list[Array], expected: list[Array]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert np.abs(a - np.asarray(b)).max() <= 1e-12 * np.abs(a).max()


class Tensors:
    """Parameters of torch, and the steps of an optimizer for them."""

    def __init__(self, module: str, name: str, **options: Any) -> None:
        torch = pytest.importorskip("torch", reason="torch is not installed")
        rules = imported(module)
        self._from = torch.from_numpy
        self.tensors = [self._from(p).requires_grad_() for p in arrays(SIZES, np.float64, 0)]
        self.optimizer = getattr(rules, name)(self.tensors, **options)

    def step(self, grads: list[Array]) -> None:
        for tensor, grad in zip(self.tensors, grads, strict=True):
            tensor.grad = self._from(grad)
        self.optimizer.step()

    @property
    def arrays(self) -> list[Array]:
        return [tensor.detach().numpy().copy() for tensor in self.tensors]


DECAYED = {"lr": 0.02, "weight_decay": 0.1}
TIMM = [
    (fs.ADOPT, {"clip_exp": 0.333}, "Adopt", {}),
    (fs.ADOPT, {"clip_exp": None, "betas": (0.8, 0.97)}, "Adopt", {}),
    (fs.ADOPT, {"decoupled_weight_decay": True, "eps": 1e-3}, "Adopt", {"decoupled": True}),
]


@pytest.mark.parametrize(("optimizer", "options", "name", "theirs"), TIMM, ids=str)
def test_fifty_steps_agree_with_timm(
    optimizer: Any, options: dict[str, Any], name: str, theirs: dict[str, Any]
) -> None:
    same = {k: v for k, v in options.items() if k != "decoupled_weight_decay"}
    clipping = {} if name != "Adopt" else {"clip_exp": 0.25}
    peer = Tensors("timm.optim", name, **DECAYED, **{**clipping, **same, **theirs}, foreach=False)
    params = arrays(SIZES, np.float64, 0)
    opt = optimizer(params, **DECAYED, **options)
    for grads in GRADIENTS:
        opt.step(grads)
        peer.step(grads)
    assert_agree(params, peer.arrays)


SCHEDULE_FREE = {**DECAYED, "warmup_steps": 10, "r": 0.5}
PACKAGE = [
    (fs.ScheduleFreeAdamW, "AdamWScheduleFree", {**SCHEDULE_FREE, "betas": (0.85, 0.97)}),
    (fs.ScheduleFreeAdamW, "AdamWScheduleFree", {"lr": 0.01, "weight_lr_power": 1.0}),
    (fs.ScheduleFreeSGD, "SGDScheduleFree", {**SCHEDULE_FREE, "lr": 2e-3}),
    (fs.ScheduleFreeSGD, "SGDScheduleFree", {"lr": 1e-3, "momentum": 0.7}),
]


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize(("optimizer", "name", "options"), PACKAGE, ids=str)
def test_fifty_steps_and_their_average_agree_with_schedulefree(
    optimizer: Any, name: str, options: dict[str, Any], scheduled: bool
) -> None:
    peer = Tensors("schedulefree", name, **options, foreach=False)
    peer.optimizer.train()
    params = arrays(SIZES, np.float64, 0)
    opt = optimizer(params, **options)
    if scheduled:
        opt.lr = curve = options["lr"] * schedules.one_cycle(1.0, total=STEPS)
    for step, grads in enumerate(GRADIENTS):
        if scheduled:
            peer.optimizer.param_groups[0]["lr"] = curve(step)
        opt.step(grads)
        peer.step(grads)
    assert_agree(params, peer.arrays)
    peer.optimizer.eval()
    assert_agree(opt.averaged, peer.arrays)


@pytest.fixture
def double_jax() -> Iterator[Any]:
    pytest.importorskip("optax", reason="optax is not installed")
    jax = pytest.importorskip("jax", reason="jax is not installed")
    with jax.enable_x64(True):
        yield jax


def in_optax(jax: Any, transform: Any) -> tuple[list[Array], Any]:
    import optax

    tree = [jax.numpy.asarray(p) for p in arrays(SIZES, np.float64, 0)]
    state = transform.init(tree)
    update = jax.jit(transform.update)
    for grads in GRADIENTS:
        updates, state = update([jax.numpy.asarray(g) for g in grads], state, tree)
        tree = optax.apply_updates(tree, updates)
    return tree, state


B = {"b1": 0.85, "b2": 0.97}
BETAS = (0.85, 0.97)
OPTAX = [
    ("radam", fs.RAdam, {"betas": BETAS, "eps_mode": "after"}, B),
    ("contrib.adopt", fs.ADOPT, {"betas": BETAS}, B),
    ("contrib.adopt", fs.ADOPT, {"betas": BETAS, "clip_exp": None}, {**B, "use_clipping": False}),
    (
        "contrib.ademamix",
        fs.AdEMAMix,
        {"betas": (*BETAS, 0.999), "alpha": 3.0, "weight_decay": 0.1},
        {**B, "b3": 0.999, "alpha": 3.0, "weight_decay": 0.1},
    ),
]


@pytest.mark.parametrize(("name", "optimizer", "options", "theirs"), OPTAX, ids=str)
def test_fifty_steps_agree_with_optax(
    double_jax: Any, name: str, optimizer: Any, options: dict[str, Any], theirs: dict[str, Any]
) -> None:
    import optax

    room = optax.contrib if name.startswith("contrib.") else optax
    transform = getattr(room, name.rpartition(".")[2])(0.02, **theirs)
    params = arrays(SIZES, np.float64, 0)
    opt = optimizer(params, lr=0.02, **options)
    for grads in GRADIENTS:
        opt.step(grads)
    assert_agree(params, in_optax(double_jax, transform)[0])


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("warmup", [0, 10])
def test_schedule_free_agrees_with_optax(double_jax: Any, weight_decay: float, warmup: int) -> None:
    import optax

    # its own warm-up is in float32; and it would weigh an update by the rate of the next one
    def rate(n: Any) -> Any:
        return 0.02 * double_jax.numpy.minimum(n.astype(np.float64) / warmup, 1.0)

    def weighed(n: Any) -> Any:
        return rate(n - 1)

    base = optax.adamw(rate if warmup else 0.02, b1=0.0, b2=0.97, weight_decay=weight_decay)
    transform = optax.contrib.schedule_free(base, weighed if warmup else 0.02, b1=0.85)
    lr = schedules.warmup_constant(0.02, warmup) if warmup else 0.02
    params = arrays(SIZES, np.float64, 0)
    opt = fs.ScheduleFreeAdamW(params, lr=lr, betas=BETAS, weight_decay=weight_decay)
    for grads in GRADIENTS:
        opt.step(grads)
    tree, state = in_optax(double_jax, transform)
    assert_agree(params, tree)
    assert_agree(opt.averaged, optax.contrib.schedule_free_eval_params(state, tree))


def test_the_warmups_of_ademamix_are_those_of_the_paper(double_jax: Any) -> None:
    import optax

    jnp = double_jax.numpy

    def alpha(n: Any) -> Any:
        return jnp.minimum((n.astype(np.float64) + 1) * 3.0 / 30, 3.0)

    def beta3(n: Any) -> Any:
        x, first, last = (n.astype(np.float64) + 1) / 30, np.log(0.85), np.log(0.999)
        return jnp.minimum(jnp.exp(first * last / ((1 - x) * last + x * first)), 0.999)

    params = arrays(SIZES, np.float64, 0)
    opt = fs.AdEMAMix(
        params,
        lr=0.02,
        betas=(*BETAS, schedules.ademamix_beta3(0.85, 0.999, length=30)),
        alpha=schedules.ademamix_alpha(3.0, length=30),
    )
    for grads in GRADIENTS:
        opt.step(grads)
    transform = optax.contrib.ademamix(0.02, **B, b3=beta3, alpha=alpha, weight_decay=0.01)
    assert_agree(params, in_optax(double_jax, transform)[0])
