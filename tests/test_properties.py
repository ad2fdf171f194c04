"""Whatever the tree, dtypes, strides and overlaps: a step is right, or nothing happens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusestep as fs
from tables.models import Array, assert_same_bits
from tables.oracle import Oracle
from tables.registry import ROWS, Row

pytest.importorskip("hypothesis", reason="property tests need hypothesis")

from hypothesis import given
from hypothesis import strategies as st

keys = st.text("abc/*[", max_size=2) | st.integers(0, 3)
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
dtypes = st.sampled_from([np.float32, np.float64])


@st.composite
def arrays(draw: Any) -> Array:
    shape, dtype = draw(shapes), draw(dtypes)
    generator = np.random.default_rng(draw(st.integers(0, 9)))
    return np.asarray(generator.standard_normal(shape), dtype)


trees = st.recursive(
    arrays(),
    lambda inner: (
        st.dictionaries(keys, inner, max_size=4)
        | st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=12,
)


def leaves(tree: Any) -> list[Array]:
    if isinstance(tree, dict):
        return [leaf for child in tree.values() for leaf in leaves(child)]
    if isinstance(tree, (list, tuple)):
        return [leaf for child in tree for leaf in leaves(child)]
    return [tree]


def paths(tree: Any, prefix: str = "") -> list[str]:
    if isinstance(tree, (dict, list, tuple)):
        entries = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return [path for key, child in entries for path in paths(child, f"{prefix}{key}/")]
    return [prefix[:-1]]


def replaced(tree: Any, values: list[Any]) -> Any:
    """The tree with its leaves taken from the front of `values`, dicts in reverse order."""
    if isinstance(tree, dict):
        made = {key: replaced(child, values) for key, child in tree.items()}
        return dict(reversed(made.items()))
    if isinstance(tree, (list, tuple)):
        return type(tree)([replaced(child, values) for child in tree])
    return values.pop(0)


@given(tree=trees, row=st.sampled_from(ROWS), data=st.data())
def test_any_tree_follows_the_oracle_or_is_refused(tree: Any, row: Row, data: Any) -> None:
    params = leaves(tree)
    oracle = Oracle(row.rule, row.full, params)
    names = paths(tree)
    if not names or len(set(names)) < len(names):
        with pytest.raises(ValueError, match=r"at least one array|two arrays have the path"):
            row.build(tree)
        return
    opt = row.build(tree, clip_norm=1.0)
    assert list(opt.state) == names
    for step in range(3):
        present = data.draw(st.lists(st.booleans(), min_size=len(params), max_size=len(params)))
        # None for a model that is one array asks for bound gradients
        grads = [
            np.full_like(p, 0.5 + step) if here or params[0] is tree else None
            for p, here in zip(params, present, strict=True)
        ]
        norm = oracle.step(grads, clip_norm=1.0)
        assert opt.step(replaced(tree, list(grads))).grad_norm == norm
    assert_same_bits(params, oracle.params)


@given(
    start=st.integers(0, 40),
    length=st.integers(0, 20),
    stride=st.integers(1, 3),
    writeable=st.booleans(),
    dtype=st.sampled_from(["f4", "f8", "f2", "i4", ">f4"]),
    other=st.integers(0, 40),
)
def test_any_view_is_updated_in_place_or_refused_untouched(
    start: int, length: int, stride: int, writeable: bool, dtype: str, other: int
) -> None:
    memory = np.zeros(80, dtype)
    memory += 1
    w = memory[start : start + length * stride : stride]
    second = memory[other : other + 3]
    w.flags.writeable = writeable
    before = memory.tobytes()
    good = (
        dtype in ("f4", "f8")
        and writeable
        and w.flags.c_contiguous
        and not np.shares_memory(w, second)
    )
    if not good:
        with pytest.raises((TypeError, ValueError), match=r"^params\['"):
            fs.SGD({"w": w, "second": second}, lr=0.25)
        assert memory.tobytes() == before
        return
    opt = fs.SGD({"w": w, "second": second}, lr=0.25)
    opt.step({"w": np.ones_like(w), "second": None})
    expected = np.ones(80, dtype)
    expected[start : start + length * stride : stride] = 0.75
    assert (memory == expected).all()
