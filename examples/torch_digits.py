"""A convolutional network of torch, begun with torch's optimizer and trained on with fusestep's.

pip install "fusestep[torch]" scikit-learn
python examples/torch_digits.py
"""

import argparse
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.nn import functional

import fusestep as fs
import fusestep.torch

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--epochs", type=int, default=6, help="with each of the two (%(default)s)")
EPOCHS = parser.parse_args().epochs
MICRO_BATCH, ACCUMULATED, TRAIN = 32, 2, 22 * 64  # images to train with; the others test
BATCH = MICRO_BATCH * ACCUMULATED
torch.set_num_threads(1)  # the network is too small for more

pixels, digits = load_digits(return_X_y=True)
images = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
images = images.to(memory_format=torch.channels_last)
labels = torch.tensor(digits)
CURVE = fs.schedules.warmup_cosine(peak=3e-3, warmup=10, total=TRAIN // BATCH * EPOCHS * 2)


def network():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 4 * 4, 10),
    )
    return layers.to(memory_format=torch.channels_last)


def loss_of(model, rows):
    with torch.autocast("cpu", torch.bfloat16):  # parameters and gradients stay float32
        return functional.cross_entropy(model(images[rows]).float(), labels[rows])


def train(kind, saved=None):
    """Trains for some epochs, from where another class left off; returns what to go on from."""
    model = network()
    opt = kind(model.parameters(), weight_decay=0.05)
    scheduler = fs.schedules.as_scheduler(opt, CURVE)  # or any scheduler of torch
    parts = {"model": model, "optimizer": opt, "scheduler": scheduler}
    checkpoint = {"epochs": 0} if saved is None else torch.load(saved, weights_only=True)
    for name in parts.keys() & checkpoint:
        parts[name].load_state_dict(checkpoint[name])
    first = checkpoint["epochs"]
    for epoch in range(first, first + EPOCHS):
        order = torch.randperm(TRAIN, generator=torch.Generator().manual_seed(epoch))
        for batch in order.split(BATCH):
            opt.zero_grad()
            for rows in batch.split(MICRO_BATCH):
                (loss_of(model, rows) / ACCUMULATED).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            scheduler.step()
        with torch.no_grad():
            loss = loss_of(model, slice(TRAIN, None))
        print(f"{kind.__module__.partition('.')[0]:8} epoch {epoch + 1:2}: loss {loss:.4f}")
    return {name: part.state_dict() for name, part in parts.items()} | {"epochs": first + EPOCHS}


with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "digits.pt"
    torch.save(train(torch.optim.AdamW), file)
    for kind in (torch.optim.AdamW, fusestep.torch.AdamW):
        train(kind, file)
