"""What may contain parameters, and gradients."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest

import fusestep as fs
from fusestep import trees
from tables.models import Array, assert_same_bits


@dataclass
class Dense:
    w: Array
    b: Array
    kind: ClassVar[str] = "dense"


@dataclass
class Model:
    first: Dense
    rest: list[Dense] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Fixed:
    w: Array


class Pair(NamedTuple):
    w: Array
    b: Array


class ReadOnly(Mapping[str, Any]):
    """A mapping that is no dict."""

    def __init__(self, **held: Any) -> None:
        self._held = held

    def __getitem__(self, key: str) -> Any:
        return self._held[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


def a(value: float = 0.0) -> Array:
    return np.full(2, value)


TREES: dict[str, tuple[Any, list[str]]] = {
    "dataclass": (lambda x: Dense(x(), x()), ["w", "b"]),
    "nested dataclasses": (
        lambda x: Model(Dense(x(), x()), [Dense(x(), x())]),
        ["first/w", "first/b", "rest/0/w", "rest/0/b"],
    ),
    "frozen dataclass with slots": (lambda x: {"layer": Fixed(x())}, ["layer/w"]),
    "named tuple": (lambda x: [Pair(x(), x())], ["0/w", "0/b"]),
    "mapping": (lambda x: ReadOnly(u=x(), v=[x()]), ["u", "v/0"]),
    "read-only view": (lambda x: MappingProxyType({"u": x()}), ["u"]),
    "ordered dict": (lambda x: OrderedDict(u=x(), v=x()), ["u", "v"]),
    "user dict": (lambda x: UserDict(u=x()), ["u"]),
    "keys that are no text": (
        lambda x: {1: x(), (2, "w"): x(), 0.5: x()},
        ["1", "(2, 'w')", "0.5"],
    ),
    "keys with slashes": (lambda x: {"a/b": x(), "a": {"c": x()}}, ["a/b", "a/c"]),
    "empty containers beside arrays": (lambda x: {"u": x(), "v": [], "w": {}}, ["u"]),
}


@pytest.mark.parametrize(("make", "paths"), TREES.values(), ids=TREES)
def test_containers_of_many_kinds_hold_parameters_and_gradients(
    make: Any, paths: list[str]
) -> None:
    params, grads = make(a), make(lambda: a(0.25))
    opt = fs.SGD(params, lr=1.0)
    assert list(opt.params) == paths
    opt.step(grads, params=params)
    for array in trees.flatten(params)[1]:
        assert (array == -0.25).all()


def test_attrs_classes_hold_parameters() -> None:
    attrs = pytest.importorskip("attrs")
    layer = attrs.make_class("Layer", ["w", "b"])
    params = layer(a(), a())
    opt = fs.SGD(params, lr=1.0)
    opt.step(layer(a(1.0), a(1.0)))
    assert list(opt.params) == ["w", "b"]
    assert (params.b == -1.0).all()


def test_gradients_of_an_object_may_come_as_a_dict_and_those_of_a_dict_as_an_object() -> None:
    as_object, as_dict = Dense(a(), a()), {"w": a(), "b": a()}
    fs.SGD(as_object, lr=1.0).step({"b": a(1.0), "w": a(2.0)})
    fs.SGD(as_dict, lr=1.0).step(Dense(a(2.0), a(1.0)))
    assert_same_bits([as_object.w, as_object.b], [as_dict["w"], as_dict["b"]])


def test_gradients_in_a_dict_that_makes_up_what_is_missing_are_refused() -> None:
    opt = fs.SGD({"u": a(), "v": a()})
    grads: Any = defaultdict(lambda: None, {"u": a(1.0), "w": a(1.0)})
    with pytest.raises(ValueError, match=r"missing \['v'\], unexpected \['w'\]"):
        opt.step(grads)
    assert list(grads) == ["u", "w"]


def cyclic() -> Any:
    tree: dict[str, Any] = {"u": a()}
    tree["v"] = [tree]
    return tree


def deep(levels: int) -> Any:
    tree: Any = a()
    for _ in range(levels):
        tree = [tree]
    return tree


class Nameless:
    pass


REFUSED: list[tuple[str, Any, type[Exception], str]] = [
    ("generator", lambda: (x for x in [a()]), TypeError, r"^params: .*generator: pass a list$"),
    ("values", lambda: {"u": a()}.values(), TypeError, r"^params: .*dict_values: pass a list$"),
    ("set", lambda: {"u": {1, 2}}, TypeError, r"^params\['u'\]: .*not set: pass a list$"),
    ("deque", lambda: deque([a()]), TypeError, r"^params: .*deque: pass a list$"),
    ("none", lambda: Dense(a(), None), TypeError, r"^params\['b'\]: .*leave out what has no array"),
    ("number", lambda: {"u": 1.0}, TypeError, r"^params\['u'\]: .*not float: pass numpy\.array"),
    ("text", lambda: {"u": a(), "v": "relu"}, TypeError, r"^params\['v'\]: .*not str$"),
    ("cycle", cyclic, ValueError, r"^params\['v/0'\]: contains itself$"),
    ("depth", lambda: deep(101), ValueError, r"nested at most 100 deep$"),
    ("nameless", lambda: {"u": {Nameless(): a()}}, TypeError, r"^params\['u'\]: keys must be text"),
    ("class", lambda: Dense, TypeError, r"^params: must be a numpy\.ndarray, not type"),
]


@pytest.mark.parametrize(
    ("make", "error", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_what_holds_no_parameters_is_refused_with_what_to_do(
    make: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fs.SGD(make())


def test_containers_that_make_up_their_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", w=a())
    opt = fs.SGD({"w": a()})
    with np.load(tmp_path / "model.npz") as saved:
        for call in (fs.SGD, opt.rebind):
            with pytest.raises(TypeError, match=r"^params\['w'\]: .* pass a dict of the arrays"):
                call(saved)


def test_trees_may_be_a_hundred_deep() -> None:
    fs.SGD(deep(100)).step(deep(100))
