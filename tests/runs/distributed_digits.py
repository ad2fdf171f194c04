"""A small network on digits, of ranks of any engine: ``python -m runs.distributed_digits mpi``.

Its batch grows from fewer samples than leaves, rate and clipping follow schedules and the loss.
Rank 0 prints hashes of everything that must not depend on the number of ranks.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import fusestep as fs
from fusestep import distributed
from runs.connected import connected

Params = dict[str, dict[str, Any]]
STEPS, LEAVES = 14, 12


def parameters() -> Params:
    random = np.random.default_rng(0)
    sizes = (64, 96, 64, 10)
    return {
        f"dense{layer}": {
            "w": (random.standard_normal((a, b)) * np.sqrt(2 / a)).astype(np.float32),
            "b": np.zeros(b, np.float32),
        }
        for layer, (a, b) in enumerate(itertools.pairwise(sizes))
    }


def loss_and_grads(params: Params, batch: Any) -> tuple[float, Params]:
    *hidden, last = params.values()
    inputs = [batch["x"]]
    for layer in hidden:
        inputs.append(np.maximum(inputs[-1] @ layer["w"] + layer["b"], 0))
    scores = inputs[-1] @ last["w"] + last["b"]
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    slope = odds / odds.sum(axis=1, keepdims=True)
    own = np.arange(len(slope)), batch["y"]
    loss = float(-np.log(slope[own] + 1e-30).mean())
    slope[own] -= 1
    slope /= np.float32(len(slope))
    grads = {}
    for (name, layer), into in zip(reversed(params.items()), reversed(inputs), strict=True):
        grads[name] = {"w": into.T @ slope, "b": slope.sum(axis=0)}
        slope = (slope @ layer["w"].T) * (into > 0)
    return loss, {name: grads[name] for name in params}


def digest(*trees: Any) -> str:
    arrays, text = fs.checkpoint.flatten(list(trees))
    found = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        found.update(np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()[:16]


def train(group: distributed.Group, folder: Path | None = None) -> str | None:
    """What rank 0 tells of the run, which goes on from the last checkpoint of a folder."""
    digits = load_digits()
    data = {"x": (digits.data / 16).astype(np.float32), "y": digits.target}
    params = distributed.flatten(parameters())
    opt = distributed.Sharded(
        fs.AdamW,
        params,
        group=group,
        leaves=LEAVES,
        lr=fs.schedules.warmup_cosine(peak=3e-3, warmup=5, total=40)
        * fs.control.Plateau(factor=0.5, patience=2),
        clip_norm=fs.schedules.linear(0.3, 1.0, length=10),
        nonfinite="skip",
        groups=[{"match": "*/b", "weight_decay": 0.0}],
        # of a model so small every rank updates everything, unless it is told to have a shard
        memory=None if group.world % 2 else [1] * group.world,
        buckets=3,
    )
    size = fs.batch_sizes.polynomial(start=7, end=150, length=STEPS)
    statistics = fs.gradients.GradientStatistics(horizon=2000)
    told: list[Any] = []
    loader = fs.Loader(data, size, seed=3, epochs=5, shard=opt.share)
    loaded = None if folder is None else opt.load(folder, loader=loader)
    if loaded is not None:
        told = loaded.extra["told"]
        statistics.load_state_dict(loaded.extra["statistics"])
    for batch, _ in zip(loader, range(len(told), STEPS), strict=False):
        info, loss = distributed.step(
            opt,
            lambda part: loss_and_grads(params, part),
            batch,
            statistics=statistics if len(told) % 2 else None,
        )
        told.append([info.lr, info.grad_norm, info.applied, loss, batch.size])
        if folder is not None:
            extra = {"told": told, "statistics": statistics}
            opt.save(folder, step=len(told), loader=loader, extra=extra)
    opt.verify()
    state = opt.state_dict()
    if state is None:
        return None
    return json.dumps(
        {
            "parameters": digest(params),
            "state": digest(state),
            "statistics": digest(statistics.state_dict()),
            "norms and losses": hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16],
            "last loss": told[-1][3].hex(),
        }
    )


if __name__ == "__main__":
    engine, *count = sys.argv[1:]
    if engine == "threads":
        ranks = distributed.threads(int(count[0]))
        with ThreadPoolExecutor(len(ranks)) as pool:
            print(next(filter(None, pool.map(train, ranks))))
    elif (found := train(connected(engine))) is not None:
        print(found)
