"""Arrays of CuPy are saved by way of pinned memory, and loaded back to their device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from emulation.cuda import Driver
from fusestep import checkpoint
from fusestep.checkpoint import background as room

pytest.importorskip("safetensors")
pytest.importorskip("xxhash")


def model(cupy: Any, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    params = {"w": random.standard_normal((5, 7)), "b": random.standard_normal(3)}
    return {name: cupy.asarray(array.astype(np.float32)) for name, array in params.items()}


def trained(params: Any, cupy: Any, steps: int, opt: Any = None) -> Any:
    opt = opt or fs.AdamW(params, lr=0.1, clip_norm=1.0)
    for step in range(steps):
        opt.step({name: cupy.asarray(np.cos(p.get() + step)) for name, p in params.items()})
    return opt


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(a[name].get().tobytes() == b[name].get().tobytes() for name in a)


@pytest.mark.parametrize("background", [False, True])
def test_a_run_on_a_gpu_goes_on_with_the_same_bits(
    cupy: Any, tmp_path: Path, background: bool
) -> None:
    params = model(cupy, 0)
    opt = trained(params, cupy, 3)
    extra = {"mask": cupy.asarray(np.arange(12).reshape(3, 4) % 5)}
    path = tmp_path / "run.safetensors"
    checkpoint.save(path, params=params, optimizer=opt, extra=extra, background=background)
    trained(params, cupy, 3, opt)  # while it is written
    here = model(cupy, 1)
    again = fs.AdamW(here, lr=1.0, clip_norm=1.0)
    mask = cupy.asarray(np.zeros((3, 4), np.int64))
    checkpoint.load(path, params=here, optimizer=again, extra={"mask": mask})
    assert (mask.get() == np.arange(12).reshape(3, 4) % 5).all()
    trained(here, cupy, 3, again)
    assert same(here, params)
    assert again.state_dict()["parameters"]["w"]["updates"] == 6
    checkpoint.wait()


def test_a_file_goes_from_gpu_to_cpu_and_back(cupy: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    params = model(cupy, 0)
    opt = trained(params, cupy, 3)
    checkpoint.save(path, params=params, optimizer=opt)
    host = {name: np.zeros(p.shape, np.float32) for name, p in params.items()}
    on_host = fs.AdamW(host, clip_norm=1.0)
    checkpoint.load(path, params=host, optimizer=on_host)
    other = tmp_path / "host.safetensors"
    checkpoint.save(other, params=host, optimizer=on_host)
    assert other.read_bytes() == path.read_bytes()
    here = model(cupy, 1)
    checkpoint.load(other, params=here)
    assert same(here, params)


def test_any_strides_on_a_gpu_are_saved_and_loaded_in_place(cupy: Any, tmp_path: Path) -> None:
    base = cupy.asarray(np.arange(60.0).reshape(6, 10))
    views = {"strided": base[::2, ::-3], "transposed": base.T, "empty": base[:0], "all": base}
    checkpoint.save(tmp_path / "a", params=views)
    memory = cupy.asarray(np.zeros((6, 10)))
    here = {
        "strided": memory[::2, ::-3],
        "transposed": cupy.asarray(np.zeros((6, 10))).T,
        "empty": cupy.asarray(np.zeros((0, 10))),
        "all": cupy.asarray(np.zeros((6, 10))),
    }
    checkpoint.load(tmp_path / "a", params=here)
    assert same(here, views)
    whole = np.arange(60.0).reshape(6, 10)
    expected = np.zeros((6, 10))
    expected[::2, ::-3] = whole[::2, ::-3]
    assert (memory.get() == expected).all()


def test_copies_on_the_host_are_pinned_and_gpus_are_told_apart(
    emulated: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cupy

    pinned = []
    host_copy = room.host_copy

    def watched(array: Any) -> Any:
        copy = host_copy(array)
        pinned.append(emulated.is_pinned(copy.ctypes.data))
        return copy

    monkeypatch.setattr(room, "host_copy", watched)
    monkeypatch.setattr(checkpoint.saving, "host_copy", watched)
    params = []
    for device in (0, 1):
        with cupy.cuda.Device(device):
            params.append(cupy.asarray(np.full(3, float(device))))
    for background in (False, True):
        checkpoint.save(tmp_path / "a", params=params, background=background)
        checkpoint.wait()
    assert pinned == [True] * 4
    for array in params:
        with array.device:
            array.fill(7.0)
    checkpoint.load(tmp_path / "a", params=params)
    assert [array.get().tolist() for array in params] == [[0.0] * 3, [1.0] * 3]


def test_a_shape_that_differs_leaves_the_gpu_as_it_is(cupy: Any, tmp_path: Path) -> None:
    params = model(cupy, 0)
    checkpoint.save(tmp_path / "a", params=params)
    here = {**model(cupy, 1), "b": cupy.asarray(np.zeros(4, np.float32))}
    before = {name: array.get() for name, array in here.items()}
    with pytest.raises(fs.StateError, match=r"params\['b'\] shape: saved \(3,\), present \(4,\)"):
        checkpoint.load(tmp_path / "a", params=here)
    assert all((here[name].get() == before[name]).all() for name in here)
