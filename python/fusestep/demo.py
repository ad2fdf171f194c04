"""A real training run on handwritten digits, beside the same run driven by pure NumPy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import AdamW, Clock, Expression, Loader, batch_sizes, build_info, schedules

Array = npt.NDArray[Any]
Params = dict[str, dict[str, Array]]

LAYERS = (64, 512, 512, 10)
SMALLEST, LARGEST = 32, 128  # batches
PEAK, BETAS, EPS, WEIGHT_DECAY = 2e-3, (0.9, 0.999), 1e-8, 0.01


@dataclass
class Digits:
    """1797 handwritten digits of 8 x 8 pixels, a fifth of them kept for the test."""

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array

    @classmethod
    def load(cls) -> Digits:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        x, y = (pixels / 16.0).astype(np.float32), labels.astype(np.int64)
        order = np.random.default_rng(0).permutation(len(x))
        test, train = order[: len(x) // 5], order[len(x) // 5 :]
        return cls(x[train], y[train], x[test], y[test])


@dataclass
class Run:
    """What one training run left behind."""

    params: Params
    losses: list[float] = field(default_factory=list)  # after every epoch, over the training set
    test_losses: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    # for each step: epochs before it, learning rate, batch size
    steps: list[tuple[float, float, int]] = field(default_factory=list)


def learning_rate(epochs: int) -> Expression:
    """A warm-up over a tenth of the run, then half a cosine wave."""
    return schedules.warmup_cosine(peak=PEAK, warmup=epochs / 10, total=epochs, by="epoch")


def batches(digits: Digits, epochs: int) -> Loader:
    """Shuffled batches that grow from the smallest to the largest size."""
    size = batch_sizes.polynomial(
        start=SMALLEST, end=LARGEST, length=epochs, by="epoch", multiple_of=8
    )
    data = {"x": digits.train_x, "y": digits.train_y}
    return Loader(data, size, seed=2, epochs=epochs, tail="carry")


def initial_params() -> Params:
    """He-normal weights and zero biases, float32."""
    random = np.random.default_rng(1)
    params: Params = {}
    for k, (inputs, outputs) in enumerate(pairwise(LAYERS)):
        scale = math.sqrt(2.0 / inputs)
        w = (random.standard_normal((inputs, outputs)) * scale).astype(np.float32)
        params[f"dense{k + 1}"] = {"w": w, "b": np.zeros(outputs, np.float32)}
    return params


def forward(params: Params, x: Array) -> list[Array]:
    """The input, the activations of the hidden layers, and the logits."""
    values = [x]
    for k, layer in enumerate(params.values()):
        x = x @ layer["w"] + layer["b"]
        if k < len(params) - 1:
            x = np.maximum(x, np.float32(0))
        values.append(x)
    return values


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))  # type: ignore[no-any-return]


def loss_and_accuracy(params: Params, x: Array, y: Array) -> tuple[float, float]:
    logits = forward(params, x)[-1]
    loss = -log_softmax(logits)[np.arange(len(y)), y].mean()
    return float(loss), float((logits.argmax(axis=1) == y).mean())


def gradients(params: Params, x: Array, y: Array) -> Params:
    """Of the mean cross-entropy over the batch, in the nesting of the parameters."""
    values = forward(params, x)
    delta = np.exp(log_softmax(values[-1]))
    delta[np.arange(len(y)), y] -= 1
    delta /= np.float32(len(y))
    grads: Params = {}
    for k in reversed(range(len(params))):
        name = f"dense{k + 1}"
        grads[name] = {"w": values[k].T @ delta, "b": delta.sum(axis=0)}
        if k > 0:
            delta = (delta @ params[name]["w"].T) * (values[k] > 0)
    return grads


def numpy_adamw(params: Params, lr: Expression) -> Callable[[Params, Clock], None]:
    """AdamW in pure NumPy, array by array: the operations of fusestep's rule in the same order."""
    m = {k: {n: np.zeros_like(p) for n, p in layer.items()} for k, layer in params.items()}
    v = {k: {n: np.zeros_like(p) for n, p in layer.items()} for k, layer in params.items()}
    real = np.float32
    t = 0

    def step(grads: Params, clock: Clock) -> None:
        nonlocal t
        t += 1
        rate = lr(clock)
        c1 = 1.0 - BETAS[0] ** t
        root_c2 = math.sqrt(1.0 - BETAS[1] ** t)
        for k, layer in params.items():
            for n, p in layer.items():
                g = grads[k][n]
                p *= real(1.0 - rate * WEIGHT_DECAY)
                m[k][n] += real(1.0 - BETAS[0]) * (g - m[k][n])
                v[k][n] = real(BETAS[1]) * v[k][n] + real(1.0 - BETAS[1]) * (g * g)
                d = np.sqrt(v[k][n]) * real(1.0 / root_c2) + real(EPS)
                p -= real(rate / c1) * m[k][n] / d

    return step


