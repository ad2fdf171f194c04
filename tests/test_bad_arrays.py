"""Bad arrays get an exact message, and no array has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from tables.models import Array


def view(array: Array, dtype: str) -> Array:
    """An array that starts one byte behind an aligned address."""
    memory = np.zeros(array.nbytes + 8, np.uint8)
    start = -memory.ctypes.data % 8 + 1
    return memory[start : start + array.nbytes].view(dtype)


def read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


BUFFER = np.ones(8)
KEEP = ": pass numpy.array(...), and keep that array, which the steps change"

BAD_PARAMETERS: list[tuple[str, Any, type[Exception], str]] = [
    (
        "list of floats",
        [1.0, 2.0],
        TypeError,
        f"params['0']: must be a numpy.ndarray, not float{KEEP}",
    ),
    (
        "none",
        {"w": None},
        TypeError,
        "params['w']: must be a numpy.ndarray, not NoneType: leave out what has no array",
    ),
    ("empty dict", {}, ValueError, "params: must hold at least one array"),
    ("nothing inside", {"a": [], "b": ()}, ValueError, "params: must hold at least one array"),
    (
        "numpy scalar",
        np.float32(1),
        TypeError,
        f"params: must be a numpy.ndarray, not numpy.float32{KEEP}",
    ),
    (
        "masked array",
        {"w": np.ma.masked_array(np.ones(2), [0, 1])},
        TypeError,
        f"params['w']: must be a numpy.ndarray, not {np.ma.MaskedArray.__module__}.MaskedArray: "
        "pass array.filled(...), which has no mask",
    ),
    (
        "integers",
        {"w": np.ones(3, np.int64)},
        TypeError,
        "params['w']: dtype must be float32 or float64 in native byte order, not int64",
    ),
    (
        "half precision",
        {"w": np.ones(3, np.float16)},
        TypeError,
        "params['w']: dtype must be float32 or float64 in native byte order, not float16",
    ),
    (
        "byte order",
        {"w": np.ones(3, np.dtype(np.float64).newbyteorder())},
        TypeError,
        "params['w']: dtype must be float32 or float64 in native byte order, not "
        f"{np.dtype(np.float64).newbyteorder()}",
    ),
    (
        "transposed",
        {"a": {"w": np.ones((2, 3)).T}},
        ValueError,
        "params['a/w']: must be C-contiguous, it has shape (3, 2) and strides (8, 24): "
        "pass numpy.ascontiguousarray(...)",
    ),
    (
        "strided",
        np.ones(6)[::2],
        ValueError,
        "params: must be C-contiguous, it has shape (3,) and strides (16,): "
        "pass numpy.ascontiguousarray(...)",
    ),
    (
        "unaligned",
        {"w": view(np.ones(3), "f8")},
        ValueError,
        "params['w']: must be aligned to its element size: pass a copy of it",
    ),
    (
        "read-only",
        {"w": read_only(np.ones(3))},
        ValueError,
        "params['w']: is read-only, but a step updates it in place: pass a writeable array",
    ),
    (
        "twice the same",
        {"a": BUFFER, "b": BUFFER},
        ValueError,
        "params['b']: shares memory with params['a']; every array must have its own, "
        "and appear once",
    ),
    (
        "overlapping",
        [BUFFER[:5], np.ones(2), BUFFER[4:]],
        ValueError,
        "params['2']: shares memory with params['0']; every array must have its own, "
        "and appear once",
    ),
    (
        "equal paths",
        {"a": {"b": np.ones(1)}, "a/b": np.ones(1)},
        ValueError,
        "params: two arrays have the path 'a/b'; rename one of the keys",
    ),
]


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [b[1:] for b in BAD_PARAMETERS],
    ids=[b[0] for b in BAD_PARAMETERS],
)
def test_a_parameter_that_cannot_be_updated_in_place_is_refused(
    params: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        fs.AdamW(params)
    assert str(caught.value) == message


def model() -> dict[str, Any]:
    return {"d": {"w": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32)}}


def good() -> dict[str, Any]:
    return {"d": {"w": np.full((2, 3), 0.5, np.float32), "b": np.full(3, 0.5, np.float32)}}


def with_leaf(name: str, leaf: Any) -> Callable[[Any], Any]:
    def change(_: Any) -> Any:
        grads = good()
        grads["d"][name] = leaf
        return grads

    return change


BAD_GRADIENTS: list[tuple[str, Callable[[Any], Any], type[Exception], str]] = [
    (
        "shape",
        with_leaf("w", np.ones((3, 2), np.float32)),
        ValueError,
        "params['d/w']: gradient has shape (3, 2), the parameter has (2, 3)",
    ),
    (
        "number of dimensions",
        with_leaf("b", np.ones((3, 1), np.float32)),
        ValueError,
        "params['d/b']: gradient has shape (3, 1), the parameter has (3,)",
    ),
    (
        "dtype",
        with_leaf("b", np.ones(3)),
        TypeError,
        "params['d/b']: gradient has dtype float64, the parameter has float32",
    ),
    (
        "not an array",
        with_leaf("b", [1.0, 2.0, 3.0]),
        TypeError,
        "params['d/b']: gradient must be a numpy.ndarray, not list: pass numpy.asarray(...)",
    ),
    (
        "transposed",
        with_leaf("w", np.ones((3, 2), np.float32).T),
        ValueError,
        "params['d/w']: gradient must be C-contiguous, it has shape (2, 3) and strides (4, 8): "
        "pass numpy.ascontiguousarray(...)",
    ),
    (
        "unaligned",
        with_leaf("b", view(np.ones(3, np.float32), "f4")),
        ValueError,
        "params['d/b']: gradient must be aligned to its element size: pass a copy of it",
    ),
    (
        "the parameter itself",
        lambda opt: {"d": opt["params"]["d"]},
        ValueError,
        "params['d/w']: gradient shares memory with params['d/w'], which the step writes: "
        "pass an array of its own",
    ),
    (
        "a state array",
        lambda opt: {"d": {"w": None, "b": opt["state"]["d/b"]["v"]}},
        ValueError,
        "params['d/b']: gradient shares memory with params['d/b'] state 'v', which the step "
        "writes: pass an array of its own",
    ),
    (
        "missing key",
        lambda _: {"d": {"w": None}},
        ValueError,
        "grads['d']: must have the keys of params; missing ['b'], unexpected []",
    ),
    (
        "other key",
        lambda _: {"e": good()["d"]},
        ValueError,
        "grads: must have the keys of params; missing ['d'], unexpected ['e']",
    ),
    (
        "other nesting",
        lambda _: {"d": [None, None]},
        TypeError,
        "grads['d']: must be a dict as in params, not list",
    ),
    (
        "none for a whole part",
        lambda _: {"d": None},
        TypeError,
        "grads['d']: must be a dict as in params, not NoneType",
    ),
]


@pytest.mark.parametrize("how", ["step", "bind"])
@pytest.mark.parametrize(
    ("grads", "error", "message"), [b[1:] for b in BAD_GRADIENTS], ids=[b[0] for b in BAD_GRADIENTS]
)
def test_a_bad_gradient_is_refused_before_anything_is_written(
    grads: Callable[[Any], Any], error: type[Exception], message: str, how: str
) -> None:
    params = model()
    opt = fs.AdamW(params)
    opt.step(good())
    before = repr((params, opt.state_dict()))
    bad = grads({"params": params, "state": opt.state})
    with pytest.raises(error) as caught:
        getattr(opt, how)(bad)
    assert str(caught.value) == message
    assert repr((params, opt.state_dict())) == before
    opt.step(good())


def test_a_list_of_gradients_must_be_as_long_as_the_parameters() -> None:
    opt = fs.SGD([np.ones(2), np.ones(3)])
    with pytest.raises(ValueError, match=r"^grads: must have 2 entries as in params, not 1$"):
        opt.step([np.ones(2)])
    with pytest.raises(
        TypeError, match=r"^grads: must be a list or tuple as in params, not ndarray"
    ):
        opt.step(np.ones(2))


@pytest.mark.parametrize("how", ["step", "bind", "accumulate"])
@pytest.mark.parametrize("begin", [0, 1, 3, 4, 7])
def test_a_gradient_that_overlaps_a_parameter_anywhere_is_refused_each_time(
    begin: int, how: str
) -> None:
    memory = np.ones(12)
    params = [memory[4:8], np.ones(4)]
    opt = fs.SGD(params, lr=1.0)
    call = {"step": opt.step, "bind": opt.bind, "accumulate": lambda g: opt.accumulate(g, 1)}[how]
    for _ in range(3):
        if begin in (0,):
            call([memory[begin : begin + 4], None])  # beside it
            opt.bind(None) if how == "bind" else opt.discard_accumulated()
            continue
        before = memory.copy()
        with pytest.raises(ValueError, match=r"gradient shares memory with params\['0'\]"):
            call([memory[begin : begin + 4], None])
        assert np.array_equal(memory, before)


def test_gradients_may_lie_beside_parameters() -> None:
    memory = np.ones(12)
    opt = fs.SGD([memory[4:8]], lr=1.0)
    for begin in (0, 8, 0, 8):
        opt.step([memory[begin : begin + 4]])
    assert np.array_equal(memory, [1, 1, 1, 1, -3, -3, -3, -3, 1, 1, 1, 1])


def test_a_gradient_of_one_parameter_that_is_another_is_refused_each_time() -> None:
    params = [np.ones(3), np.ones(3)]
    opt = fs.SGD(params, lr=1.0)
    for _ in range(3):
        for grads in ([params[1], None], [None, params[0]]):
            with pytest.raises(ValueError, match="shares memory"):
                opt.step(grads)
    opt.step([None, np.ones(3)])
    assert params[0].tolist() == [1.0] * 3


class Emptying(np.ndarray[Any, Any]):
    """An array that empties the caller's list while its class is looked at."""

    grads: list[Any]

    @property
    def __class__(self) -> Any:
        self.grads.clear()
        return float


