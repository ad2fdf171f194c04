"""Batches on a GPU: the samples, order and bits of batches on the host."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fusestep as fs
from emulation.cuda import Driver
from fusestep.data import device
from tables.device_data import PLACES, Array, Rows, assert_same, placed, some_data

ORDERS: list[dict[str, Any]] = [
    {"order": "shuffled"},
    {"order": "hashed"},
    {"order": "sequential"},
    {"order": "window", "window": 7},
]


@pytest.fixture
def several(emulated: Driver) -> Any:
    """CuPy with several GPUs."""
    return sys.modules["cupy"]


cases = st.fixed_dictionaries(
    {
        "n": st.integers(1, 200),
        "sizes": st.lists(st.integers(1, 250), min_size=1, max_size=4),
        "epochs": st.integers(1, 3),
        "order": st.sampled_from(ORDERS),
        "tail": st.sampled_from(["short", "carry"]),
        "seed": st.integers(0, 2**63 - 1),
        "world": st.integers(1, 3),
    }
)


def build(case: dict[str, Any], data: dict[str, Any], **more: Any) -> fs.Loader:
    sizes = case["sizes"]
    options = {name: case[name] for name in ("epochs", "tail", "seed")} | case["order"] | more
    return fs.Loader(data, lambda clock: sizes[int(clock.step) % len(sizes)], **options)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(case=cases, place=st.sampled_from(PLACES))
def test_batches_are_those_of_the_host(cupy: Any, case: dict[str, Any], place: str) -> None:
    data = some_data(case["n"])
    for rank in range(case["world"]):
        part = {"shard": (rank, case["world"])}
        loader = build(case, placed(cupy, data, place), device="cuda", **part)
        assert_same(loader, build(case, data, **part))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(case=cases, places=st.permutations([None, *PLACES]), stop=st.integers(0, 5))
def test_a_loader_goes_on_where_another_stopped_on_another_device(
    cupy: Any, case: dict[str, Any], places: list[str | None], stop: int
) -> None:
    data = some_data(case["n"])
    loaders = [
        build(case, data)
        if place is None
        else build(case, placed(cupy, data, place), device="cuda")
        for place in places
    ]
    first, *others = loaders
    taken = 0
    for _ in first:
        taken += 1
        if taken > stop:
            break
    state = json.loads(json.dumps(first.state_dict()))
    rest = [batch.indices.tolist() for batch in first] if taken > stop else []
    for other in others:
        other.load_state_dict(state)
        if rest:
            found = list(other)
            assert [batch.indices.tolist() for batch in found] == rest
            for batch in found:
                y = batch["y"]
                y = y.get() if device.is_on_device(y) else y
                assert np.array_equal(y, data["y"][batch.indices])


@pytest.mark.parametrize("order", ORDERS, ids=lambda options: options["order"])
def test_dropped_tails_and_few_threads_change_nothing(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, order: dict[str, Any]
) -> None:
    monkeypatch.setattr(device, "_BLOCKS", 2)
    data = some_data(1000)
    options = {"tail": "drop", "seed": 5, "epochs": 2, **order}
    loader = fs.Loader(placed(cupy, data, "device"), 301, **options)
    assert_same(loader, fs.Loader(data, 301, **options))


@pytest.mark.parametrize("place", PLACES)
def test_rows_of_any_dtype_shape_and_alignment_are_copied(cupy: Any, place: str) -> None:
    random, n = np.random.default_rng(0), 50
    data: dict[str, Array] = {}
    for kind in ("?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "c16"):
        for shape in ((), (1,), (3,), (16,), (2, 4), (5, 0), (2, 3, 2)):
            whole = (random.random((2 * n + 1, *shape)) * 100).astype(kind)
            data[f"{kind}{shape}"] = whole[:n]
            data[f"{kind}{shape} from an odd place"] = whole[1 : n + 1]
            data[f"{kind}{shape} of every second row"] = whole[1::2]
            data[f"{kind}{shape} backwards"] = whole[n - 1 :: -1]
            if len(shape) == 2:
                data[f"{kind}{shape} of columns"] = whole[:n, :, :3]
    assert len(data) > 200  # takes several launches
    loader = fs.Loader(views(cupy, data, place), 16, device="cuda", seed=3)
    assert_same(loader, fs.Loader(data, 16, seed=3))


def views(cupy: Any, data: dict[str, Array], place: str) -> dict[str, Any]:
    """As `placed`, with the same strides."""
    moved: dict[str, Any] = {}
    for i, (key, array) in enumerate(data.items()):
        moved[key] = array
        if place == "device" or (place == "both" and i % 2 == 0):
            whole, base = cupy.asarray(array.base), array.base
            assert base is not None
            offset = array.ctypes.data - base.ctypes.data
            at = whole.data + offset if array.size > 0 else None
            moved[key] = cupy.ndarray(array.shape, array.dtype, at, array.strides)
    return moved


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8"])
def test_numbers_become_float32_with_the_bits_of_the_host(cupy: Any, kind: str, place: str) -> None:
    random, data = np.random.default_rng(0), {}
    for elements in (1, 3, 4, 8, 13):
        numbers = np.frombuffer(random.bytes(101 * elements * int(kind[1])), kind)
        if kind[0] == "f":
            numbers = np.nan_to_num(numbers, posinf=3.0, neginf=-3.0) % 1e30
        rows = numbers.reshape(101, elements)
        data |= {f"{elements}": rows[:100].copy(), f"{elements} unaligned": rows[1:].copy()[::-1]}
    convert = dict.fromkeys(data, fs.data.to_float32(scale=1 / 255, shift=-0.5))
    loader = fs.Loader(placed(cupy, data, place), 32, device="cuda", transform=convert, seed=1)
    assert_same(loader, fs.Loader(data, 32, transform=convert, seed=1))


def test_functions_are_given_arrays_of_the_gpu(cupy: Any) -> None:
    y = np.arange(10, dtype=np.uint8)
    loader = fs.Loader((y, cupy.asarray(y)), 4, device="cuda", transform={1: lambda a: a.ravel()})
    for a, b in loader:
        assert device.is_on_device(b)
        assert np.array_equal(a.get(), b.get())


@pytest.mark.parametrize("place", PLACES)
def test_a_source_may_bring_its_own_rows(cupy: Any, place: str) -> None:
    data = some_data(500)
    sources = placed(cupy, data, place) | {"own": Rows(data["x"] * 2)}
    expected = fs.Loader(data | {"own": data["x"] * 2}, 30, tail="carry", epochs=2)
    assert_same(fs.Loader(sources, 30, tail="carry", epochs=2, device="cuda"), expected)


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_source_that_fails_consumes_nothing(cupy: Any, fails_at: int) -> None:
    rows = np.arange(100_000)[:, None] + np.zeros(100)
    loader = fs.Loader(Rows(rows, fails_at), 30_000, order="sequential", device="cuda")
    seen: list[int] = []
    while len(seen) < 100_000:
        try:
            for batch in loader:
                seen += batch.data.get()[:, 0].astype(int).tolist()
        except OSError:
            continue
    assert seen == list(range(100_000))


def test_batches_are_where_the_sources_are(several: Any) -> None:
    data = some_data(100)
    with several.cuda.Device(1):
        there = placed(several, data, "device")
    loader = fs.Loader(there, 30, tail="carry", epochs=2)
    batches = list(loader)
    assert {batch["x"].device.id for batch in batches} == {1}
    with several.cuda.Device(1):
        assert_same(batches, fs.Loader(data, 30, tail="carry", epochs=2))


X = np.arange(10)
BAD: list[tuple[Any, type[Exception], str]] = [
    (
        lambda cupy: fs.Loader({"x": cupy.asarray(X), "y": X}, 2),
        ValueError,
        r"data\['x'\] is on a GPU and data\['y'\] is not: move one of them, or say device='cuda'",
    ),
    (
        lambda cupy: fs.Loader((X.astype(object), X), 2, device="cuda"),
        TypeError,
        r"data\[0\] has dtype object, which a GPU does not have",
    ),
    (lambda cupy: fs.Loader(X.astype("U3"), 2, device="cuda"), TypeError, "data has dtype <U3"),
    (lambda cupy: fs.Loader(X.astype(">i4"), 2, device="cuda"), TypeError, "data has dtype >i4"),
    (
        lambda cupy: list(fs.Loader(Rows(X.astype("U3")), 2, device="cuda")),
        TypeError,
        "data gave dtype <U3, which a GPU does not have",
    ),
    (
        lambda cupy: fs.Loader(cupy.asarray(X)[3], 2),
        ValueError,
        "data must have samples along its first axis",
    ),
    (
        lambda cupy: fs.Loader(
            {"x": cupy.asarray(X + 1j)}, 2, transform={"x": fs.data.to_float32()}
        ),
        TypeError,
        r"data\['x'\]: to_float32 takes arrays of numbers",
    ),
    (lambda cupy: fs.Loader(X, 2, device="gpu"), ValueError, 'device must be "cuda" or None'),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_arguments_are_named(cupy: Any, bad: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bad(cupy)


def test_arrays_on_several_gpus_are_refused(several: Any) -> None:
    with several.cuda.Device(1):
        y = several.asarray(X)
    with pytest.raises(ValueError, match=r"data\[0\] is on GPU 0 and data\[1\] on GPU 1: all must"):
        fs.Loader((several.asarray(X), y), 2)


def test_without_cupy_a_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"pip install 'fusestep\[cuda\]'"):
        fs.Loader(X, 2, device="cuda")
    assert sum(map(len, (batch.data for batch in fs.Loader(X, 3)))) == 10