def train(
    digits: Digits,
    epochs: int,
    make_step: Callable[[Params, Expression], Callable[[Params, Clock], object]],
    title: str,
) -> Run:
    from tqdm import tqdm

    run = Run(initial_params())
    lr, loader = learning_rate(epochs), batches(digits, epochs)
    step = make_step(run.params, lr)
    with tqdm(total=epochs, desc=title, unit="epoch") as bar:
        for some in loader:
            grads = gradients(run.params, some["x"], some["y"])
            began = time.perf_counter()
            step(grads, some.clock)
            run.step_seconds.append(time.perf_counter() - began)
            run.steps.append((float(some.clock.epoch or 0), lr(some.clock), some.size))
            if int(loader.clock.epoch or 0) > len(run.losses):
                for losses, x, y in (
                    (run.losses, digits.train_x, digits.train_y),
                    (run.test_losses, digits.test_x, digits.test_y),
                ):
                    losses.append(loss_and_accuracy(run.params, x, y)[0])
                bar.set_postfix(loss=f"{run.losses[-1]:.4f}", refresh=False)
                bar.update()
    return run


def draw(run: Run, path: Path) -> None:
    """Loss, learning rate and batch size over the epochs, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 7), layout="constrained")
    FigureCanvasAgg(figure)
    loss, rate, size = figure.subplots(3, sharex=True, height_ratios=(2, 1, 1))
    epochs = range(1, len(run.losses) + 1)
    loss.semilogy(epochs, run.losses, label="train")
    loss.semilogy(epochs, run.test_losses, label="test")
    loss.set(ylabel="cross-entropy", title="Handwritten digits, MLP 64-512-512-10, fusestep.AdamW")
    loss.legend(frameon=False)
    at, rates, sizes = zip(*run.steps, strict=True)
    rate.plot(at, rates, drawstyle="steps-post")
    rate.set(ylabel="learning rate")
    size.plot(at, sizes, drawstyle="steps-post")
    size.set(ylabel="batch size", xlabel="epoch", ylim=(0, None))
    for axes in (loss, rate, size):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main(epochs: int, out: Path) -> int:
    """Trains twice and reports; returns 0 if both runs end with the same bits."""
    digits = Digits.load()

    def fused(params: Params, lr: Expression) -> Callable[[Params, Clock], object]:
        optimizer = AdamW(params, lr=lr, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY)
        return lambda grads, clock: optimizer.step(grads, clock=clock)

    native = train(digits, epochs, fused, "fusestep")
    numpy = train(digits, epochs, numpy_adamw, "NumPy   ")

    for name, x, y in (
        ("train", digits.train_x, digits.train_y),
        ("test", digits.test_x, digits.test_y),
    ):
        loss, accuracy = loss_and_accuracy(native.params, x, y)
        print(f"{name:5s}  loss {loss:.4f}   accuracy {100 * accuracy:.1f} %   ({len(x)} digits)")

    pairs = [
        (p, numpy.params[k][n]) for k, layer in native.params.items() for n, p in layer.items()
    ]
    total = sum(p.size for p, _ in pairs)
    differing = sum(int(np.count_nonzero(p.view("u4") != q.view("u4"))) for p, q in pairs)
    fast, slow = (float(np.median(run.step_seconds)) * 1e6 for run in (native, numpy))
    info = build_info()
    steps = len(native.step_seconds)
    print(f"after {steps} steps, {differing} of {total:,} parameters differ in any bit")
    print(f"AdamW step, {total:,} parameters in {len(pairs)} arrays, median:")
    print(f"  fusestep  {fast:8.1f} us   ({info['isa_active']}, {info['threads']} threads)")
    print(f"  NumPy     {slow:8.1f} us   {slow / fast:.1f} times as long")
    draw(native, out)
    print(f"loss, learning rate and batch size: {out}")
    return 0 if differing == 0 else 1
