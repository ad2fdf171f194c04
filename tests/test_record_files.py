"""What is made of a record: files of other tools, and pictures."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusestep as fs


def filled(rows: int, **values: Any) -> fs.Record:
    record = fs.Record()
    for step in range(rows):
        record.add(loss=1.0 / (step + 1), **values)
    return record


def with_everything() -> fs.Record:
    record = fs.Record()
    record.add(clock=fs.Clock(samples=0, epoch=0.0, batch_size=32), loss=0.1, applied=1.0)
    record.add(clock=fs.Clock(samples=32, epoch=1 / 3, batch_size=64), loss=math.nan, applied=0.0)
    record.add(loss=math.inf, **{'a "name", with all': -1e-300})
    return record


def test_csv_is_read_back_to_the_bit(tmp_path: Path) -> None:
    record, path = with_everything(), tmp_path / "run.csv"
    record.to_csv(path)
    with path.open(newline="") as file:
        names, *rows = csv.reader(file)
    assert names == list(record)
    assert rows[1] == ["1", "32", repr(1 / 3), "", "64", "0", ""]
    for name, cells in zip(names, zip(*rows, strict=True), strict=True):
        values = [float(cell) if cell else math.nan for cell in cells]
        np.testing.assert_array_equal(values, record[name], err_msg=name)
    assert b"\r" not in path.read_bytes()


def test_csv_is_read_by_other_libraries(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    record = with_everything()
    record.to_csv(tmp_path / "run.csv")
    record.to_jsonl(tmp_path / "run.jsonl")
    table, here = pandas.read_csv(tmp_path / "run.csv"), pandas.DataFrame(dict(record))
    assert list(table) == list(here)
    for name in record:  # pandas may read another last bit
        np.testing.assert_allclose(table[name], here[name], rtol=1e-15, err_msg=name)
    lines = pandas.read_json(tmp_path / "run.jsonl", lines=True, precise_float=True)
    assert lines["batch_size"].tolist()[:2] == [32, 64]
    read = np.genfromtxt(tmp_path / "run.csv", delimiter=",", skip_header=1)
    np.testing.assert_array_equal(read[:, 3], record["loss"])


def test_json_lines_hold_null_for_what_json_has_not(tmp_path: Path) -> None:
    with_everything().to_jsonl(tmp_path / "run.jsonl")

    def refuse(text: str) -> None:
        pytest.fail(text)

    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [row["loss"] for row in rows] == [0.1, None, None]
    assert rows[1]["epoch"] == 1 / 3
    assert lines[0].startswith('{"step": 0, "samples": 0, "epoch": 0.0, "loss": 0.1, "batch_size"')
    assert rows[2]['a "name", with all'] == -1e-300


def test_an_empty_record_gives_empty_files(tmp_path: Path) -> None:
    fs.Record().to_csv(str(tmp_path / "run.csv"))
    fs.Record().to_jsonl(str(tmp_path / "run.jsonl"))
    assert (tmp_path / "run.csv").read_text() == "step\n"
    assert (tmp_path / "run.jsonl").read_bytes() == b""


class Writer:
    def __init__(self) -> None:
        self.seen: list[tuple[str, float, int]] = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        assert type(value) is float
        assert type(step) is int
        self.seen.append((name, value, step))


def test_a_writer_of_tensorboard_gets_every_number_once() -> None:
    record, writer = with_everything(), Writer()
    sent = record.to_tensorboard(writer)
    assert ("loss", math.inf, 2) in writer.seen
    assert [entry for entry in writer.seen if entry[0] == "batch_size"] == [
        ("batch_size", 32.0, 0),
        ("batch_size", 64.0, 1),
    ]
    first, writer.seen = writer.seen, []
    record.add(loss=5.0, step=7)
    assert record.to_tensorboard(writer, begin=sent) == 4
    assert writer.seen == [("loss", 5.0, 7)]
    whole = Writer()
    record.to_tensorboard(whole)
    assert sorted(whole.seen) == sorted([*first, *writer.seen])


def test_tensorboard_reads_what_was_handed_on(tmp_path: Path) -> None:
    board = pytest.importorskip("tensorboardX")
    with board.SummaryWriter(str(tmp_path)) as writer:
        filled(3, lr=0.5).to_tensorboard(writer)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 100


@pytest.fixture
def pyplot() -> Any:
    found = pytest.importorskip("matplotlib.pyplot")
    found.switch_backend("agg")
    yield found
    found.close("all")


def test_a_picture_has_a_panel_for_each_column_with_values(pyplot: Any) -> None:
    record = filled(100, **{"lr": 0.5, "lr/1": 0.25, "empty": math.nan})
    record.add(clock=fs.Clock(samples=0, epoch=0.0, batch_size=3), applied=0.0)
    record.add(accuracy=0.5)
    axes = record.plot()
    assert list(axes) == ["loss", "lr", "batch_size", "accuracy"]
    assert [axes[name].get_title() for name in axes] == [
        *("loss", "learning rate", "batch size", "accuracy")
    ]
    raw, smooth, skipped = axes["loss"].lines
    assert raw.get_ydata().tolist() == (1.0 / np.arange(1, 101)).tolist()
    assert smooth.get_ydata()[50] == np.mean(1.0 / np.arange(50, 53))
    assert skipped.get_xdata().tolist() == [100]
    assert [line.get_label() for line in axes["lr"].lines] == ["lr", "lr/1"]
    assert axes["accuracy"].lines[0].get_marker() == "."
    assert axes["loss"].get_yscale() == "linear"
    assert axes["loss"].get_xlabel() == "step"


def test_a_smooth_line_is_the_mean_around_a_step(pyplot: Any) -> None:
    values = np.exp(-np.arange(5000.0) / 50)  # down to 1e-43, which sums of all would not hold
    record = fs.Record()
    for value in values:
        record.add(loss=value)
    _, smooth = record.plot()["loss"].lines
    assert 300 < len(smooth.get_xdata()) <= 500
    assert smooth.get_xdata()[[0, -1]].tolist() == [0, 4999]
    for step, value in zip(smooth.get_xdata(), smooth.get_ydata(), strict=True):
        assert value == values[max(0, step - 50) : step + 51].mean()


def test_short_batches_do_not_hide_the_size_of_a_long_run(pyplot: Any) -> None:
    record = fs.Record()
    for step in range(3000):
        size = 32 if step < 1500 else 64
        record.add(batch_size=size if step % 3 else 5)
    (line,) = record.plot()["batch_size"].lines
    assert set(line.get_ydata()) == {32.0, 64.0}


def test_a_scale_is_logarithmic_where_values_span_decades(pyplot: Any) -> None:
    record = fs.Record()
    for step in range(100):
        record.add(loss=10.0 ** (-step / 30), lr=10.0**-step, accuracy=step)
    axes = record.plot()
    assert axes["loss"].get_yscale() == "log"
    assert axes["lr"].get_yscale() == axes["accuracy"].get_yscale() == "linear"


def test_several_records_are_drawn_into_the_same_panels(pyplot: Any, tmp_path: Path) -> None:
    axes = filled(60, lr=0.5).plot(label="one")
    more = filled(60, lr=0.25, accuracy=0.5).plot(axes=axes, label="two", path=tmp_path / "x.png")
    assert more == axes
    assert [text.get_text() for text in axes["lr"].get_legend().get_texts()] == ["one", "two"]
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert pyplot.get_fignums()  # whoever made the picture closes it


def test_a_picture_by_epoch_goes_to_a_file(pyplot: Any, tmp_path: Path) -> None:
    record = fs.Record()
    for step in range(9):
        record.add(clock=fs.Clock(epoch=step / 3), loss=1.0)
    axes = record.plot(by="epoch", path=str(tmp_path / "run.svg"))
    assert axes["loss"].lines[0].get_xdata().tolist() == [step / 3 for step in range(9)]
    assert "<svg" in (tmp_path / "run.svg").read_text()
    assert pyplot.get_fignums() == []


def test_a_picture_of_nothing_is_refused(pyplot: Any) -> None:
    empty, diverged = fs.Record(), fs.Record()
    diverged.add(loss=math.nan, lr=math.inf)
    for record in (empty, diverged):
        with pytest.raises(ValueError, match="there is nothing to draw by step"):
            record.plot()
    with pytest.raises(ValueError, match="there is nothing to draw by epoch"):
        filled(3).plot(by="epoch")
    apart = filled(3)
    apart.add(clock=fs.Clock(epoch=0.5))
    with pytest.raises(ValueError, match="there is nothing to draw by epoch"):
        apart.plot(by="epoch")
    with pytest.raises(ValueError, match="by must be one of step, samples, epoch"):
        filled(3).plot(by="time")  # type: ignore[arg-type]


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for plot in (filled(3).plot, lambda: fs.schedules.constant(1.0).plot(3)):
        with pytest.raises(ImportError, match=r"matplotlib: pip install 'fusestep\[plot\]'"):
            plot()
