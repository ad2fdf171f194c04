"""A run as a program of its own: goes on at step `first` from what it saved there, up to `last`.

The second array has no gradient at every third step, one step is skipped, and the loop lowers the
learning rate.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import fusestep as fs
from runs import saved

SIZES = (33, 1000, 7)

folder, (first, last), rows = Path(sys.argv[1]), map(int, sys.argv[2:4]), json.loads(sys.argv[4])
for k, (name, options) in enumerate(rows):
    params = [np.random.default_rng(n).standard_normal(n).astype(np.float32) for n in SIZES]
    opt = getattr(fs, name)(params, clip_norm=4.0, nonfinite="skip", **options)
    if first > 0:
        saved.load(folder / f"{k}-{first}.npz", opt, params)
    for step in range(first, last):
        random = np.random.default_rng(1000 + step)
        grads = [random.standard_normal(p.size).astype(np.float32) for p in params]
        if step == 5:
            grads[0][3] = np.inf
        opt.step([grads[0], None if step % 3 == 1 else grads[1], grads[2]])
        opt.lr = opt.lr * 0.9
        if first == 0 or step + 1 == last:  # what another run goes on from, or is compared with
            saved.save(folder / f"{k}-{step + 1}.npz", opt, params)
