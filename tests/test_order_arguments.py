"""What native orders are given: whatever does not exist or could be read wrongly is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusestep import _core

Array = np.ndarray[Any, np.dtype[Any]]
ROWS, WEIGHTS = np.arange(4, dtype=np.uint32), np.ones(4)
BEGINS = np.array([0, 1, 4], np.uint64)
VAST = 2**64 - 1
BAD: dict[str, tuple[Callable[[], Any], type[Exception]]] = {
    "n below 0": (lambda: _core.shuffled_order(-1, 0, 0), TypeError),
    "n above 32 bits": (lambda: _core.shuffled_order(2**32, 0, 0), TypeError),
    "n not whole": (lambda: _core.shuffled_order(2.5, 0, 0), TypeError),  # type: ignore[arg-type]
    "seed below 0": (lambda: _core.shuffled_order(3, -1, 0), TypeError),
    "epoch above 64 bits": (lambda: _core.window_order(3, 0, 2**64, 1), TypeError),
    "window of 0": (lambda: _core.window_order(3, 0, 0, 0), ValueError),
    "hashed, n of 0": (lambda: _core.hashed_order(0, 0, 0, 0, 0), ValueError),
    "hashed, end above n": (lambda: _core.hashed_order(5, 0, 0, 0, 6), ValueError),
    "hashed, begin above end": (lambda: _core.hashed_order(5, 0, 0, 4, 3), ValueError),
    "hashed, longer than memory": (lambda: _core.hashed_order(VAST, 0, 0, 0, VAST), ValueError),
    "hashed, far end": (lambda: _core.hashed_order(5, 0, 0, VAST - 1, VAST), ValueError),
    "numbers, n of 0": (lambda: _core.hashed_order_numbers(0, 0, 0), ValueError),
    "weights of float32": (lambda: _core.WeightedDraws(WEIGHTS.astype("f4")), TypeError),
    "weights of the other byte order": (lambda: _core.WeightedDraws(swapped(WEIGHTS)), TypeError),
    "weights with gaps": (lambda: _core.WeightedDraws(WEIGHTS[::2]), TypeError),
    "weights backwards": (lambda: _core.WeightedDraws(WEIGHTS[::-1]), TypeError),
    "weights not aligned": (lambda: _core.WeightedDraws(displaced(WEIGHTS)), TypeError),
    "weights of two axes": (lambda: _core.WeightedDraws(WEIGHTS.reshape(2, 2)), TypeError),
    "weights in a list": (lambda: _core.WeightedDraws([1.0]), TypeError),  # type: ignore[arg-type]
    "no weights": (lambda: _core.WeightedDraws(WEIGHTS[:0]), ValueError),
    "weights of 0": (lambda: _core.WeightedDraws(WEIGHTS * 0), ValueError),
    "weights below 0": (lambda: _core.weighted_order(-WEIGHTS, 1, 0, 0), ValueError),
    "weights of NaN": (lambda: _core.weighted_order(WEIGHTS * np.nan, 1, 0, 0), ValueError),
    "weights of infinity": (lambda: _core.weighted_order(WEIGHTS * np.inf, 1, 0, 0), ValueError),
    "too many by weight": (lambda: _core.weighted_order(WEIGHTS, 5, 0, 0), ValueError),
    "draws backwards": (lambda: _core.WeightedDraws(WEIGHTS).draw(0, 0, 2, 1), ValueError),
    "draws longer than memory": (
        lambda: _core.WeightedDraws(WEIGHTS).draw(0, 0, 0, VAST),
        ValueError,
    ),
    "members of int32": (
        lambda: _core.balanced_order(ROWS.astype("i4"), BEGINS, 1, 0, 0),  # type: ignore[arg-type]
        TypeError,
    ),
    "members with gaps": (lambda: _core.balanced_order(ROWS[::2], BEGINS, 1, 0, 0), TypeError),
    "begins of int64": (
        lambda: _core.balanced_order(ROWS, BEGINS.astype("i8"), 1, 0, 0),  # type: ignore[arg-type]
        TypeError,
    ),
    "begins that end early": (lambda: _core.balanced_order(ROWS, BEGINS[:2], 1, 0, 0), ValueError),
    "begins that end late": (lambda: _core.balanced_order(ROWS[:3], BEGINS, 1, 0, 0), ValueError),
    "begins above 0": (lambda: _core.balanced_order(ROWS, BEGINS[1:], 1, 0, 0), ValueError),
    "begins alone": (lambda: _core.balanced_order(ROWS, BEGINS[:1], 1, 0, 0), ValueError),
    "no begins": (lambda: _core.balanced_order(ROWS, BEGINS[:0], 1, 0, 0), ValueError),
    "a class of nothing": (
        lambda: _core.balanced_draws(ROWS, np.array([0, 2, 2, 4], np.uint64), 0, 0, 0, 1),
        ValueError,
    ),
    "begins that fall": (
        lambda: _core.balanced_draws(ROWS, np.array([0, 3, 2, 4], np.uint64), 0, 0, 0, 1),
        ValueError,
    ),
    "too many of a class": (lambda: _core.balanced_order(ROWS, BEGINS, 3, 0, 0), ValueError),
    "balanced backwards": (lambda: _core.balanced_draws(ROWS, BEGINS, 0, 0, 2, 1), ValueError),
    "balanced longer than memory": (
        lambda: _core.balanced_draws(ROWS, BEGINS, 0, 0, 0, VAST),
        ValueError,
    ),
}


def swapped(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder())


def displaced(array: Array) -> Array:
    """The same numbers from an odd address."""
    memory = np.zeros(array.nbytes + 1, np.uint8)
    moved = memory[1:].view(array.dtype)
    moved[...] = array
    assert not moved.flags.aligned
    return moved


@pytest.mark.parametrize(("bad", "error"), BAD.values(), ids=list(BAD))
def test_an_order_that_does_not_exist_is_refused(bad: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        bad()


def test_the_limits_of_an_order_are_in_it() -> None:
    assert _core.hashed_order(5, 0, 0, 5, 5).tolist() == []
    assert (
        _core.hashed_order(5, 0, 0, 4, 5).tolist() == _core.hashed_order(5, 0, 0, 0, 5)[4:].tolist()
    )
    assert _core.hashed_order(VAST, 0, 0, VAST - 1, VAST)[0] < VAST
    assert sorted(_core.weighted_order(WEIGHTS, 4, 0, 0).tolist()) == [0, 1, 2, 3]
    assert len(_core.balanced_order(ROWS, BEGINS, 2, 0, 0)) == 2
    assert _core.shuffled_order(0, 0, 0).tolist() == _core.window_order(0, 0, 0, 3).tolist() == []
