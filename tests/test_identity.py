"""The same bits for any instruction set, thread count, split and alignment."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import fusestep as fs
from fusestep import _core
from tables.models import DTYPES, SIZES, Array, arrays, assert_same_bits
from tables.registry import ELEMENTWISE, ROWS, Row

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)

SUPPORTED = fs.build_info()["isa_supported"]


def run(
    row: Row, params: list[Array], gradients: list[list[Array]]
) -> tuple[list[float], list[Array]]:
    """Steps with clipping; the norms, and all state arrays."""
    opt = row.build(params, clip_norm=1.0)
    norms = [opt.step(grads).grad_norm for grads in gradients]
    return norms, [array for state in opt.state.values() for array in state.values()]


@every_row
@every_dtype
@pytest.mark.parametrize("isa", SUPPORTED)
def test_every_instruction_set_gives_the_bits_of_the_baseline(
    row: Row, dtype: type, isa: str
) -> None:
    gradients = [arrays(SIZES, dtype, seed) for seed in range(1, 6)]
    results = []
    for name in ("baseline", isa):
        _core.use_isa(name)
        assert fs.build_info()["isa_active"] == name
        params = arrays(SIZES, dtype, 0)
        norms, state = run(row, params, gradients)
        results.append((norms, params + state))
    assert results[0][0] == results[1][0]
    assert_same_bits(results[0][1], results[1][1])


@pytest.mark.parametrize("isa", fs.build_info()["isa_compiled"])
def test_the_environment_forces_an_instruction_set(isa: str) -> None:
    if isa not in SUPPORTED:
        pytest.skip(f"this processor has no {isa}")
    code = "import fusestep; print(fusestep.build_info()['isa_active'])"
    done = _python(code, FUSESTEP_ISA=isa)
    assert done.stdout.strip() == isa


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FUSESTEP_ISA", "avx1024", "FUSESTEP_ISA must be one of"),
        ("FUSESTEP_NUM_THREADS", "0", "FUSESTEP_NUM_THREADS must be a whole number from 1 to 1024"),
        ("FUSESTEP_NUM_THREADS", "two", "not 'two'"),
    ],
)
def test_an_unknown_value_in_the_environment_is_an_error_at_import(
    name: str, value: str, message: str
) -> None:
    done = _python("import fusestep", **{name: value})
    assert done.returncode != 0
    assert "ImportError" in done.stderr
    assert message in done.stderr


def test_the_environment_sets_the_number_of_threads() -> None:
    done = _python("import fusestep; print(fusestep.get_num_threads())", FUSESTEP_NUM_THREADS="3")
    assert done.stdout.strip() == "3"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no CPU affinity on this system")
def test_by_default_there_are_as_many_threads_as_processors_may_be_used() -> None:
    cpu = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{cpu}]); import fusestep as fs"
    done = _python(f"{code}; print(fs.get_num_threads())")
    assert done.stdout.strip() == "1"


@every_row
@every_dtype
def test_every_number_of_threads_gives_the_bits_of_one(row: Row, dtype: type) -> None:
    gradients = [arrays(SIZES, dtype, seed) for seed in range(1, 6)]
    results = []
    for threads in (1, 2, 3, 4, 7):
        fs.set_num_threads(threads)
        assert fs.get_num_threads() == threads
        params = arrays(SIZES, dtype, 0)
        norms, state = run(row, params, gradients)
        results.append((norms, params + state))
    for norms, result in results[1:]:
        assert norms == results[0][0]
        assert_same_bits(result, results[0][1])


def pieces(whole: Array, sizes: tuple[int, ...]) -> list[Array]:
    """Views of the array, cut into the given sizes again and again."""
    cut, start, i = [], 0, 0
    while start < whole.size:
        size = sizes[i % len(sizes)]
        cut.append(whole[start : start + size])
        start, i = start + size, i + 1
    return cut


@pytest.mark.parametrize("row", ELEMENTWISE, ids=lambda row: row.id)
@every_dtype
@pytest.mark.parametrize("sizes", [(1, 17, 1001), (4096,), (63, 3, 100, 2048)], ids=str)
def test_a_ragged_split_gives_the_bits_of_the_whole(
    row: Row, dtype: type, sizes: tuple[int, ...]
) -> None:
    size = 50_003
    gradients = [arrays((size,), dtype, seed)[0] for seed in range(1, 6)]
    whole, split = arrays((size,), dtype, 0)[0], arrays((size,), dtype, 0)[0]
    norms, _ = run(row, [whole], [[g] for g in gradients])
    split_norms, _ = run(row, pieces(split, sizes), [pieces(g, sizes) for g in gradients])
    assert norms == split_norms
    assert_same_bits([whole], [split])


@every_row
@every_dtype
def test_every_alignment_gives_the_same_bits(row: Row, dtype: type) -> None:
    size, item = 3001, np.dtype(dtype).itemsize
    gradients = [arrays((size,), dtype, seed)[0] for seed in range(1, 4)]
    results = []
    for offset in range(0, 64, item):
        # the parameter and its gradient stand at different offsets from a cache line
        params = place(arrays((size,), dtype, 0)[0], offset)
        shifted = [[place(g, (offset * 3 + item) % 64)] for g in gradients]
        norms, state = run(row, [params], shifted)
        results.append((norms, [params, *state]))
    for norms, result in results[1:]:
        assert norms == results[0][0]
        assert_same_bits(result, results[0][1])


def place(array: Array, offset: int) -> Array:
    """A copy of the array that starts `offset` bytes behind a multiple of 64."""
    memory = np.empty(array.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    placed = memory[start : start + array.nbytes].view(array.dtype)
    placed[:] = array
    assert placed.ctypes.data % 64 == offset
    return placed


def test_the_order_of_leaves_in_a_nesting_does_not_change_their_bits() -> None:
    grads = arrays((100, 65), np.float32, 1)
    a, b = arrays((100, 65), np.float32, 0)
    nested = {"x": [a.copy()], "y": ({"z": b.copy()},)}
    fs.AdamW([a, b]).step(grads)
    fs.AdamW(nested).step({"y": ({"z": grads[1]},), "x": [grads[0]]})
    assert_same_bits([a, b], [nested["x"][0], nested["y"][0]["z"]])


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
