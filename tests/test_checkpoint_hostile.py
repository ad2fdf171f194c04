"""Files that are no whole checkpoints: one clear error each, nothing changed, memory bounded."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import checkpoint
from fusestep.checkpoint import saving
from fusestep.checkpoint.form import DIGEST, DIGITS, PREFIX, header
from fusestep.checkpoint.reading import SavedFile

pytest.importorskip("safetensors")
xxhash = pytest.importorskip("xxhash")
hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")

Header = dict[str, Any]


class Here:
    """What a file is loaded into, and whether it changed."""

    def __init__(self) -> None:
        self.params = {"a": np.full(3, 1.0), "b": np.full((1, 2), 2, np.int8)}
        self.weight = np.full(2, 3.0, np.float32)
        self.opt = fs.SGD(self.weight, lr=0.5, momentum=0.5)
        self.extra = {"best": 0.5, "curve": np.full(2, 4.0), "again": fs.control.Plateau(0.5, 2)}

    def load(self, path: Path) -> checkpoint.Loaded:
        return checkpoint.load(path, params=self.params, optimizer=self.opt, extra=self.extra)

    def bits(self) -> Any:
        states = [self.opt.state_dict(), self.extra["again"].state_dict()]
        arrays, text = checkpoint.flatten([self.params, self.extra["curve"], states])
        return [array.tobytes() for array in arrays.values()], text


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    there = Here()
    for array in (*there.params.values(), there.weight, there.extra["curve"]):
        array += 5
    there.opt.step(np.ones(2, np.float32))
    path = tmp_path_factory.mktemp("whole") / "run.safetensors"
    checkpoint.save(path, step=3, params=there.params, optimizer=there.opt, extra=there.extra)
    return path.read_bytes()


HERE = Here()
BEFORE = HERE.bits()


def refused(path: Path, data: bytes) -> str:
    """How a file is refused; it changes nothing."""
    path.write_bytes(data)
    with pytest.raises(checkpoint.CheckpointError) as raised:
        HERE.load(path)
    assert HERE.bits() == BEFORE
    assert str(path) in str(raised.value)
    return str(raised.value)


def test_the_whole_one_loads(file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(file)
    here = Here()
    before = here.bits()
    assert here.load(path).step == 3
    assert all(a != b for a, b in zip(here.bits()[0], before[0], strict=True))


def test_a_file_that_is_cut_off_anywhere_is_refused(file: bytes, tmp_path: Path) -> None:
    for size in range(len(file)):
        refused(tmp_path / "run.safetensors", file[:size])
    refused(tmp_path / "run.safetensors", file + b"\0")


@pytest.mark.parametrize("flip", [1, 0x80])
def test_a_file_with_any_byte_changed_is_refused(file: bytes, tmp_path: Path, flip: int) -> None:
    for at in range(len(file)):
        changed = bytearray(file)
        changed[at] ^= flip
        refused(tmp_path / "run.safetensors", changed)


# files whose checksum is right


def taken_apart(file: bytes) -> tuple[Header, Any, bytes]:
    """The header, the contents in it, the data."""
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:end])
    return header, json.loads(header["__metadata__"]["fusestep"]), file[end:]


def sealed(text: bytes, data: bytes, length: int | None = None) -> bytes:
    """A file of a header and data, with the checksum of its bytes."""
    begin = (len(text) if length is None else length).to_bytes(8, "little")
    file = bytearray(begin + text + data)
    file[DIGEST] = b"0" * DIGITS
    file[DIGEST] = xxhash.xxh3_128(file).hexdigest().encode()
    return bytes(file)


def put_together(header: Header, contents: Any, data: bytes) -> bytes:
    text = contents if isinstance(contents, str) else json.dumps(contents)
    header["__metadata__"] = {"xxh3_128": "0" * DIGITS, "fusestep": text}
    # in the order that files have
    header = {"__metadata__": header.pop("__metadata__"), **header}
    return sealed(json.dumps(header, separators=(",", ":")).encode(), data)


Edit = Callable[[Header, Any], Any]


def entry(name: str, **values: Any) -> Edit:
    return lambda header, contents: header[name].update(values)


def contents(*keys: Any, value: Any) -> Edit:
    """An edit of one place in the contents."""

    def edit(header: Header, contents: Any) -> None:
        for key in keys[:-1]:
            contents = contents[key]
        contents[keys[-1]] = value

    return edit


A, B = "params/a", "params/b"
EDITS: list[tuple[str, Edit]] = [
    ("damaged", entry(B, data_offsets=[0, 2])),  # overlaps
    ("damaged", entry(B, data_offsets=[2**62, 2**62 + 2])),
    ("damaged", entry(B, data_offsets=[2**63, 2**64])),
    ("damaged", entry(B, data_offsets=[-2, 0])),
    ("damaged", entry(B, data_offsets=[4, 2])),
    ("damaged", entry(B, data_offsets=[0.0, 2.0])),
    ("damaged", entry(B, shape=[2**40, 2**40])),
    ("damaged", entry(B, shape=[-1, -2])),
    ("damaged", entry(B, shape=[3])),
    ("damaged", entry(B, dtype="I7")),
    ("damaged", entry(B, dtype=8)),
    ("there is no array", entry(B, dtype="U8")),
    ("there is no array", entry(B, shape=[2, 1])),
    ("which NumPy does not have", entry(B, dtype="F4", shape=[4])),
    ("dimension", entry(B, shape=[1] * 65 + [2])),
    ("format: saved 2, present 1", contents("format", value=2)),
    ("format: saved True, present 1", contents("format", value=True)),
    ("format: saved None", contents("format", value=None)),
    ("step", contents("step", value=-1)),
    ("step", contents("step", value="3")),
    ("step", contents("step", value=2**64)),
    ("parts", contents("parts", value=[])),
    ("unknown", contents("more", value=1)),
    ("params", contents("params", value={})),
    ("params", contents("params", 0, "path", value=3)),
    ("params", contents("params", 0, "shape", value=[2.5])),
    ("there is no array", contents("params", 0, "shape", value=[4])),
    ("there is no array", contents("params", 0, "dtype", value="F32")),
    ("there is no array", contents("params", 0, "path", value="c")),
    ("elements 0 to 6 of 5", contents("end", value=6)),
    ("there is no array", contents("end", value=4)),
    ("elements 2 to 1 of 0", lambda header, c: c.update(begin=2, end=1, params=[])),
    *[
        ("there is no array", contents("parts", "extra", "curve", value=value))
        for value in (
            {"fusestep.array": "extra/none"},
            {"fusestep.array": ["extra/curve"]},
        )
    ],
    *[
        ("names beside it", contents("parts", "extra", value={marker: "extra/curve", "": 1}))
        for marker in ("fusestep.array", "fusestep.state")
    ],
    ("nested too deeply", contents("parts", "extra", value=json.loads("[" * 60 + "]" * 60))),
]
TEXTS = {
    "a name stands twice": '{"format": 1, "format": 1}',
    "NaN is no finite number": '{"format": NaN}',
    "-Infinity is no finite number": '{"format": -Infinity}',
    "1e999 is no finite number": '{"format": 1e999}',
    "no JSON": "",
    "recursion": "[" * 100_000,
    "it must be a dict": "[]",
    "digits": "1" * 5000,
}


@pytest.mark.parametrize(("reason", "edit"), EDITS)
def test_contents_that_contradict_each_other_are_refused(
    file: bytes, tmp_path: Path, reason: str, edit: Edit
) -> None:
    header, there, data = taken_apart(file)
    edit(header, there)
    message = refused(tmp_path / "run.safetensors", put_together(header, there, data))
    assert reason in message


@pytest.mark.parametrize("reason", TEXTS)
def test_what_is_no_json_is_refused(file: bytes, tmp_path: Path, reason: str) -> None:
    header, _, data = taken_apart(file)
    message = refused(tmp_path / "run.safetensors", put_together(header, TEXTS[reason], data))
    assert reason in message


def test_names_that_stand_twice_in_the_header_are_refused(file: bytes, tmp_path: Path) -> None:
    end = 8 + int.from_bytes(file[:8], "little")
    text = file[8:end].replace(b',"params/b"', b',"params/a"')
    refused(tmp_path / "run.safetensors", sealed(text, file[end:]))
    twice = file[8:end].replace(b',"fusestep":"', b',"fusestep":"","fusestep":"')
    refused(tmp_path / "run.safetensors", sealed(twice, file[end:]))


@pytest.mark.parametrize("length", [0, 1, 10**10, 2**63, 2**64 - 1])
def test_absurd_lengths_of_the_header_are_refused(file: bytes, tmp_path: Path, length: int) -> None:
    data = length.to_bytes(8, "little") + file[8:]
    assert "cut off" in refused(tmp_path / "a", data) or length < 2


def test_other_files_of_safetensors_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "model.safetensors"
    save_file({"params/a": np.ones(300), "params/b": np.ones((1, 2), np.int8)}, path)
    assert "no checkpoint of fusestep" in refused(path, path.read_bytes())


def test_a_part_of_the_parameters_is_no_whole_checkpoint(file: bytes, tmp_path: Path) -> None:
    header, there, data = taken_apart(file)
    b = header.pop(B)
    begin, end = b["data_offsets"]
    for values in header.values():
        if "data_offsets" in values and values["data_offsets"][0] >= end:
            values["data_offsets"] = [at - (end - begin) for at in values["data_offsets"]]
    there["end"] = 3
    made = put_together(header, there, data[:begin] + data[end:])
    assert "elements 0 to 3 of 5 alone" in refused(tmp_path / "run.safetensors", made)


@pytest.mark.parametrize(
    ("begin", "end", "shapes"),
    [
        (0, 2, {"a": (2,)}),
        (2, 8, {"a": (1,), "b": (5,), "e": (0, 4)}),
        (3, 9, {"b": (2, 3), "e": (0, 4)}),
        (8, 12, {"b": (1,), "c": (3,), "e": (0, 4)}),
        (9, 13, {"c": (2, 2), "e": (0, 4)}),
        (5, 5, {}),
        (0, 13, {"a": (3,), "b": (2, 3), "c": (2, 2), "e": (0, 4)}),
    ],
)
def test_a_file_may_hold_a_range_of_the_elements_of_the_parameters(
    tmp_path: Path, begin: int, end: int, shapes: dict[str, tuple[int, ...]]
) -> None:
    whole = {"a": (3,), "b": (2, 3), "e": (0, 4), "c": (2, 2)}
    listed = [{"path": n, "dtype": "F32", "shape": list(s)} for n, s in whole.items()]
    held = {"step": 1, "params": listed, "begin": begin, "end": end, "parts": {}}
    arrays = {f"params/{n}": np.full(s, 2.0, np.float32) for n, s in shapes.items()}
    path = tmp_path / "range.safetensors"
    saving.write_file(path, header(held, arrays), arrays, lambda name: False)
    with SavedFile(path) as file:
        file.verify()
        assert {n: array.shape for n, array in file.arrays.items()} == {
            f"params/{n}": s for n, s in shapes.items()
        }
        assert (file.contents["begin"], file.contents["end"], file.elements) == (begin, end, 13)
    params = {n: np.zeros(s, np.float32) for n, s in whole.items()}
    if end - begin == 13:
        checkpoint.load(path, params=params)
        assert all((array == 2).all() for array in params.values())
    else:
        with pytest.raises(checkpoint.CheckpointError, match=f"elements {begin} to {end} of 13 al"):
            checkpoint.load(path, params=params)


def test_memory_is_bounded_by_the_size_of_the_file(file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    header, there, data = taken_apart(file)
    huge = {name: dict(values) for name, values in header.items()}
    huge[B].update(shape=[2**50], data_offsets=[0, 2**50])
    hostile = [
        put_together(huge, there, data),
        (10**10).to_bytes(8, "little") + file[8:],
        put_together(header, "[" * 500_000, data),
        file[:-1],
    ]
    for made in hostile:
        path.write_bytes(made)
        here = Here()
        tracemalloc.start()
        with pytest.raises(checkpoint.CheckpointError):
            here.load(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 8 * len(made) + 2**21


MARKERS = ["fusestep.array", "fusestep.state"]
LEAVES = [None, True, 1, 2**53, 10**400, 0.5, math.inf, "", "F32", "extra/curve", *MARKERS]
VALUES = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["", "m", "state", *MARKERS]), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, (dict, list)):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in entries:
            found += places(inner, (*path, key))
    return found


@hypothesis.given(data=st.data())
def test_whatever_stands_somewhere_a_load_is_whole_or_an_error_that_says_so(
    file: bytes, tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    header, there, arrays = taken_apart(file)
    whole = [header, there]
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(places(whole)[3:]))
        holder: Any = whole
        try:
            for key in place[:-1]:
                holder = holder[key]
            holder[place[-1]] = data.draw(VALUES)
        except (KeyError, IndexError, TypeError):
            continue
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(put_together(header, there, arrays))
    here = Here()
    before = here.bits()
    try:
        here.load(path)
    except fs.StateError as error:
        refusal = str(error)
        assert (here.bits(), str(path) in refusal) == (before, True)
    else:
        hypothesis.event("loads")
        assert here.bits() != before


@hypothesis.given(tail=st.binary(max_size=300), cut=st.integers(0, 400))
def test_any_bytes_are_refused(
    file: bytes, tmp_path_factory: pytest.TempPathFactory, tail: bytes, cut: int
) -> None:
    made = file[:cut] + tail
    path = tmp_path_factory.getbasetemp() / "bytes.safetensors"
    length = max(0, len(made) - 8)
    for text in (
        made,
        sealed(PREFIX + b"0" * DIGITS + tail, b""),
        sealed(made[8:].ljust(80), b"", length),
    ):
        path.write_bytes(text)
        with pytest.raises(checkpoint.CheckpointError):
            Here().load(path)
