"""A training run on digits as a program of its own: goes on at step FIRST from what it saved there.

The learning rate follows a warm-up and a cosine, momentum another curve, and both the loss.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import fusestep as fs
from runs import saved

WIDTHS, BATCH = (64, 32, 10), 64


def loss_and_gradients(
    params: list[np.ndarray], x: np.ndarray, labels: np.ndarray
) -> tuple[float, list[np.ndarray]]:
    w1, b1, w2, b2 = params
    hidden = np.maximum(x @ w1 + b1, 0)
    logits = hidden @ w2 + b2
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    d = np.exp(log_p)
    d[rows, labels] -= 1
    d /= np.float32(len(labels))
    back = (d @ w2.T) * (hidden > 0)
    gradients = [x.T @ back, back.sum(axis=0), hidden.T @ d, d.sum(axis=0)]
    return float(-log_p[rows, labels].mean()), [np.ascontiguousarray(g) for g in gradients]


def digits() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return (data.data / 16).astype(np.float32), data.target


def initial_params() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [
        (random.standard_normal((a, b)) / np.sqrt(a)).astype(np.float32)
        if rank == 2
        else np.zeros(b, np.float32)
        for a, b in pairwise(WIDTHS)
        for rank in (2, 1)
    ]


def main() -> None:
    folder, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    x, labels = digits()
    params = initial_params()
    follows = fs.control.Plateau(factor=0.7, patience=3, cooldown=2)
    opt = fs.SGD(
        params,
        lr=fs.schedules.warmup_cosine(peak=0.3, warmup=10, total=150, end=0.01) * follows,
        momentum=fs.schedules.linear(0.0, 0.9, length=2.0, by="epoch"),
        weight_decay=fs.schedules.random(0.0, 1e-3, every=7, seed=3),
        clip_norm=2.0 * fs.control.LossGap(lower=0.2),
        groups=[{"match": ["1", "3"], "weight_decay": 0.0}],
        nonfinite="skip",
    )
    if first:
        saved.load(folder / f"{first}.npz", opt, params)
    losses = []
    for t in range(first, last):
        chosen = np.random.default_rng(t).integers(0, len(x), BATCH)
        loss, gradients = loss_and_gradients(params, x[chosen], labels[chosen])
        if t % 40 == 17:
            gradients[0][0, 0] = np.inf
        clock = fs.Clock(samples=t * BATCH, epoch=t * BATCH / len(x), batch_size=BATCH)
        info = opt.step(gradients, clock=clock, loss=loss)
        losses.append([loss, info.lr, opt.momentum, opt.weight_decay, opt.clip_norm])
    saved.save(folder / f"{last}.npz", opt, params, trace=np.array(losses))


if __name__ == "__main__":
    main()
