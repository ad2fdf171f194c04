"""A convolutional network on scikit-learn's digits: torch.optim.AdamW for a while, then fusestep's.

Images lie in channels_last, forward and backward run in bfloat16, gradients of two batches are
added and clipped, and a curve of fusestep gives the learning rates. Halfway the run is resumed from
torch's own checkpoint, with torch's optimizer and with fusestep's: both end at the same loss.

    python torch_digits.py [--epochs N]
"""

from __future__ import annotations

import argparse
import io
from typing import Any

import torch
from sklearn.datasets import load_digits

import fusestep as fs
import fusestep.torch

pixels, labels = load_digits(return_X_y=True)
X = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
Y = torch.tensor(labels)
BATCH, ACCUMULATE = 64, 2


def build(kind: Any, epochs: int) -> tuple[Any, Any, Any]:
    """A network, its optimizer and the scheduler of that."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, stride=2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 9, 10),
    ).to(memory_format=torch.channels_last)
    optimizer = kind(model.parameters(), weight_decay=0.05)
    steps = epochs * len(range(0, len(X), BATCH)) // ACCUMULATE
    curve = fs.schedules.warmup_cosine(peak=3e-3, warmup=10, total=steps)
    return model, optimizer, fs.schedules.as_scheduler(optimizer, curve)


def train(model: Any, optimizer: Any, scheduler: Any, epochs: range) -> float:
    """The mean loss of the last of these epochs."""
    total = 0.0
    for epoch in epochs:
        order = torch.randperm(len(X), generator=torch.Generator().manual_seed(epoch))
        total = 0.0
        for i, rows in enumerate(order.split(BATCH), start=1):
            images = X[rows].to(memory_format=torch.channels_last)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(model(images), Y[rows])
            (loss / ACCUMULATE).backward()
            total += float(loss.detach()) * len(rows)
            if i % ACCUMULATE == 0:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
    return total / len(X)


parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=10)
epochs = parser.parse_args().epochs
half = epochs // 2

parts = build(torch.optim.AdamW, epochs)
print(f"torch, to the middle: loss {train(*parts, range(half)):.4f}")
file = io.BytesIO()
torch.save([part.state_dict() for part in parts], file)
for kind in (torch.optim.AdamW, fusestep.torch.AdamW):
    resumed = build(kind, epochs)
    file.seek(0)
    for part, state in zip(resumed, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    name = kind.__module__.partition(".")[0]
    print(f"{name}, to the end: loss {train(*resumed, range(half, epochs)):.4f}")
