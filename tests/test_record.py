"""The record of a run: rows, columns, and its state."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from emulation.interrupts import halfway


def filled(rows: int, **values: Any) -> fs.Record:
    record = fs.Record()
    for step in range(rows):
        record.add(loss=1.0 / (step + 1), **values)
    return record


def test_a_row_has_what_the_step_the_clock_and_the_statistics_tell() -> None:
    params = {"w": np.ones(3), "b": np.ones(2)}
    rate = fs.schedules.linear(start=0.5, end=0.1, length=10)
    groups = [{"match": "b", "lr": 0.25}]
    opt = fs.SGD(params, lr=rate, clip_norm=9.0, nonfinite="skip", groups=groups)
    loader = fs.Loader(np.arange(10.0), 4, order="sequential")
    statistics = fs.gradients.GradientStatistics()
    record, infos = fs.Record(), []
    for batch in loader:
        bad = math.nan if batch.clock.samples == 4 else 0.5
        grads = {"w": np.full(3, bad), "b": np.zeros(2)}
        infos.append(opt.step(grads, clock=batch.clock))
        if batch.clock.samples == 8:
            statistics.add([2.0, 6.0], sizes=[8, 8], squared_norm_of_mean=3.0)
        record.add(infos[-1], loss=bad, clock=batch.clock, statistics=statistics, groups=opt.groups)
    expected = {
        "step": [0, 1, 2],
        "samples": [0, 4, 8],
        "epoch": [0.0, 0.4, 0.8],
        "loss": [0.5, math.nan, 0.5],
        "lr": [rate(0), rate(1), rate(1)],
        "batch_size": [4, 4, 2],
        "grad_norm": [info.grad_norm for info in infos],
        "applied": [1, 0, 1],
        "noise_scale": [math.nan, math.nan, 8.0],
        "lr/1": [0.25] * 3,
    }
    assert list(record) == list(record.keys()) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(record[name], values, err_msg=name)
        assert record[name].dtype == (np.int64 if name == "step" else np.float64)
    assert len(record) == 3
    assert record["grad_norm"][0] == pytest.approx(0.5 * 3**0.5)
    assert {name: column.tolist() for name, column in dict(record).items()}["batch_size"] == [
        4,
        4,
        2,
    ]


def test_a_name_that_begins_late_is_nan_before_and_one_that_ends_is_nan_after() -> None:
    record = filled(300)
    record.add(loss=2.0, accuracy=0.5)
    record.add(accuracy=np.float32(0.25), **{"loss/validation": np.array([3.0])})
    record.add(accuracy=None)
    assert np.isnan(record["accuracy"][:300]).all()
    assert record["accuracy"][300:302].tolist() == [0.5, 0.25]
    assert np.isnan(record["accuracy"][302])
    assert record["loss/validation"][301] == 3.0
    assert np.isnan(record["loss"][301:]).all()
    assert "accuracy" in record
    assert "precision" not in record
    with pytest.raises(KeyError, match="no column 'precision'; there are step, loss, accuracy"):
        record["precision"]


@pytest.mark.parametrize("rows", [0, 1, 255, 256, 257, 512, 513, 1500])
def test_rows_stay_as_they_were_while_memory_grows(rows: int) -> None:
    record = fs.Record()
    for row in range(rows):
        record.add(loss=float(row), **({"odd": row} if row % 2 else {}))
    assert len(record) == rows
    assert record["step"].tolist() == list(range(rows))
    if rows:
        assert record["loss"].tolist() == list(range(rows))
    if rows > 1:
        np.testing.assert_array_equal(
            record["odd"], [row if row % 2 else math.nan for row in range(rows)]
        )


def test_memory_is_allocated_anew_at_every_doubling_alone() -> None:
    record, addresses = fs.Record(), set()
    for _ in range(5000):
        record.add(loss=1.0)
        addresses.add(record._columns["loss"].ctypes.data)
    assert len(addresses) <= 6


def test_a_step_may_be_said_and_more_may_be_added_to_its_row() -> None:
    record = fs.Record()
    record.add(loss=1.0, step=10)
    record.add(loss=2.0)
    record.add(step=11, accuracy=0.5)
    record.add(step=11, loss=3.0)
    record.add(loss=4.0, clock=fs.Clock(step=40.0))
    assert record["step"].tolist() == [10, 11, 40]
    assert record["loss"].tolist() == [1.0, 3.0, 4.0]
    np.testing.assert_array_equal(record["accuracy"], [math.nan, 0.5, math.nan])


def test_values_given_by_name_stand_for_what_others_tell() -> None:
    record = fs.Record()
    info = fs.SGD(np.ones(2), lr=0.5).step(np.ones(2))
    record.add(info, grad_norm=3.0, batch_size=7)
    record.add(lr=0.1)
    assert record["grad_norm"][0] == 3.0
    assert record["lr"].tolist() == [0.5, 0.1]
    assert record["batch_size"][0] == 7


def test_columns_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        filled(3)["loss"][0] = 5.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": "low"}, "loss must be a number, not 'low'"),
        ({"loss": np.ones(2)}, "loss must be a number"),
        ({"accuracy": 1j}, "accuracy must be a number"),
        ({"info": 0.5}, "info must be what opt.step returned, not 0.5"),
        ({"info": (1.0, 2.0)}, "info must be what opt.step returned"),
        ({"step": 1}, "step must be at least 2, that of the last row, not 1"),
        ({"step": 2.5}, "step must be a whole number"),
        ({"step": -1}, "step must be at least 0"),
        ({"step": 2**53}, "step must be"),
        ({"clock": fs.Clock(step=3.5)}, "step must be a whole number"),
        ({"clock": 3}, "clock must be a fusestep.Clock, not 3"),
        ({"statistics": 3}, "statistics must be GradientStatistics, not 3"),
        ({"groups": 3}, "groups must be opt.groups, not 3"),
        ({"groups": [1, 2]}, "groups must be opt.groups"),
        ({"wait": 1}, "wait must be True or False"),
        ({"late": "x", "loss": 3.0}, "late must be a number"),
    ],
)
def test_what_cannot_be_recorded_is_named_and_nothing_is(given: Any, message: str) -> None:
    record = filled(3, lr=0.5)
    before = record.state_dict()
    with pytest.raises((TypeError, ValueError), match=message):
        record.add(**given)
    assert_same(record.state_dict(), before)


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    assert list(one["columns"]) == list(other["columns"])
    for name, column in one["columns"].items():
        assert column.dtype == other["columns"][name].dtype
        assert column.tobytes() == other["columns"][name].tobytes()


@pytest.mark.parametrize("rows", [0, 1, 256, 300])
def test_a_record_goes_on_from_its_state(rows: int) -> None:
    record = filled(rows, **{"lr": 0.5, "loss/validation": math.inf})
    state = record.state_dict()
    resumed = filled(7, other=1.0)
    resumed.load_state_dict(copy.deepcopy(state))
    for one in (record, resumed):
        one.add(loss=math.nan, late=3.0)
        one.add(loss=4.0, step=1000)
    assert_same(resumed.state_dict(), record.state_dict())
    assert state["columns"]["step"].tolist() == list(range(rows))


def test_a_record_does_not_share_the_memory_of_a_state() -> None:
    saved, resumed = filled(3), fs.Record()
    state = saved.state_dict()
    resumed.load_state_dict(state)
    for record in (saved, resumed):
        record.add(step=2, loss=9.0)
        assert state["columns"]["loss"][2] == 1 / 3


def columns(**changes: Any) -> dict[str, Any]:
    return {"format": 1, "columns": {**filled(3, lr=0.5).state_dict()["columns"], **changes}}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "must be a dict"),
        ({}, "format: saved None, present 1"),
        ({"format": 2, "columns": {}}, "format: saved 2, present 1"),
        ({"format": 1}, "columns: not saved"),
        ({"format": 1, "columns": []}, "columns: must be a dict of columns, step among them"),
        ({"format": 1, "columns": {}}, "columns: must be a dict of columns, step among them"),
        ({**columns(), "more": 1}, "more: unknown"),
        (columns(step=3), "columns: must be a dict of columns, step among them"),
        (columns(step=np.zeros((3, 1), np.int64)), "columns: must be a dict of columns"),
        (columns(step=np.arange(3.0)), r"columns\.step dtype: saved float64, present int64"),
        (columns(step=np.array([0, 2, 1])), r"columns\.step: must be whole numbers that rise"),
        (columns(step=np.array([0, 1, 1])), r"columns\.step: must be whole numbers that rise"),
        (columns(step=np.array([-1, 0, 1])), r"columns\.step: must be whole numbers that rise"),
        (columns(step=np.array([0, 1, 2**60])), r"columns\.step: must be whole numbers that rise"),
        (columns(lr=np.ones(2)), r"columns\.lr shape: saved \(2,\), present \(3,\)"),
        (columns(lr=np.ones(3, np.float32)), r"columns\.lr dtype: saved float32"),
        (columns(lr=[1.0, 2.0, 3.0]), r"columns\.lr: must be an array of NumPy"),
        (columns(lr=np.array([None] * 3)), r"columns\.lr dtype: saved object"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_whole(state: Any, message: str) -> None:
    record = filled(4, accuracy=0.5)
    before = record.state_dict()
    with pytest.raises(fs.StateError, match=message):
        record.load_state_dict(state)
    assert_same(record.state_dict(), before)


def test_an_interrupt_at_any_line_leaves_the_record_before_or_after() -> None:
    def look(record: fs.Record) -> Any:
        return record.state_dict()

    for rows, given in ((5, {}), (5, {"late": 1.0}), (256, {}), (5, {"step": 4, "late": 2.0})):
        tried, found = halfway(
            lambda rows=rows: filled(rows),  # type: ignore[misc]
            lambda record, given=given: record.add(loss=3.0, **given),  # type: ignore[misc]
            look,
        )
        assert not found
        assert tried > 5
    tried, found = halfway(lambda: filled(5), lambda r: r.load_state_dict(columns()), look)
    assert not found


def test_what_an_interrupted_row_held_is_not_in_the_next_one() -> None:
    record = filled(3, accuracy=0.5)
    record._columns["accuracy"][3] = 7.0  # as an interrupt may leave it
    record.add(loss=1.0)
    assert np.isnan(record["accuracy"][3])


def test_what_is_on_a_gpu_is_waited_for_or_fetched_later(cupy: Any) -> None:
    def run(wait: bool) -> tuple[fs.Record, fs.Record]:
        params = cupy.asarray(np.ones(5))
        opt = fs.SGD(params, lr=fs.schedules.linear(1.0, 0.1, length=50), clip_norm=1.0)
        record, expected, loss = fs.Record(), fs.Record(), cupy.asarray(np.ones(()))
        for step in range(40):
            loss.fill(1.0 / (step + 1))  # the same memory in every step
            info = opt.step(cupy.asarray(np.full(5, step + 1.0)))
            record.add(info, loss=loss, wait=wait)
            assert len(record._waiting) <= 2 * 17
            expected.add(lr=info.lr, grad_norm=info.grad_norm, applied=1.0, loss=1.0 / (step + 1))
        return record, expected

    for wait in (True, False):
        record, expected = run(wait)
        assert bool(record._waiting) is not wait
        copied = fs.Record()
        copied.load_state_dict(record.state_dict())
        assert not record._waiting
        for name in expected:
            assert copied[name].tobytes() == expected[name].tobytes(), name


def test_rows_that_need_not_wait_synchronize_once_in_sixteen(emulated: Any) -> None:
    import cupy

    opt = fs.SGD(cupy.asarray(np.ones(5)), lr=0.1, clip_norm=1.0, nonfinite="skip")
    grads, loss, record = cupy.asarray(np.ones(5)), cupy.asarray(np.ones(())), fs.Record()
    found = []
    for _ in range(60):
        info, before = opt.step(grads), emulated.synchronizations
        record.add(info, loss=loss, wait=False)
        found.append(emulated.synchronizations > before)
    assert np.flatnonzero(found).tolist() == [16, 33, 50]


def test_what_is_given_by_name_stands_for_what_a_gpu_tells_later(cupy: Any) -> None:
    opt = fs.SGD(cupy.asarray(np.ones(5)), lr=0.1, clip_norm=1.0)
    record = fs.Record()
    info = opt.step(cupy.asarray(np.ones(5)))
    record.add(info, grad_norm=3.0, loss=cupy.asarray(np.full((), 2.0)), wait=False)
    record.add(step=0, loss=4.0)
    assert (record["grad_norm"][0], record["loss"][0], record["lr"][0]) == (3.0, 4.0, 0.1)


def test_what_a_gpu_has_forgotten_is_named_and_the_rest_can_be_read(cupy: Any) -> None:
    opt = fs.SGD(cupy.asarray(np.ones(5)), lr=0.1, clip_norm=1.0)
    grads, record = cupy.asarray(np.ones(5)), fs.Record()
    record.add(opt.step(grads), loss=0.5, wait=False)
    for _ in range(256):
        opt.step(grads)
    with pytest.raises(fs.StateError, match="what that step told is gone"):
        record["grad_norm"]
    assert record["loss"].tolist() == [0.5]


def test_a_loss_of_several_elements_is_refused_on_a_gpu_too(cupy: Any) -> None:
    record = fs.Record()
    for wait in (True, False):
        with pytest.raises(TypeError, match="loss must be a number"):
            record.add(loss=cupy.asarray(np.ones(2)), wait=wait)
    assert len(record) == 0
