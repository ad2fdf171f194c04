"""Norms and sums of gradients in NumPy, and how a gradient is treated before a rule sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .updates import Array

LANES, BLOCK = 16, 1024


def lane_sum(terms: Array) -> float:
    """The fixed order of additions: 16 lanes over blocks of 1024, then the same over the blocks."""
    while True:
        padded = np.zeros(max(1, -(-terms.size // BLOCK)) * BLOCK)
        padded[: terms.size] = terms
        lanes = np.zeros((padded.size // BLOCK, LANES))
        for row in padded.reshape(-1, BLOCK // LANES, LANES).swapaxes(0, 1):
            lanes = lanes + row
        while lanes.shape[1] > 1:
            half = lanes.shape[1] // 2
            lanes = lanes[:, :half] + lanes[:, half:]
        terms = lanes[:, 0]
        if terms.size == 1:
            return float(terms[0])


def grad_norm(
    grads: Sequence[Array | None], sizes: Sequence[int], grad_scale: float = 1.0
) -> float:
    """The norm of all gradients laid end to end, divided by the scale."""
    scaled, shift = scaled_norm(grads, sizes, grad_scale)
    with np.errstate(over="ignore"):
        return float(np.float64(scaled) / shift)


def scaled_norm(
    grads: Sequence[Array | None], sizes: Sequence[int], grad_scale: float
) -> tuple[float, float]:
    """The norm times a power of two, and that power: not 1 where plain squares leave double."""
    total, shift = squared_norm(grads, sizes), 1.0
    if total == math.inf:
        shift = 2.0**-600
    elif total < 2.0**-960:
        shift = 2.0**600
    if shift != 1.0:
        with np.errstate(over="ignore"):
            total = squared_norm(
                [None if g is None else g * np.float64(shift) for g in grads], sizes
            )
    return math.sqrt(total) / grad_scale, shift


def squared_norm(grads: Sequence[Array | None], sizes: Sequence[int]) -> float:
    """That of all gradients laid end to end; a missing one leaves its place empty."""
    parts = [
        np.zeros(size) if g is None else g.astype(np.float64).ravel() ** 2
        for g, size in zip(grads, sizes, strict=True)
    ]
    return lane_sum(np.concatenate(parts))


def clip_factor(clip_norm: float, scaled: float, shift: float) -> float:
    """What brings the norm down to the limit."""
    norm = np.float64(scaled) / shift
    if norm <= clip_norm or clip_norm == math.inf:
        return 1.0
    whole = math.isfinite(norm)
    return float(clip_norm / norm if whole else clip_norm / np.float64(scaled) * shift)


def clipped_in_units(p: Array, g: Array, agc: float, eps: float, axis: int) -> Array:
    """Adaptive gradient clipping: a dimension enumerates units; an array of at most one is one."""
    form = p.shape
    if p.ndim <= 1:
        axis, p, g = 0, p[np.newaxis], g[np.newaxis]
    else:
        axis %= p.ndim
    p, g = np.moveaxis(p, axis, 0), np.moveaxis(g, axis, 0)
    factors = [unit_factor(*pair, agc, eps) for pair in zip(p, g, strict=True)]
    shape = (-1, *[1] * (g.ndim - 1))
    clipped = np.moveaxis(g * np.array(factors, g.dtype).reshape(shape), 0, axis)
    return np.ascontiguousarray(clipped).reshape(form)


def unit_factor(p: Array, g: Array, agc: float, eps: float) -> float:
    """What brings the norm of a unit's gradient down to the limit."""
    sizes = [np.sqrt(lane_sum(np.ravel(x).astype(np.float64) ** 2)) for x in (p, g)]
    limit = agc * np.maximum(sizes[0], eps)
    return float(1.0 if sizes[1] < limit else limit / np.maximum(sizes[1], 1e-6))


def multiplied(g: Array, factor: float) -> Array:
    """By a factor that float32 holds as a normal number, or in two steps."""
    real = g.dtype.type
    if real is np.float32 and abs(factor) < 2.0**-126:
        return g * real(2.0**-96) * real(factor * 2.0**96)
    return g * real(factor)


def accumulate(
    sums: Sequence[Array | None], grads: Sequence[Array | None], samples: float
) -> list[Array | None]:
    """The sums with a micro-batch added; None where there was no gradient yet."""
    added = []
    for a, g in zip(sums, grads, strict=True):
        term = None if g is None else g.dtype.type(samples) * g
        added.append(term if a is None else a if term is None else a + term)
    return added
