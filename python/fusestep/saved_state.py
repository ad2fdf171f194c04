"""Saved state: what it must hold, and how it is read whole before anything changes.

A state is made of JSON values, with arrays of NumPy among them. What it must hold is said by
forms: functions that take a value, its path and the list of differences found so far, and give the
value to go on with or add to the list what does not fit. A state is read like this::

    with differences("this loader") as found:       # raises one StateError that names them all
        form = fields({"seed": whole(), "begin": optional(whole())})
        values = read(state, form, found, version=2)
        if not found:                                 # how the values go together
            found += contradictions(values)
    _core.commit(...)                                 # only then anything changes

`fields` gives the entries that fit, so the parts of a large state are gone on with one by one. A
form of one's own, for what only its owner knows, is one more function, and `reported` turns what a
check raises into a difference::

    def setting(value, path, found):
        with reported(found, path):
            return check_setting(value)

    parameter = fields({"updates": whole(), "state": fields({"m": array(m.shape, m.dtype)})})
    form = fields({"lr": setting, "parameters": fields({"w": parameter})})
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from reprlib import Repr
from types import MappingProxyType
from typing import Any

import numpy as np

from ._core import StateError

LARGEST = 2**53 - 1  # the largest count: whole numbers are exact in a float up to here
_DEEPEST = 50  # nested values

Form = Callable[[Any, str, list[str]], Any]

_SHORT = Repr()
_SHORT.maxother = _SHORT.maxstring = 200
short = _SHORT.repr  # of what may be of any size, depth or class


@contextmanager
def differences(owner: str) -> Iterator[list[str]]:
    """A list of what does not fit; at the end StateError names all that is in it."""
    found: list[str] = []
    yield found
    if found:
        raise StateError("\n  ".join([f"the state does not fit {owner}:", *found]))


@contextmanager
def reported(found: list[str], path: str = "") -> Iterator[None]:
    """What a check raises inside is a difference, at a path that it may have named itself."""
    try:
        yield
    except (TypeError, ValueError, StateError) as error:
        text = str(error)
        found.append(text if text.startswith(path) else f"{path}: {text}")


def read(
    state: Any,
    form: Form,
    found: list[str],
    *,
    version: int | None = None,
    older: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = MappingProxyType({}),
) -> Any:
    """What a form gives of a state, which is read once: what is checked is what is taken.

    Args:
        state: from anywhere.
        form: of the whole; its path is "".
        found: takes what does not fit.
        version: what the entry ``format`` must be, beside the form; a state of another version is
            read no further.
        older: for versions before it, what makes such a state one of this version.
    """
    before = len(found)
    saved = in_json_types(state, "", found)
    if version is not None and isinstance(saved, dict):
        there = saved.pop("format", None)
        if type(there) is int and there in older:
            with reported(found, "format"):
                saved = older[there](saved)
        elif not _is_same(there, version):
            found.append(
                f"format: saved {short(there)}, present {version}; load it with the version of "
                "fusestep that saved it"
            )
    return form(saved, "", found) if len(found) == before else {}


def in_json_types(value: Any, path: str, found: list[str], depth: int = 0) -> Any:
    """A copy of a value that is made of nothing but JSON values and arrays of NumPy."""
    if value is None or type(value) in (bool, str, np.ndarray, np.memmap):
        return value
    if depth > _DEEPEST:
        found.append(_at(path, "is nested too deeply"))
        return None
    try:
        if isinstance(value, Mapping):
            entries = {}
            for key in value:
                if type(key) is str:
                    entries[key] = in_json_types(value[key], within(path, key), found, depth + 1)
                else:
                    found.append(f"{within(path, key)}: names must be text, not {short(key)}")
            return entries
        if isinstance(value, (list, tuple)):
            return [in_json_types(v, f"{path}[{i}]", found, depth + 1) for i, v in enumerate(value)]
        if isinstance(value, Real):  # of NumPy, too
            return int(value) if isinstance(value, Integral) else float(value)
    except MemoryError:
        raise
    except Exception as error:  # a class of somebody else's may raise anything
        found.append(_at(path, f"can't be read: {type(error).__name__}: {str(error)[:200]}"))
        return None
    found.append(_at(path, f"must be a JSON value or an array of NumPy, not {short(value)}"))
    return None


def within(path: str, key: Any) -> str:
    """The path of an entry."""
    if isinstance(key, str) and key.isidentifier():
        return f"{path}.{key}" if path else key
    return f"{path}[{short(key)}]" if path else short(key)


def fields(forms: Mapping[str, Form]) -> Form:
    """A dict with these entries and no others; those that fit are given."""

    def read_fields(value: Any, path: str, found: list[str]) -> dict[str, Any]:
        if not isinstance(value, dict):
            found.append(_at(path, f"must be a dict of {', '.join(forms)}, not {short(value)}"))
            return {}
        found += [f"{within(path, name)}: not saved" for name in forms if name not in value]
        found += [f"{within(path, name)}: unknown" for name in value if name not in forms]
        good = {}
        for name, form in forms.items():
            before = len(found)
            if name in value:
                entry = form(value[name], within(path, name), found)
                if len(found) == before:
                    good[name] = entry
        return good

    return read_fields


def dict_of(form: Form) -> Form:
    """A dict with entries of one form under any names."""

    def read_dict(value: Any, path: str, found: list[str]) -> dict[str, Any]:
        if not isinstance(value, dict):
            found.append(f"{path}: must be a dict, not {short(value)}")
            return {}
        return {name: form(entry, within(path, name), found) for name, entry in value.items()}

    return read_dict


def list_of(form: Form) -> Form:
    """A list of any length with entries of one form."""

    def read_list(value: Any, path: str, found: list[str]) -> list[Any]:
        if not isinstance(value, list):
            found.append(f"{path}: must be a list, not {short(value)}")
            return []
        return [form(entry, f"{path}[{i}]", found) for i, entry in enumerate(value)]

    return read_list


def optional(form: Form) -> Form:
    """None, or what has a form."""
    return lambda value, path, found: None if value is None else form(value, path, found)


def anything(value: Any, path: str, found: list[str]) -> Any:
    """Any JSON value or array, which is checked elsewhere."""
    return value


def same(present: Any) -> Form:
    """The value that is present, and of its type: True is not 1."""

    def compare(value: Any, path: str, found: list[str]) -> Any:
        if not _is_same(value, present):
            found.append(f"{path}: saved {short(value)}, present {short(present)}")
        return present

    return compare


def _at(path: str, text: str) -> str:
    return f"{path}: {text}" if path else f"it {text}"


def _is_same(there: Any, here: Any) -> bool:
    if type(there) is not type(here):
        return False
    if isinstance(there, dict):
        return there.keys() == here.keys() and all(_is_same(there[k], here[k]) for k in here)
    if isinstance(there, list):
        return len(there) == len(here) and all(map(_is_same, there, here))
    return bool(there == here)


def _checked(
    expected: str, is_good: Callable[[Any], bool], convert: Callable[[Any], Any] | None = None
) -> Form:
    def check(value: Any, path: str, found: list[str]) -> Any:
        if is_good(value):
            return value if convert is None else convert(value)
        found.append(f"{path}: must be {expected}, not {short(value)}")
        return None

    return check


flag = _checked("True or False", lambda v: type(v) is bool)
text = _checked("text", lambda v: type(v) is str)
above_zero = _checked(
    "a finite number above 0",
    lambda v: type(v) in (int, float) and 0 < v <= sys.float_info.max,
    float,
)


def whole(lower: int = 0, upper: int = LARGEST) -> Form:
    """A whole number in [lower, upper]."""
    top = {2**53 - 1: "2^53 - 1", 2**63 - 1: "2^63 - 1"}.get(upper, str(upper))
    return _checked(
        f"a whole number from {lower} to {top}", lambda v: type(v) is int and lower <= v <= upper
    )


def number(
    lower: float = -sys.float_info.max,
    upper: float = sys.float_info.max,
    *,
    below_upper: bool = False,
) -> Form:
    """A finite number in [lower, upper], or below upper, as a float: JSON may have 1 for 1.0."""

    def is_good(value: Any) -> bool:
        return type(value) in (int, float) and lower <= value <= upper and value != excluded

    excluded = upper if below_upper else None
    if upper < sys.float_info.max:
        expected = f"a number in [{lower:g}, {upper:g}{')' if below_upper else ']'}"
    else:
        least = "" if lower == -sys.float_info.max else f" of at least {lower:g}"
        expected = f"a finite number{least}"
    return _checked(expected, is_good, float)


def choice(choices: Iterable[str]) -> Form:
    """One of some texts."""
    known = list(choices)
    return _checked(f"one of {', '.join(known)}", lambda v: type(v) is str and v in known)


def array(shape: Sequence[int], dtype: Any, written: Sequence[Any] = ()) -> Form:
    """An array of NumPy to copy from, which shares no memory with the arrays ``written`` then."""

    def read_array(value: Any, path: str, found: list[str]) -> Any:
        if not isinstance(value, np.ndarray):
            found.append(f"{path}: must be an array of NumPy, not {short(value)}")
            return None
        for name, there, here in (
            ("shape", value.shape, tuple(shape)),
            ("dtype", value.dtype, np.dtype(dtype)),
        ):
            if there != here:
                found.append(f"{path} {name}: saved {there}, present {here}")
        if any(np.may_share_memory(value, memory) for memory in written):
            found.append(f"{path}: is memory that loading it would write; pass a copy")
        return np.require(value, requirements=("C", "A"))

    return read_array
