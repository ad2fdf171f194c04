"""Models and gradients that tests share, and how they compare."""

from __future__ import annotations

from typing import Any

import numpy as np

# around every vector width and block edge
SIZES = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 1000, 4095, 4097, 65537)
DTYPES = (np.float32, np.float64)
# samples of each; not whole where samples have weights
MICRO_BATCHES = (3, 8.5, 1, 20)

Array = np.ndarray[Any, Any]


def arrays(sizes: tuple[int, ...], dtype: Any, seed: int) -> list[Array]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(size).astype(dtype) for size in sizes]


def micro_batches(sizes: tuple[int, ...], dtype: Any, seed: int) -> list[tuple[Any, float]]:
    """Gradients and samples of each."""
    return [
        (arrays(sizes, dtype, 10 * seed + j), samples) for j, samples in enumerate(MICRO_BATCHES)
    ]


def differing_bits(a: Array, b: Array) -> int:
    """How many elements differ in any bit; two NaNs are equal whatever their payload."""
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    unsigned = f"u{a.dtype.itemsize}"
    same = (a.view(unsigned) == b.view(unsigned)) | (np.isnan(a) & np.isnan(b))
    return int(np.count_nonzero(~same))


def assert_same_bits(a: list[Array], b: list[Array]) -> None:
    assert [differing_bits(x, y) for x, y in zip(a, b, strict=True)] == [0] * len(a)


def plain(value: Any) -> Any:
    """A value with arrays as bytes, for comparison."""
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value if isinstance(value, (int, str)) else repr(value)


def captured(opt: Any, stream: Any, replays: int) -> Any:
    """A CUDA graph of one step of bound gradients; the stream is the current one."""
    opt.prepare_replays(replays)
    stream.begin_capture()
    opt.step()
    return stream.end_capture()