class Emptier:
    """Likewise where a whole number is read."""

    def __init__(self, grads: list[Any]) -> None:
        self.grads = grads

    def __index__(self) -> int:
        self.grads.clear()
        return 3


@pytest.mark.parametrize("how", ["step", "bind", "accumulate"])
@pytest.mark.parametrize("size", [3, 40_000])
def test_a_list_that_is_emptied_while_it_is_looked_at_is_used_as_it_was(
    size: int, how: str
) -> None:
    params = [np.ones(size) for _ in range(4)]
    opt = fs.SGD(params, lr=1.0)
    grads: list[Any] = [np.full(size, 2.0) for _ in range(3)]
    grads.append(np.full(size, 2.0).view(Emptying))
    grads[3].grads = grads
    call = {"step": opt.step, "bind": opt.bind, "accumulate": lambda g: opt.accumulate(g, 1)}[how]
    call(grads)
    assert grads == []
    if how != "step":
        opt.step()
    assert all((array == -1.0).all() for array in params)


def test_a_clock_that_empties_the_list_of_gradients_does_so_before_they_are_taken() -> None:
    params = [np.ones(3), np.ones(3)]
    opt = fs.SGD(params, lr=fs.schedules.linear(1.0, 0.0, length=10))
    grads: list[Any] = [np.ones(3), np.ones(3)]
    with pytest.raises(ValueError, match="expected 2 gradients, not 0"):
        opt.step(grads, clock=fs.Clock(step=Emptier(grads)))  # type: ignore[arg-type]
    assert params[0].tolist() == [1.0] * 3
