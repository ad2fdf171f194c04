"""What a saved state must hold: every form takes what fits and names what does not by its path."""

from __future__ import annotations

import math
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import saved_state
from fusestep.saved_state import (
    array,
    choice,
    dict_of,
    differences,
    fields,
    list_of,
    number,
    optional,
    read,
    reported,
    same,
    whole,
)

M = np.ones((2, 3), np.float32)
FORM = fields(
    {
        "count": whole(0, 9),
        "rate": number(0.0, 1.0, below_upper=True),
        "best": optional(saved_state.above_zero),
        "is_on": saved_state.flag,
        "name": saved_state.text,
        "mode": choice(("min", "max")),
        "kind": same({"a": [1]}),
        "parts": list_of(optional(whole())),
        "named": dict_of(whole()),
        "m": array(M.shape, M.dtype, [M]),
        "rest": saved_state.anything,
    }
)


def state(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {"count": 3, "rate": 0.5, "best": None, "is_on": True, "name": "x"}
    good |= {"mode": "min", "kind": {"a": [1]}, "parts": [1, None], "named": {"a b": 1}}
    return {**good, "m": M.copy(), "rest": [{"x": M}], **changes}


def found_in(saved: Any, form: saved_state.Form = FORM, version: int | None = None) -> list[str]:
    found: list[str] = []
    read(saved, form, found, version=version)
    return found


def test_what_fits_is_taken_as_it_is() -> None:
    found: list[str] = []
    values = read(state(), FORM, found)
    assert not found
    np.testing.assert_array_equal(values.pop("m"), M)
    expected = state()
    assert values.pop("rest")[0]["x"] is M
    assert values == {name: value for name, value in expected.items() if name in values}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"count": -1}, "count: must be a whole number from 0 to 9, not -1"),
        ({"count": 10}, "count: must be a whole number from 0 to 9, not 10"),
        ({"count": 1.0}, "count: must be a whole number from 0 to 9, not 1.0"),
        ({"count": True}, "count: must be a whole number from 0 to 9, not True"),
        ({"rate": 1.0}, "rate: must be a number in [0, 1), not 1.0"),
        ({"rate": -0.5}, "rate: must be a number in [0, 1), not -0.5"),
        ({"rate": math.nan}, "rate: must be a number in [0, 1), not nan"),
        ({"rate": None}, "rate: must be a number in [0, 1), not None"),
        ({"rate": False}, "rate: must be a number in [0, 1), not False"),
        ({"rate": M}, "rate: must be a number in [0, 1), not array(["),
        ({"best": 0.0}, "best: must be a finite number above 0, not 0.0"),
        ({"best": math.inf}, "best: must be a finite number above 0, not inf"),
        ({"best": 10**400}, "best: must be a finite number above 0, not 1000"),
        ({"is_on": 1}, "is_on: must be True or False, not 1"),
        ({"name": b"x"}, "name: must be a JSON value or an array of NumPy, not b'x'"),
        ({"name": 1}, "name: must be text, not 1"),
        ({"mode": "mean"}, "mode: must be one of min, max, not 'mean'"),
        ({"mode": ["min"]}, "mode: must be one of min, max, not ['min']"),
        ({"kind": {"a": [True]}}, "kind: saved {'a': [True]}, present {'a': [1]}"),
        ({"kind": {"a": [1, 2]}}, "kind: saved {'a': [1, 2]}, present {'a': [1]}"),
        ({"kind": {"b": [1]}}, "kind: saved {'b': [1]}, present {'a': [1]}"),
        ({"kind": {"a": M}}, "kind: saved {'a': array("),
        ({"parts": 1}, "parts: must be a list, not 1"),
        ({"parts": [1, -1]}, "parts[1]: must be a whole number from 0 to 2^53 - 1, not -1"),
        ({"named": []}, "named: must be a dict, not []"),
        ({"named": {"a b": "x"}}, "named['a b']: must be a whole number"),
        ({"named": {3: 1}}, "named[3]: names must be text, not 3"),
        ({"m": [1.0]}, "m: must be an array of NumPy, not [1.0]"),
        ({"m": np.ones((3, 2), np.float32)}, "m shape: saved (3, 2), present (2, 3)"),
        ({"m": np.ones((2, 3))}, "m dtype: saved float64, present float32"),
        ({"m": M}, "m: is memory that loading it would write; pass a copy"),
        ({"m": np.ma.masked_array(M)}, "m: must be a JSON value or an array of NumPy"),
        ({"m": np.float32(1.0)}, "m: must be an array of NumPy, not 1.0"),
        ({"rest": {"x": [object]}}, "rest.x[0]: must be a JSON value or an array of NumPy"),
        ({"more": 1}, "more: unknown"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named_by_its_path(changes: dict[str, Any], expected: str) -> None:
    found = found_in(state(**changes))
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_every_difference_is_named_at_once() -> None:
    bad = state(count=-1, parts=["x", 1, "y"], more=1)
    del bad["name"]
    paths = [text.partition(":")[0] for text in found_in(bad)]
    assert paths == ["name", "more", "count", "parts[0]", "parts[2]"]
    assert found_in({**state(), "name": "x" * 10_000, "count": "y" * 10_000}) != []
    assert max(map(len, found_in({"count": "y" * 10_000}))) < 400


def test_entries_that_fit_are_given_beside_those_that_do_not() -> None:
    found: list[str] = []
    values = read({"a": 1, "b": -1}, fields({"a": whole(), "b": whole()}), found)
    assert (values, len(found)) == ({"a": 1}, 1)


def test_numbers_of_numpy_and_mappings_of_other_classes_are_taken() -> None:
    numbers = {"count": np.int8(3), "rate": np.float32(0.5), "best": 2}
    found: list[str] = []
    values = read(MappingProxyType(OrderedDict(state(**numbers))), FORM, found)
    assert not found
    assert [type(values[name]) for name in numbers] == [int, float, float]
    assert values["rate"] == 0.5


class Gone(dict[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise OSError("the disk is gone")


def test_what_can_not_be_read_is_a_difference() -> None:
    assert found_in(Gone(state())) == ["it can't be read: OSError: the disk is gone"]
    lost = found_in(state(named=Gone(a=1)))
    assert lost == ["named: can't be read: OSError: the disk is gone"]
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    (text,) = found_in(state(rest=deep))
    assert text.endswith("[0]: is nested too deeply")
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    assert found_in(state(rest=cyclic))[0].endswith("[0]: is nested too deeply")


@pytest.mark.parametrize("version", [1, 3, 2.0, "2", None, True])
def test_a_state_of_another_version_is_read_no_further(version: Any) -> None:
    (text,) = found_in({"format": version, "x": 1}, fields({}), version=2)
    assert text.startswith(f"format: saved {version!r}, present 2; load it with the version")
    assert found_in({"format": 2, "count": 0}, fields({"count": whole()}), version=2) == []
    assert found_in({}, fields({}), version=2)[0].startswith("format: saved None, present 2")


def test_one_error_names_them_all_and_none_is_raised_where_all_fits() -> None:
    with differences("this loader"):
        pass
    found: list[str] = []

    def collected() -> None:
        with differences("X") as found:
            found.append("a: bad")
            with reported(found, "b"):
                raise ValueError("b must be good")

    with pytest.raises(fs.StateError, match=r"^the state does not fit X:\n  a: bad\n  b must be"):
        collected()
    with reported(found, "control.lr"):
        raise TypeError("count must be 3")
    assert found == ["control.lr: count must be 3"]
    with pytest.raises(OSError, match="disk"), reported(found):
        raise OSError("disk")
