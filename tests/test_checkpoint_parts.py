"""Loads of some parts, of several objects, into nestings; all of it or nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import checkpoint

pytest.importorskip("safetensors")
pytest.importorskip("xxhash")


def params(*names: str, value: float = 0.0) -> dict[str, Any]:
    return {name: np.full(3, value + ord(name[0])) for name in names}


def trained(tree: Any, cls: Any = fs.AdamW, **settings: Any) -> Any:
    opt = cls(tree, **settings)
    opt.step({name: np.cos(array) for name, array in tree.items()})
    return opt


def bits(*values: Any) -> Any:
    states = [v.state_dict() if hasattr(v, "state_dict") else v for v in values]
    arrays, text = checkpoint.flatten(states)
    return [array.tobytes() for array in arrays.values()], text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.safetensors"


def test_a_part_that_was_not_asked_for_is_told(path: Path) -> None:
    tree = params("a")
    opt = trained(tree)
    loader = fs.Loader(np.arange(9), 2)
    checkpoint.save(path, params=tree, optimizer=opt, loader=loader, extra=3)
    here = params("a", value=1.0)
    loaded = checkpoint.load(path, params=here)
    assert loaded == (None, 3, (), ("loader", "optimizer"), ())
    assert bits(here) == bits(tree)
    assert checkpoint.load(path, loader=loader).unused == ("params", "optimizer")
    assert checkpoint.load(path).unused == ("params", "loader", "optimizer")


@pytest.mark.parametrize("part", ["params", "optimizer", "loader", "extra"])
def test_a_part_that_the_file_lacks_is_an_error_or_stays(path: Path, part: str) -> None:
    tree = params("a")
    given = {
        "params": tree,
        "optimizer": trained(tree),
        "loader": fs.Loader(np.arange(9), 2),
        "extra": {"a": np.ones(2)},
    }
    checkpoint.save(path, **{name: value for name, value in given.items() if name != part})
    before = bits(*given.values())
    with pytest.raises(fs.StateError, match=f"{part}: not saved; leave it out, or strict=False"):
        checkpoint.load(path, **given)
    assert bits(*given.values()) == before
    assert checkpoint.load(path, **given, strict=False).new == (part,)


def test_every_difference_is_named_at_once_and_nothing_has_changed(path: Path) -> None:
    there = {**params("a", "b"), "c": np.ones(2, np.float32), "gone": np.ones(1)}
    opt = trained({"a": there["a"]})
    checkpoint.save(path, params=there, optimizer=opt, extra={"x": np.ones(2), "y": [1, 2]})
    locked = params("b")["b"]
    locked.flags.writeable = False
    here = {"a": np.zeros(3), "b": locked, "c": np.zeros(3), "new": np.zeros(1)}
    other = trained({"a": here["a"], "new": here["new"]})
    extra = {"x": np.zeros(3), "y": [np.zeros(1)], "z": 1}
    before = bits(here, other, extra)
    with pytest.raises(fs.StateError) as raised:
        checkpoint.load(path, params=here, optimizer=other, extra=extra)
    assert str(raised.value).splitlines() == [
        f"the state does not fit what '{path}' is loaded into:",
        "  params['b']: is read-only",
        "  params['c'] shape: saved (2,), present (3,)",
        "  params['c'] dtype: saved float32, present float64",
        "  params['new']: not saved",
        "  params['gone']: saved, and not here",
        "  extra/x shape: saved (2,), present (3,)",
        "  extra/y: saved a list of 2, present list of 1",
        "  extra/z: not saved; leave it out, or strict=False",
    ]
    assert bits(here, other, extra) == before


def test_what_both_have_is_taken_and_the_rest_is_told(path: Path) -> None:
    old = params("body", "norm", "tail")
    checkpoint.save(path, params=old, optimizer=trained(old, lr=0.25))
    tree = {**params("head"), "body": np.zeros(3), "layer": np.zeros(3)}
    fresh = tree["head"].copy()
    opt = fs.AdamW(tree, lr=0.5)
    loaded = checkpoint.load(
        path, params=tree, optimizer=opt, strict=False, rename={"norm": "layer"}, keep=("lr",)
    )
    assert loaded == (
        None,
        None,
        ("params/head", "optimizer/head"),
        ("params/tail", "optimizer/tail"),
        (("params/norm", "params/layer"), ("optimizer/norm", "optimizer/layer")),
    )
    assert (tree["head"] == fresh).all()
    assert (tree["body"] == old["body"]).all()
    assert (tree["layer"] == old["norm"]).all()
    assert opt.lr == 0.5
    assert opt.state["layer"]["m"].any()
    assert not opt.state["head"]["m"].any()


@pytest.mark.parametrize(
    ("rename", "errors"),
    [
        ({"x": "a"}, ["rename: 'x' is not saved", "rename: 2 saved parameters would be 'a'"]),
        ({"a": "y"}, ["rename: 'y' is not present", "params['a']: not saved"]),
        ({"a": "b"}, ["rename: 2 saved parameters would be 'b'", "params['a']: not saved"]),
    ],
)
def test_names_must_fit(path: Path, rename: dict[str, str], errors: list[str]) -> None:
    tree = params("a", "b")
    checkpoint.save(path, params={**tree, **({"x": np.ones(3)} if "x" not in rename else {})})
    with pytest.raises(fs.StateError) as raised:
        checkpoint.load(path, params=tree, rename=rename)
    for error in errors[: 1 if "x" in rename else 2]:
        assert error in str(raised.value)


def test_each_optimizer_is_told_of_its_own_names(path: Path) -> None:
    a, b = params("a"), params("b")
    checkpoint.save(path, optimizer={"first": trained(a), "second": trained(b)})
    here = {"first": fs.AdamW({"x": np.zeros(3)}), "second": fs.AdamW({"y": np.zeros(3)})}
    loaded = checkpoint.load(path, optimizer=here, rename={"a": "x", "b": "y"})
    assert loaded.renamed == (
        ("optimizer/first/a", "optimizer/first/x"),
        ("optimizer/second/b", "optimizer/second/y"),
    )
    with pytest.raises(fs.StateError, match="rename: 'c' is not saved"):
        checkpoint.load(path, optimizer=here, rename={"a": "x", "b": "y", "c": "x"})


def test_several_optimizers_and_loaders_go_into_one_file(path: Path) -> None:
    a, b = params("a"), params("b")
    given = {"first": trained(a), "second": trained(b, fs.Lion)}
    loaders = {"train": fs.Loader(np.arange(9), 2, seed=5), "test": fs.Loader(np.arange(4), 1)}
    next(iter(loaders["train"]))
    checkpoint.save(path, params=[a, b], optimizer=given, loader=loaders)
    tree = [params("a", value=1.0), params("b", value=1.0)]
    here = {"first": fs.AdamW(tree[0]), "second": fs.Lion(tree[1], lr=1.0)}
    others = {"train": fs.Loader(np.arange(9), 2), "test": fs.Loader(np.arange(4), 1)}
    checkpoint.load(path, params=tree, optimizer=here, loader=others)
    saved = bits([a, b], *given.values(), *loaders.values())
    assert bits(tree, *here.values(), *others.values()) == saved
    alone = fs.AdamW(params("a"))
    loaded = checkpoint.load(path, optimizer={"first": alone}, loader={"test": others["test"]})
    assert loaded.unused == ("params", "loader/train", "optimizer/second")
    assert bits(alone) == bits(given["first"])
    with pytest.raises(fs.StateError, match="optimizer/third: not saved"):
        checkpoint.load(path, optimizer={"third": alone})
    with pytest.raises(fs.StateError, match="optimizer: saved a dict, present AdamW"):
        checkpoint.load(path, optimizer=alone)


def test_extra_is_filled_in_place_and_the_rest_of_it_comes_back(path: Path) -> None:
    random = np.random.default_rng(3)
    plateau = fs.control.Plateau(0.5, patience=3)
    plateau.load_state_dict({**plateau.state_dict(), "best": 0.25})
    extra = {
        "best": 0.1,
        "random": random.bit_generator.state,
        "curves": [np.arange(3), {"deep": np.ones((2, 2), np.int8)}],
        "plateau": plateau,
        "tuple": (1, None, True, "text", np.float32(0.5), np.int8(3), np.True_),
    }
    checkpoint.save(path, extra=extra)
    curve, again = np.zeros(3, np.int64), fs.control.Plateau(0.5, patience=3)
    here = {"best": None, "curves": [curve, {"deep": None}], "plateau": again}
    loaded = checkpoint.load(path, extra=here)
    assert loaded.extra["best"] == 0.1
    assert loaded.extra["curves"][0] is curve
    assert (curve == np.arange(3)).all()
    assert (loaded.extra["curves"][1]["deep"] == extra["curves"][1]["deep"]).all()
    assert loaded.extra["plateau"] is again
    assert again.state_dict() == plateau.state_dict()
    assert loaded.extra["tuple"] == [1, None, True, "text", 0.5, 3, True]
    other = np.random.default_rng()
    other.bit_generator.state = loaded.extra["random"]
    assert other.random() == random.random()
    assert here["best"] is None
    without = checkpoint.load(path).extra
    assert without["plateau"] == plateau.state_dict()
    assert (without["curves"][0] == curve).all()
    with pytest.raises(fs.StateError, match="extra/best: saved a value, present ndarray"):
        checkpoint.load(path, extra={"best": np.zeros(2)})
    with pytest.raises(fs.StateError, match="extra/plateau: saved the state of an object"):
        checkpoint.load(path, extra={"plateau": {"best": 0}})


class Refusing:
    """Refuses what it is asked to load."""

    def __init__(self, error: type[BaseException] | None = None) -> None:
        self.error = error

    def state_dict(self) -> dict[str, Any]:
        return {"a": 1}

    def load_state_dict(self, state: Any) -> None:
        if self.error is not None:
            raise self.error("it refuses")


@pytest.mark.parametrize("error", [fs.StateError, ValueError, KeyError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["loader", "extra", "optimizer"])
def test_objects_that_have_loaded_get_their_own_state_back_when_another_one_refuses(
    path: Path, place: str, error: type[BaseException]
) -> None:
    def given(value: float, refusing: Any) -> dict[str, Any]:
        tree = params("a", "b", value=value)
        loaders = {"z": fs.Loader(np.arange(9), 2, seed=int(value))}
        optimizers = {"z": trained(tree, lr=1.0 + value)}
        extra = {"z": fs.control.Plateau(0.5, patience=3), "array": np.full(2, value)}
        parts = {"loader": loaders, "optimizer": optimizers, "extra": extra}
        parts[place] = {"y": parts[place]["z"], "m": refusing, **parts[place]}
        return {"params": tree, **parts}

    def flat(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: flat(entry) for name, entry in value.items()}
        return value.state_dict() if hasattr(value, "state_dict") else value

    checkpoint.save(path, **given(2.0, Refusing()))
    here = given(5.0, Refusing(error))
    before = bits(flat(here))
    reported = fs.StateError if issubclass(error, (fs.StateError, ValueError)) else error
    with pytest.raises(reported, match="it refuses"):
        checkpoint.load(path, **here)
    assert bits(flat(here)) == before
    here[place]["m"].error = None
    checkpoint.load(path, **here)
    assert bits(flat(here)) == bits(flat(given(2.0, Refusing())))


def test_refusals_of_all_objects_are_told_together(path: Path) -> None:
    tree = params("a")
    loader = fs.Loader(np.arange(9), 2)
    checkpoint.save(path, optimizer={"a": trained(tree), "b": trained(tree)}, loader=loader)
    here = {"a": fs.SGD(tree, lr=1.0), "b": fs.AdamW(params("b"))}
    with pytest.raises(fs.StateError) as raised:
        checkpoint.load(path, optimizer=here, loader=fs.Loader(np.arange(8), 2))
    message = str(raised.value)
    for part in ("loader: the state", "n_samples", "optimizer/a: the", "rule", "optimizer/b: the"):
        assert part in message


EDITS: list[Callable[[Any], Any]] = [
    lambda opt: fs.Adam(params("a")),
    lambda opt: fs.AdamW({"a": np.zeros(4)}),
    lambda opt: fs.AdamW({"a": np.zeros(3, np.float32)}),
    lambda opt: fs.AdamW(params("a"), amsgrad=True),
]


@pytest.mark.parametrize("build", EDITS)
def test_an_optimizer_that_differs_leaves_parameters_as_they_are(
    path: Path, build: Callable[[Any], Any]
) -> None:
    tree = params("a")
    checkpoint.save(path, params=tree, optimizer=trained(tree))
    here = params("a", value=5.0)
    before = bits(here)
    with pytest.raises(fs.StateError, match=r"optimizer: the state does not fit this optimizer"):
        checkpoint.load(path, params=here, optimizer=build(None))
    assert bits(here) == before
