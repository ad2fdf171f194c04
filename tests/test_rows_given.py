"""Rows as they are given: their forms, what is refused, and rows that are left as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusestep as fs
from tables.registry import SUMMED, Row
from tables.row_gradients import dense, made, zipf

ONES = np.ones((2, 3))
AT = np.array([4, 1])

MALFORMED: list[tuple[Any, type[Exception], str]] = [
    (([4, 1], ONES, (9, 3)), TypeError, "indices must be a numpy.ndarray of int32 or int64, not l"),
    ((AT * 1.0, ONES, (9, 3)), TypeError, "indices must be of int32 or int64 .* not float64"),
    ((AT.astype(">i8"), ONES, (9, 3)), TypeError, "indices must be of int32 or int64 in native"),
    ((AT[:, None], ONES, (9, 3)), ValueError, "indices must have one dimension, not 2"),
    ((np.arange(4)[::2], ONES, (9, 3)), ValueError, "indices must be C-contiguous"),
    ((AT, [[1.0]], (9, 3)), TypeError, "values: must be a numpy.ndarray"),
    ((AT, ONES.astype(int), (9, 3)), TypeError, "values: dtype must be float32 or float64"),
    ((AT, ONES[:1], (9, 3)), ValueError, r"values must have shape \(2, 3\), .* not \(1, 3\)"),
    ((AT, ONES, (9, 4)), ValueError, r"values must have shape \(2, 4\)"),
    ((AT, ONES, (9,)), ValueError, r"values must have shape \(2,\)"),
    ((AT, np.ones((3, 2)).T, (9, 3)), ValueError, "values: must be C-contiguous"),
    ((AT, ONES, ()), ValueError, r"shape must be that of the parameter, \(rows, ...\), not \(\)"),
    ((AT, ONES, (-9, 3)), ValueError, "shape must be that of the parameter"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), MALFORMED)
def test_other_forms_are_refused(arguments: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match="^Rows: " + message):
        fs.Rows(*arguments)


def test_rows_show_what_they_hold() -> None:
    rows = fs.Rows(AT, ONES, (9, 3))
    assert rows.indices is AT
    assert rows.values is ONES
    assert rows.shape == (9, 3)
    assert repr(rows) == "Rows(2 of shape (9, 3))"
    with pytest.raises(AttributeError):
        rows.values = ONES  # type: ignore[misc]


UNFIT: list[tuple[Any, type[Exception], str]] = [
    (fs.Rows(np.array([1, 9]), ONES, (9, 3)), IndexError, r"indices\[1\] is 9, .* has 9 rows"),
    (fs.Rows(np.array([-1, 2]), ONES, (9, 3)), IndexError, r"indices\[0\] is -1"),
    (fs.Rows(AT, ONES, (8, 3)), ValueError, r"has shape \(8, 3\), the parameter has \(9, 3\)"),
    (fs.Rows(AT, np.ones((2, 4)), (9, 4)), ValueError, r"has shape \(9, 4\)"),
    (fs.Rows(AT, np.ones((2, 3, 1)), (9, 3, 1)), ValueError, r"has shape \(9, 3, 1\)"),
    (
        fs.Rows(AT, ONES.astype(np.float32), (9, 3)),
        TypeError,
        "has values of float32, the parameter has float64",
    ),
]


@pytest.mark.parametrize(("rows", "kind", "message"), UNFIT)
@pytest.mark.parametrize("steps", [True, False])
def test_rows_that_do_not_fit_are_refused_by_name(
    rows: Any, kind: Any, message: str, steps: bool
) -> None:
    params = {"a": np.ones(2), "t": np.ones((9, 3))}
    opt = fs.AdamW(params)
    opt.step({"a": np.ones(2), "t": fs.Rows(AT, ONES, (9, 3))})
    before = {name: array.copy() for name, array in params.items()}
    call: Any = opt.step if steps else lambda grads: opt.accumulate(grads, 1)
    with pytest.raises(kind, match=r"params\['t'\]: gradient.*" + message):
        call({"a": np.ones(2), "t": rows})
    assert opt.steps_attempted == 1
    assert opt.accumulated == 0.0
    assert all(np.array_equal(before[name], params[name]) for name in params)


def test_values_in_the_memory_of_the_parameter_are_refused() -> None:
    table = np.ones((9, 3))
    opt = fs.SGD({"t": table})
    with pytest.raises(ValueError, match=r"gradient shares memory with params\['t'\], which"):
        opt.step({"t": fs.Rows(AT, table[:2], table.shape)})


def test_where_rows_are_not_taken_the_error_says_so() -> None:
    table = np.ones((9, 3))
    rows = fs.Rows(AT, ONES, (9, 3))
    with pytest.raises(TypeError, match=r"params: gradient is a Rows, which can't be bound"):
        fs.SGD(table).bind(rows)
    with pytest.raises(ValueError, match="Rows, which agc does not clip"):
        fs.SGD(table, agc=0.1, agc_axis=0).step(rows)
    with pytest.raises(TypeError, match="Rows, which a step in parts does not take"):
        fs.SGD(table)._plan.begin_parts([rows], 1.0, None)


def test_accumulated_rows_wait_for_a_whole_step() -> None:
    table = np.ones((9, 3))
    opt = fs.SGD(table, lr=1.0)
    opt.accumulate(fs.Rows(AT, ONES, (9, 3)), 2)
    with pytest.raises(fs.StateError, match="begin_parts: Rows are accumulated"):
        opt._plan.begin_parts(None, 1.0, None)
    assert opt.step().applied
    assert table[:, 0].tolist() == [1, 0, 1, 1, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("row", SUMMED, ids=lambda row: row.id)
def test_rules_that_add_up_over_arrays_refuse_rows(row: Row) -> None:
    params = {"a": np.ones((9, 3)), "t": np.ones((9, 3))}
    opt = row.build(params)
    for first in (None, ONES):
        first = None if first is None else np.ones((9, 3))
        with pytest.raises(
            ValueError, match=r"params\['t'\]: .* a Rows, but this update takes norms or"
        ):
            opt.step({"a": first, "t": fs.Rows(AT, ONES, (9, 3))})
    assert np.array_equal(params["t"], np.ones((9, 3)))
    assert opt.step({"a": None, "t": np.ones((9, 3))}).applied
    assert opt.state_dict()["parameters"]["t"]["updates"] == 1
    assert opt.state_dict()["parameters"]["a"]["updates"] == 0


def test_parameters_of_cupy_refuse_rows(emulated: Any) -> None:
    import cupy

    opt = fs.SGD(cupy.zeros((9, 3)))
    with pytest.raises(TypeError, match="is a Rows: parameters of CuPy take"):
        opt.step(fs.Rows(AT, ONES, (9, 3)))
    opt.flush()
    opt.fetch("", AT)
    with pytest.raises(IndexError, match="has 9 rows"):
        opt.fetch("", np.array([9]))


def test_fetch_refuses_what_is_no_row() -> None:
    opt = fs.AdamW({"t": np.ones((9, 3)), "s": np.ones(())})
    with pytest.raises(ValueError, match="fetch: no parameter 'u'"):
        opt.fetch("u", AT)
    with pytest.raises(ValueError, match=r"fetch: params\['s'\] has no dimensions"):
        opt.fetch("s", AT)
    with pytest.raises(TypeError, match="fetch: rows must be a numpy"):
        opt.fetch("t", [1])
    with pytest.raises(IndexError, match=r"fetch: rows\[1\] is 9, params\['t'\] has 9 rows"):
        opt.fetch("t", np.array([0, 9]))


def test_the_settings_are_checked_and_fixed() -> None:
    table = np.ones((9, 3))
    for history, kind in ((0, ValueError), (1.5, TypeError), (2**40, ValueError)):
        with pytest.raises(kind, match="history must be"):
            fs.SGD(table, history=history)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lazy must be one of exact, skip, not 'fast'"):
        fs.SGD(table, lazy="fast")  # type: ignore[arg-type]
    opt: Any = fs.SGD({"t": table, "u": ONES.copy()}, groups=[{"match": "u", "lazy": "skip"}])
    assert (opt.history, opt.groups[0].lazy, opt.groups[1].lazy) == (65536, "exact", "skip")
    with pytest.raises(fs.StateError, match="lazy is fixed"):
        opt.lazy = "skip"


# rows that are left as they are


def test_skipped_rows_and_their_state_stay_as_they_are() -> None:
    rng, shape = np.random.default_rng(0), (50, 4)
    table = rng.standard_normal(shape)
    opt = fs.AdamW(table, lr=0.1, lazy="skip")
    alone = [fs.AdamW(table[[row]].copy(), lr=0.1) for row in range(50)]
    for step in range(40):
        rows = made(zipf(rng, 50, 5), shape, np.float64, rng)
        opt.step(rows)
        gradient = dense(rows)
        for row, one in enumerate(alone):
            # bias is corrected by the steps of the whole, as in torch's
            state = one.state_dict()
            state["parameters"][""]["updates"] = state["applied"] = state["attempted"] = step
            one.load_state_dict(state)
            if row in rows.indices:
                one.step(gradient[[row]])
    opt.flush()
    expected = [one.params[""] for one in alone]
    assert table.tobytes() == np.concatenate(expected).tobytes()


def test_skip_is_sparse_adam_of_torch() -> None:
    torch = pytest.importorskip("torch")
    rng, shape = np.random.default_rng(1), (200, 8)
    table = rng.standard_normal(shape)
    theirs = torch.nn.Parameter(torch.tensor(table))
    other = torch.optim.SparseAdam([theirs], lr=0.01, betas=(0.8, 0.99), eps=1e-8)
    opt = fs.Adam(table, lr=0.01, betas=(0.8, 0.99), eps=1e-8, eps_mode="hat", lazy="skip")
    for step in range(300):
        indices = zipf(rng, 200, 0 if step == 50 else 20)
        values = rng.standard_normal((len(indices), 8))
        theirs.grad = torch.sparse_coo_tensor(
            indices[None], torch.tensor(values), shape, check_invariants=False
        )
        other.step()
        opt.step(fs.Rows(indices, values, shape))
    np.testing.assert_allclose(table, theirs.detach().numpy(), rtol=0, atol=1e-12)


# matrices of SciPy


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil"])
@pytest.mark.parametrize("kind", ["matrix", "array"])
def test_sparse_matrices_of_scipy_are_taken(form: str, kind: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    rng, shape = np.random.default_rng(2), (30, 6)
    row, column = rng.integers(0, 30, 40), rng.integers(0, 6, 40)
    entries = rng.standard_normal(40)
    if form == "coo":  # entries that come twice are added up
        matrix = getattr(sparse, f"coo_{kind}")((entries, (row, column)), shape)
    else:
        gradient = np.zeros(shape)
        gradient[row, column] = entries
        matrix = getattr(sparse, f"{form}_{kind}")(gradient)
    gradient = np.zeros(shape)
    stored = matrix.tocoo()
    np.add.at(gradient, (stored.row, stored.col), stored.data)
    table, other = np.ones(shape), np.ones(shape)
    opt, dense_one = fs.AdamW(table, lr=0.1), fs.AdamW(other, lr=0.1)
    for _ in range(3):
        opt.step(matrix)
        dense_one.step(gradient)
    opt.flush()
    assert table.tobytes() == other.tobytes()
