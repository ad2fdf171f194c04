"""Schedules in the hands of other libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import schedules

LR = schedules.warmup_cosine(peak=0.1, warmup=4, total=20, start=0.01)


def test_the_function_gives_floats_for_numbers_and_arrays_for_arrays() -> None:
    f = schedules.as_lambda(LR)
    assert type(f(3)) is float
    assert f(3) == LR(3)
    assert f(np.arange(5)).tolist() == LR(np.arange(5)).tolist()
    assert schedules.as_lambda(LR.by("epoch"), by="epoch")(3) == LR(3)
    assert schedules.as_lambda(0.5)(3) == 0.5
    with pytest.raises(TypeError, match="made of numbers and expressions"):
        schedules.as_lambda("cosine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="by must be one of step, samples, epoch, not 'steps'"):
        schedules.as_lambda(LR, by="steps")


def test_torch_follows_it() -> None:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedules.as_lambda(LR))
    for t in range(25):
        assert optimizer.param_groups[0]["lr"] == LR(t)
        optimizer.step()
        scheduler.step()


def test_a_scheduler_of_torch_gives_the_bits_of_a_schedule() -> None:
    torch = pytest.importorskip("torch")
    native = pytest.importorskip("fusestep.torch")
    array = np.linspace(-1.0, 1.0, 7, dtype=np.float32)
    opt = fs.AdamW(array, lr=LR)
    sides = []
    for how in ("scheduler", "lambda"):
        w = torch.nn.Parameter(torch.linspace(-1.0, 1.0, 7))
        w.data.copy_(torch.from_numpy(array))
        other = native.AdamW([w], lr=1.0 if how == "lambda" else 123.0)
        if how == "scheduler":
            scheduler = schedules.as_scheduler(other, LR)
        else:
            scheduler = torch.optim.lr_scheduler.LambdaLR(other, schedules.as_lambda(LR))
        sides.append((w, other, scheduler))
    for t in range(25):
        gradient = np.sin(np.arange(7, dtype=np.float32) + t)
        opt.step(gradient)
        for w, other, scheduler in sides:
            assert other.param_groups[0]["lr"] == LR(t)
            w.grad = torch.from_numpy(gradient)
            other.step()
            scheduler.step()
    for w, _, _ in sides:
        assert w.detach().numpy().tobytes() == array.tobytes()


def test_a_scheduler_of_torch_resumes_and_takes_a_curve_for_each_group() -> None:
    torch = pytest.importorskip("torch")
    curves = [LR, schedules.linear(start=1.0, end=0.5, length=10)]

    def build() -> Any:
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in curves]
        optimizer = torch.optim.SGD(groups, lr=3.0)
        return optimizer, schedules.as_scheduler(optimizer, curves)

    def rates(optimizer: Any) -> list[float]:
        return [group["lr"] for group in optimizer.param_groups]

    optimizer, scheduler = build()
    for t in range(5):
        assert rates(optimizer) == [curve(t) for curve in curves] == scheduler.get_last_lr()
        optimizer.step()
        scheduler.step()
    resumed, other = build()
    resumed.load_state_dict(optimizer.state_dict())
    other.load_state_dict(scheduler.state_dict())
    resumed.step()
    other.step()
    assert rates(resumed) == [curve(6) for curve in curves]
    with pytest.raises(ValueError, match="Expected 2 lr_lambdas"):
        schedules.as_scheduler(build()[0], [LR])


def test_without_torch_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.optim.lr_scheduler", None)
    with pytest.raises(ImportError, match=r'as_scheduler needs torch: .*"fusestep\[torch\]"'):
        schedules.as_scheduler(None, LR)


def test_optax_follows_it_eagerly_and_under_jit() -> None:
    optax, jax = pytest.importorskip("optax"), pytest.importorskip("jax")
    optimizer = optax.sgd(schedules.as_lambda(LR))
    params = {"w": jax.numpy.zeros(3)}
    eager_state = jit_state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for t in range(25):
        grads = {"w": jax.numpy.ones(3)}
        eager, eager_state = optimizer.update(grads, eager_state, params)
        jitted, jit_state = update(grads, jit_state, params)
        for updates in (eager, jitted):
            assert np.allclose(updates["w"], -np.float32(LR(t)), rtol=1e-6)


KERAS = """
import numpy as np
import fusestep as fs
import keras
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile(optimizer=keras.optimizers.SGD(), loss="mse")
lr = fs.schedules.warmup_cosine(peak=0.1, warmup=4, total=20, start=0.01, by="epoch")
schedule = fs.schedules.as_lambda(lr, by="epoch")
seen = []
class Watch(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        seen.append(float(self.model.optimizer.learning_rate))
model.fit(np.ones((4, 2)), np.ones((4, 1)), epochs=25, verbose=0,
          callbacks=[keras.callbacks.LearningRateScheduler(schedule), Watch()])
assert np.allclose(seen, lr(epoch=np.arange(25)), rtol=1e-6), seen
print("followed", len(seen))
"""


def test_keras_follows_it() -> None:
    backends = [name for name in ("jax", "torch", "tensorflow") if find_spec(name)]
    if not find_spec("keras") or not backends:
        pytest.skip("needs Keras with a backend")
    environment: dict[str, Any] = {**os.environ, "KERAS_BACKEND": backends[0]}
    command = [sys.executable, "-c", KERAS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip().endswith("followed 25"), done.stderr


def test_initial_lr_counts_every_parameter() -> None:
    assert schedules.initial_lr(np.zeros((10, 10))) == 0.1
    assert schedules.initial_lr([np.zeros(3), {"a": np.zeros((2, 3))}]) == 1 / 3
    with pytest.raises(ValueError, match="params must hold at least one element"):
        schedules.initial_lr([np.zeros(0)])
    assert fs.SGD(np.ones(100), lr=schedules.initial_lr(np.ones(100))).lr == 0.1
