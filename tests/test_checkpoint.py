"""What was saved comes back bit for bit, into the arrays and objects that are there."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import checkpoint

pytest.importorskip("safetensors")
pytest.importorskip("xxhash")

Array = np.ndarray[Any, Any]


class Run:
    """A small run with all that a checkpoint takes."""

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.params = {
            "dense": {"w": random.standard_normal((3, 5)).astype(np.float32)},
            "bias": random.standard_normal(7).astype(np.float32),
        }
        lr = fs.schedules.cosine(0.1, length=40) * fs.control.Plateau(factor=0.5, patience=1)
        self.opt = fs.AdamW(self.params, lr=lr, clip_norm=1.0)
        data = {"x": np.arange(50, dtype=np.float32)}
        self.loader = fs.Loader(data, fs.expression.step + 2, epochs=None, seed=seed)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            batch = next(iter(self.loader))
            size = float(batch["x"].sum())
            grads = {
                "dense": {"w": np.cos(self.params["dense"]["w"] + size)},
                "bias": np.sin(self.params["bias"] * size),
            }
            self.opt.step(grads, clock=batch.clock, loss=math.cos(size))

    def all(self) -> dict[str, Any]:
        return {"params": self.params, "optimizer": self.opt, "loader": self.loader}

    def bits(self) -> Any:
        return bits(self.params, self.opt.state_dict(), self.loader.state_dict())


def bits(*states: Any) -> Any:
    arrays, text = checkpoint.flatten(list(states))
    return [(array.dtype, array.shape, array.tobytes()) for array in arrays.values()], text


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "run.safetensors"
    checkpoint.wait()


@pytest.mark.parametrize("background", [False, True])
def test_a_run_goes_on_with_the_bits_of_the_one_that_never_stopped(
    path: Path, background: bool
) -> None:
    run = Run()
    run.train(9)
    assert checkpoint.save(path, step=9, **run.all(), background=background) == path
    run.train(9)  # while it is written
    again = Run(1)
    assert checkpoint.load(path, **again.all()) == (9, None, (), (), ())
    again.train(9)
    assert again.bits() == run.bits()


ARRAYS: dict[str, Any] = {
    **{name: name for name in ("bool", "complex64")},
    **{f"{kind}{n}": f"{kind}{n}" for kind in ("int", "uint") for n in (8, 16, 32, 64)},
    **{f"float{n}": f"float{n}" for n in (16, 32, 64)},
}


def pattern(dtype: Any, shape: tuple[int, ...] = (3, 7)) -> Array:
    """Any bits, NaNs with payloads among them."""
    size = math.prod(shape)
    raw = np.random.default_rng(size).bytes(size * np.dtype(dtype).itemsize)
    array = np.frombuffer(raw, np.uint8)
    array = array % 2 if np.dtype(dtype) == np.bool_ else array
    return array.view(dtype).reshape(shape).copy()


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_keep_their_dtype_and_bits(path: Path, name: str) -> None:
    array = pattern(name)
    here = np.zeros_like(array)
    checkpoint.save(path, params=array, extra=[array])
    loaded = checkpoint.load(path, params=here)
    assert bits(here, loaded.extra[0]) == bits(array, array)
    assert loaded.extra[0].flags.writeable


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"])
def test_arrays_of_ml_dtypes_keep_their_dtype_and_bits(path: Path, name: str) -> None:
    module = pytest.importorskip("ml_dtypes")
    array = pattern(getattr(module, name))
    checkpoint.save(path, params=array)
    here = np.zeros_like(array)
    checkpoint.load(path, params=here)
    assert here.tobytes() == array.tobytes()
    code = "import sys; from fusestep import checkpoint; a = checkpoint.load(sys.argv[1]); "
    checkpoint.save(path, extra=array)
    code += "print(a.extra.dtype, a.extra.tobytes().hex())"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.stdout.split() == [name, array.tobytes().hex()]


def test_arrays_of_any_strides_are_saved_and_loaded_in_place(path: Path) -> None:
    base = np.arange(60.0).reshape(6, 10)
    views = {
        "strided": base[::2, ::-3],
        "transposed": base.T,
        "fortran": np.asfortranarray(base),
        "row": np.broadcast_to(base[0], (3, 10)),
        "scalar": np.array(3.5),
        "empty": np.zeros((0, 4), np.float32),
        "odd": np.arange(3, dtype=np.uint8),
    }
    checkpoint.save(path, params=views)
    memory = np.zeros((6, 10))
    here = {name: np.zeros_like(view) for name, view in views.items()}
    here["strided"] = memory[::2, ::-3]
    here["transposed"] = np.zeros((6, 10)).T
    here["row"] = np.zeros((3, 10))
    held = dict(here)
    checkpoint.load(path, params=here)
    for name, view in views.items():
        assert here[name] is held[name]
        assert (here[name] == view).all()
    memory[::2, ::-3] = 0
    assert not memory.any()


def test_the_file_is_one_that_safetensors_reads(path: Path) -> None:
    from safetensors import safe_open
    from safetensors.numpy import load_file

    run = Run()
    run.train(2)
    checkpoint.save(path, step=2, **run.all(), extra={"curve": np.arange(3)})
    arrays = load_file(path)
    state = run.opt.state["dense/w"]
    assert (arrays["params/dense/w"] == run.params["dense"]["w"]).all()
    assert (arrays["optimizer/parameters/dense/w/state/m"] == state["m"]).all()
    assert (arrays["extra/curve"] == np.arange(3)).all()
    assert len(arrays) == 7
    with safe_open(path, "numpy") as file:
        contents = json.loads(file.metadata()["fusestep"])
    assert contents["format"] == 1
    assert contents["fusestep"] == fs.__version__
    assert contents["params"] == [
        {"path": "dense/w", "dtype": "F32", "shape": [3, 5]},
        {"path": "bias", "dtype": "F32", "shape": [7]},
    ]
    assert (contents["begin"], contents["end"]) == (0, 22)


def test_each_array_begins_at_a_multiple_of_its_width(path: Path) -> None:
    dtypes = ["uint8", "float64", "bool", "float16", "complex64", "int32", "int8", "float32"]
    for size in range(3):  # so that the header's length is any
        name = "n" * size
        arrays = {f"{name}{i}": np.ones(3, dtype) for i, dtype in enumerate(dtypes)}
        checkpoint.save(path, params=arrays)
        data = path.read_bytes()
        begin = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:begin])
        for key, array in arrays.items():
            assert (begin + header[f"params/{key}"]["data_offsets"][0]) % array.itemsize == 0


def test_neither_a_save_nor_a_load_copies_large_arrays(path: Path) -> None:
    params = {"a": np.ones(2**21), "b": np.ones((2**10, 2**11), np.float32)}  # 16 MB, 8 MB
    opt = fs.SGD(params, lr=0.1, momentum=0.5)
    peaks = []
    for call in (checkpoint.save, checkpoint.load):
        call(path, params=params, optimizer=opt)  # and imports what it needs
        tracemalloc.start()
        call(path, params=params, optimizer=opt)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 2**21


def test_equal_states_make_equal_files(path: Path) -> None:
    run = Run()
    run.train(3)
    checkpoint.save(path, step=3, **run.all())
    first = path.read_bytes()
    checkpoint.save(path, step=3, **run.all(), background=True)
    checkpoint.wait()
    assert path.read_bytes() == first


class Unknown:
    def __repr__(self) -> str:
        return "an object"


NOT_SAVED: list[tuple[dict[str, Any], str]] = [
    ({}, "nothing to save"),
    ({"step": -1, "params": np.ones(1)}, "step must be at least 0"),
    ({"step": 1.5, "params": np.ones(1)}, "step must be a whole number"),
    ({"params": {}}, "params: must hold at least one array"),
    ({"params": {"w": [1.0]}}, r"params\['w'\] must be a numpy.ndarray, not float|params\['w/0'\]"),
    ({"params": {"w": np.ones(2, ">f4")}}, "params/w: arrays of >f4"),
    ({"params": {"w": np.ones(2, complex)}}, "params/w: arrays of complex128.*real"),
    ({"params": {"w": np.ones(2, np.longdouble)}}, "params/w: arrays of (float128|longdouble)"),
    ({"params": {"w": np.array(["a"])}}, "params/w: arrays of <U1"),
    ({"params": {"w": np.array([None])}}, "params/w: arrays of object"),
    ({"params": {"w": np.zeros(2, "M8[s]")}}, "params/w: arrays of datetime64"),
    ({"params": {"w": np.zeros(2, [("x", "f4")])}}, r"params/w: arrays of \[\('x'"),
    ({"params": np.ma.ones(2)}, "params: must be a numpy.ndarray"),
    ({"optimizer": 3}, "optimizer must be an object with state_dict"),
    ({"optimizer": fs.SGD}, "optimizer must be an object with state_dict"),
    ({"loader": {"train": None}}, "loader must be an object with state_dict"),
    ({"extra": {"a": [1, math.nan]}}, "extra/a/1: must be finite"),
    ({"extra": {"a": -math.inf}}, "extra/a: must be finite"),
    ({"extra": np.float32(math.inf)}, "extra: must be finite"),
    ({"extra": {"a": {3: 4}}}, "extra/a: names must be text, not 3"),
    ({"extra": {"fusestep.array": 3}}, "extra: the name 'fusestep.array' has a meaning"),
    ({"extra": {"a": Unknown()}}, "extra/a: must be an array or a JSON value, not an object"),
    ({"extra": {"a": b"bytes"}}, "extra/a: must be an array or a JSON value, not b'bytes'"),
    ({"extra": 10**5000}, "extra: has more digits"),
    ({"extra": {"a/b": np.ones(1), "a": {"b": np.ones(1)}}}, "extra/a/b: is the path of two"),
    ({"extra": {"\ud800": np.ones(1)}}, "has a name that is no text"),
    ({"extra": json.loads("[" * 60 + "]" * 60)}, "is nested too deeply"),
    ({"extra": "x" * 110_000_000, "background": True}, "takes 110,000,2.. bytes"),
    ({"params": np.ones(1), "background": 1}, "background must be True or False"),
]


@pytest.mark.parametrize(("given", "error"), NOT_SAVED, ids=[error for _, error in NOT_SAVED])
def test_what_cannot_be_saved_is_named_and_nothing_is_written(
    path: Path, given: dict[str, Any], error: str
) -> None:
    with pytest.raises((TypeError, ValueError, fs.StateError), match=error):
        checkpoint.save(path, **given)
    assert list(path.parent.iterdir()) == []


def test_parameters_that_hold_their_averages_are_not_saved_as_parameters(path: Path) -> None:
    w = np.ones(2)
    opt = fs.SGD(w, lr=1.0, ema=0.5)
    with opt.averaged_in_place():
        with pytest.raises(fs.StateError, match="leave averaged_in_place"):
            checkpoint.save(path, params=w, optimizer={"main": opt})
        checkpoint.save(path, optimizer=opt)
        checkpoint.save(path, params=w)  # the averages, as a model


def test_no_step_is_taken_while_an_optimizer_is_saved(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    from fusestep.checkpoint import saving

    w = np.ones(2)
    opt = fs.SGD(w, lr=1.0, momentum=0.5)
    errors = []

    def step() -> None:
        try:
            opt.step(np.ones(2))
        except fs.StateError as error:
            errors.append(error)

    def write(*args: Any) -> None:
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()

    monkeypatch.setattr(saving, "write_file", write)
    checkpoint.save(path, optimizer=opt)
    assert len(errors) == 1


class WithMore(fs.SGD):
    """Saves something of its own."""

    more = 0

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "more": self.more}

    def load_state_dict(self, state: Any, **options: Any) -> Any:
        state = dict(state)
        self.more = state.pop("more")
        return super().load_state_dict(state, **options)


def test_a_class_that_saves_more_is_asked_for_it(path: Path) -> None:
    opt = WithMore(np.ones(2), lr=1.0)
    opt.more = 5
    checkpoint.save(path, optimizer=opt)
    again = WithMore(np.ones(2), lr=1.0)
    checkpoint.load(path, optimizer=again)
    assert again.more == 5


def test_a_later_file_takes_the_place_of_an_earlier_one(path: Path) -> None:
    for value in (1.0, 2.0):
        checkpoint.save(path, params=np.full(3, value))
    here = np.zeros(3)
    checkpoint.load(path, params=here)
    assert (here == 2.0).all()
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run\.safetensors"):
        checkpoint.load(path)


def test_flattened_states_go_on_in_any_format(tmp_path: Path) -> None:
    run = Run()
    run.train(3)
    for state in (run.opt.state_dict(), run.loader.state_dict(), [1, {"a": np.ones(2)}, None]):
        arrays, text = checkpoint.flatten(state)
        np.savez(tmp_path / "state.npz", **arrays, json=np.array(text))
        with np.load(tmp_path / "state.npz", allow_pickle=False) as saved:
            same = {name: saved[name] for name in arrays}
            again = checkpoint.unflatten(same, saved["json"].item())
        assert bits(again) == bits(state)
    # a byte order that is said, as zarr does, is the same
    opt = fs.AdamW({"w": np.ones(2)}, lr=0.5)
    arrays, text = checkpoint.flatten(opt.state_dict())
    said = {
        name: array.view(array.dtype.newbyteorder("=").newbyteorder(sys.byteorder))
        for name, array in arrays.items()
    }
    assert {array.dtype.byteorder for array in said.values()} <= {"<", ">"}
    opt.load_state_dict(checkpoint.unflatten(said, text))
    # what formats without arrays of no dimensions give for one
    arrays, text = checkpoint.flatten({"a": np.array(2.5, np.float32)})
    assert bits(checkpoint.unflatten({"a": np.float32(2.5)}, text)) == bits({"a": arrays["a"]})
    with pytest.raises(checkpoint.CheckpointError, match="there is no array"):
        checkpoint.unflatten({}, checkpoint.flatten({"a": np.ones(2)})[1])
    with pytest.raises(checkpoint.CheckpointError, match="NaN is no finite number"):
        checkpoint.unflatten({}, "NaN")
    with pytest.raises(fs.StateError, match="it must be an array or a JSON value, not SGD"):
        checkpoint.flatten(fs.SGD(np.ones(2)))


@pytest.mark.parametrize("module", ["safetensors", "xxhash"])
def test_without_a_library_an_error_names_the_extra(
    path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(path, params=np.ones(2))
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"checkpoints need {module}: pip install 'fusestep\[checkpoint\]'"
    with pytest.raises(ImportError, match=message):
        checkpoint.save(path, params=np.ones(2))
    with pytest.raises(ImportError, match=message):
        checkpoint.load(path, params=np.ones(2))
    assert checkpoint.unflatten(*checkpoint.flatten({"a": 1})) == {"a": 1}


def test_importing_fusestep_imports_nothing_that_only_checkpoints_need() -> None:
    code = "import sys, fusestep.checkpoint; print({'safetensors', 'xxhash'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
