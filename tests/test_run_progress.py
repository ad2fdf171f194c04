"""The bar of a run."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from tables.training import Training

pytest.importorskip("safetensors", reason="needs safetensors")
pytest.importorskip("xxhash", reason="needs xxhash")
tqdm = pytest.importorskip("tqdm.auto")
if os.environ.get("TQDM_DISABLE"):
    pytest.skip("bars are switched off", allow_module_level=True)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in re.split(r"[\r\n]+", capsys.readouterr().err) if line.strip()]


def test_it_goes_by_samples_where_a_loader_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = fs.batch_sizes.ramp(2, 5, 1, over_samples=9)
    Training(tmp_path, size=size, progress=True).train(8)
    first = lines(capsys)
    assert first[0].startswith("  0%|")
    assert "0.00/69.0 [00:00<?, ?sample/s]" in first[0]
    *_, last, _ = first
    assert re.search(r"28\.0/69\.0 .*, loss 0\.\d+, lr 0\.09\d+, batch 5, .* steps/s\]", last)
    Training(tmp_path, size=size, progress=True).train()
    said, begin, *_, end = lines(capsys)
    assert said == f"{tmp_path}: goes on from step 8"
    assert begin.startswith(" 41%|")
    assert "28.0/69.0" in begin
    assert end.startswith("100%|")
    assert "69.0/69.0" in end


def test_it_goes_by_steps_where_a_total_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Training(tmp_path, progress=True).train(total=4)
    assert "4/4 [" in lines(capsys)[-1]
    Training(tmp_path, progress=True, epochs=None).train(total=9)
    _, begin, *_, end = lines(capsys)
    assert "4/9 [" in begin
    assert "9/9 [" in end
    w = np.ones(2)
    run = fs.Run(tmp_path / "other", params=w, progress=True)
    assert list(run.steps(3)) == [0, 1, 2]
    assert "3/3 [" in lines(capsys)[-1]


def test_it_is_drawn_twice_a_second(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(np.arange(0.0, 100.0, 0.2).tolist())
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))
    updates: list[Any] = []

    class Bar(tqdm.tqdm):  # type: ignore[misc,name-defined]
        def update(self, n: float = 1) -> None:
            updates.append(n)

    monkeypatch.setattr("fusestep.run.progress.bar_class", lambda: Bar)
    Training(tmp_path, progress=True, every=100).train()
    assert 4 <= len(updates) <= 8  # 18 steps of 0.2 seconds


@pytest.mark.parametrize("leave", [None, OSError("no power")])
def test_it_is_closed_however_the_loop_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leave: Any
) -> None:
    closed: list[int] = []

    class Bar(tqdm.tqdm):  # type: ignore[misc,name-defined]
        def close(self) -> None:
            closed.append(1)
            super().close()

    monkeypatch.setattr("fusestep.run.progress.bar_class", lambda: Bar)
    training = Training(tmp_path, progress=True)

    def train() -> None:
        for batch in training.run.steps():
            training.step(batch)
            if leave is not None:
                raise leave

    if leave is None:
        train()
    else:
        with pytest.raises(OSError, match="no power"):
            train()
    assert closed


def test_without_tqdm_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="progress=True needs tqdm: pip install tqdm"):
        fs.Run(tmp_path / "run", params=np.ones(2), progress=True)
    assert not (tmp_path / "run").exists()
