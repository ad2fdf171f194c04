"""Updated parameters are written out to other arrays in the same pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusestep as fs
from tables.models import DTYPES, SIZES, arrays, assert_same_bits
from tables.registry import ROWS, Row

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@every_row
@every_dtype
def test_copies_are_the_parameters_rounded_to_their_type(row: Row, dtype: type) -> None:
    params, expected = arrays(SIZES, dtype, 0), arrays(SIZES, dtype, 0)
    types = [DTYPES[i % 2] for i in range(len(SIZES))]
    copies = {str(i): np.full(p.size, 7, types[i]) for i, p in enumerate(params) if i % 3}
    opt, plain = row.build(params, copies=copies), row.build(expected)
    for step in range(1, 4):
        grads: list[Any] = arrays(SIZES, dtype, step)
        grads[-1] = grads[-3] = None
        opt.step(grads)
        plain.step(grads)
    assert_same_bits(params, expected)
    last = {str(len(SIZES) - k) for k in (1, 3)}
    for path, copy in copies.items():
        written = np.full_like(copy, 7) if path in last else params[int(path)].astype(copy.dtype)
        assert_same_bits([copy], [written])
    assert {path: id(copy) for path, copy in opt.copies.items()} == {
        path: id(copy) for path, copy in copies.items()
    }


def test_what_float32_does_not_hold_is_rounded_as_numpy_does() -> None:
    special = [0.0, -0.0, 1e-46, 1e-42, 3.4028235677973366e38, 1e39, -np.inf, np.nan, 1 + 2**-25]
    w, copied = np.array(special), np.zeros(len(special), np.float32)
    fs.SGD(w, lr=0.0, copies={"": copied}).step(np.zeros(len(special)))
    with np.errstate(over="ignore"):
        assert_same_bits([copied], [w.astype(np.float32)])


def test_nothing_is_written_before_the_first_update_nor_to_what_a_step_leaves_out() -> None:
    params = {"a": np.ones(2, np.float32), "b": {"c": np.ones(2, np.float32)}}
    copies = {"a": np.zeros(2), "b/c": np.zeros(2)}
    opt = fs.SGD(params, lr=1.0, copies=copies)
    opt.step({"a": None, "b": {"c": np.full(2, -1.0, np.float32)}})
    assert (copies["a"][0], copies["b/c"][0]) == (0.0, 2.0)


def test_copies_go_on_after_rebind_and_add_group() -> None:
    params: dict[str, Any] = {"a": np.zeros(2, np.float32)}
    copied = np.zeros(2)
    opt = fs.SGD(params, lr=1.0, copies={"a": copied})
    params["a"] = params["a"] + np.float32(5)
    opt.rebind(params)
    opt.step({"a": np.ones(2, np.float32)})
    assert copied.tolist() == [4.0, 4.0]
    opt.add_group({"b": np.zeros(1)})
    opt.step({"a": np.ones(2, np.float32), "b": np.zeros(1)})
    assert copied.tolist() == [3.0, 3.0]
    with pytest.raises(ValueError, match=r"copies\['a'\]: shares memory with params\['a'\]"):
        opt.rebind({"a": copied.view(np.float32)[:2], "b": np.zeros(1)})


def test_copies_are_not_saved() -> None:
    copied = np.zeros(2)
    state = fs.SGD(np.zeros(2), copies={"": copied}).state_dict()
    fs.SGD(np.zeros(2)).load_state_dict(state)


W = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("copies", "error", "message"),
    [
        ([W], TypeError, "copies must be a dict of arrays by path, not list"),
        ({"x": W}, ValueError, r"copies: no parameter 'x'; known are w, v"),
        ({"vv": W}, ValueError, r"copies: no parameter 'vv'; did you mean 'v'\?"),
        ({"w": [1.0]}, TypeError, r"copies\['w'\]: must be a numpy.ndarray, not list"),
        ({"w": np.zeros(6)}, ValueError, r"copies\['w'\]: has shape \(6,\), params\['w'\] has"),
        ({"w": np.zeros((2, 3), np.int32)}, TypeError, r"copies\['w'\]: dtype must be float32 or"),
        ({"w": np.zeros((2, 3), np.float16)}, TypeError, r"copies\['w'\]: dtype must be float32"),
        ({"w": np.zeros((3, 2)).T}, ValueError, r"copies\['w'\]: must be C-contiguous"),
        ({"w": np.broadcast_to(np.zeros(3), (2, 3))}, ValueError, r"copies\['w'\]: must be C-"),
        ({"w": W}, ValueError, r"shares memory with"),
    ],
)
def test_a_bad_copy_is_named(copies: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fs.AdamW({"w": W, "v": np.zeros(2)}, copies=copies)
    assert not W.any()


def test_a_copy_must_be_writeable_and_apart_from_everything_else() -> None:
    fixed, room = np.zeros(2), np.zeros(4)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match=r"copies\[''\]: is read-only"):
        fs.SGD(np.zeros(2), copies={"": fixed})
    with pytest.raises(ValueError, match=r"shares memory with copies\['a'\]"):
        fs.SGD({"a": np.zeros(2), "b": np.zeros(2)}, copies={"a": room[:2], "b": room[1:3]})
    opt = fs.SGD(np.zeros(2), copies={"": room[:2]})
    with pytest.raises(ValueError, match=r"gradient shares memory with copies\[''\], which the"):
        opt.step(room[1:3])
    with pytest.raises(AttributeError, match="copies can't be assigned"):
        opt.copies = {}  # type: ignore[assignment]
    assert not room.any()


def test_the_memory_of_a_copy_stays_where_it_is() -> None:
    copied = np.zeros(2)
    opt = fs.SGD(np.zeros(2), lr=1.0, copies={"": copied})
    with pytest.raises(ValueError, match="cannot resize"):
        copied.resize(100_000, refcheck=False)
    opt.step(np.ones(2))
    assert copied.tolist() == [-1.0, -1.0]
