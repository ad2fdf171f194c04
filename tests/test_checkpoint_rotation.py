"""The checkpoints of a run in a folder: when, how many, and which is gone on from."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusestep import checkpoint
from fusestep.checkpoint import Checkpoints, rotation
from runs.children import killed_at_the_end

pytest.importorskip("safetensors")
pytest.importorskip("xxhash")


def params(value: float) -> dict[str, Any]:
    return {"w": np.full(1000, value)}


def name(step: int) -> str:
    return f"step-{step:09}.safetensors"


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name[5:14]) for path in folder.iterdir())


def damage(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("background", [False, True])
def test_the_newest_are_kept(tmp_path: Path, background: bool) -> None:
    saves = Checkpoints(tmp_path / "a" / "b", keep=2)
    for step in (1, 5, 30, 1_000_000_000):
        path = saves.save(step=step, params=params(step), background=background)
    checkpoint.wait()
    assert path == tmp_path / "a" / "b" / "step-1000000000.safetensors"
    assert sorted(entry.name for entry in saves.folder.iterdir()) == [name(30), path.name]
    here = params(0)
    loaded = saves.load(params=here)
    assert loaded is not None
    assert loaded.step == 1_000_000_000
    assert (here["w"] == loaded.step).all()


def test_all_are_kept_on_request_and_other_files_always(tmp_path: Path) -> None:
    others = ["step-1.safetensors", "notes.txt", f"{name(1)}.txt", ".hidden"]
    for other in others:
        (tmp_path / other).write_text("other")
    for keep in (None, 1):
        saves = Checkpoints(tmp_path, keep=keep)
        for step in range(3, 8):
            saves.save(step=step, params=params(step))
        kept = [path.name for path in tmp_path.iterdir() if path.name not in others]
        assert len(kept) == (1 if keep else 5)
    assert checkpoint.latest(tmp_path) == tmp_path / name(7)
    assert set(others) < {entry.name for entry in tmp_path.iterdir()}


def test_one_that_could_not_be_saved_deletes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = Checkpoints(tmp_path, keep=1)
    saves.save(step=1, params=params(1))

    def refuse(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match=rf"the checkpoint was not saved.*{name(2)}"):
            saves.save(step=2, params=params(2))
    assert steps(tmp_path) == [1]


def test_later_steps_and_the_one_just_saved_are_never_deleted(tmp_path: Path) -> None:
    saves = Checkpoints(tmp_path, keep=1)
    for step in (30, 10):
        saves.save(step=step, params=params(step))
    assert steps(tmp_path) == [10, 30]
    saves.save(step=20, params=params(20))
    assert steps(tmp_path) == [20, 30]
    saves.save(step=30, params=params(31))
    assert steps(tmp_path) == [30]


def test_one_that_cannot_be_deleted_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "in use", str(self))

    saves = Checkpoints(tmp_path, keep=1)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        for step in (1, 2, 3):
            saves.save(step=step, params=params(step))
    assert steps(tmp_path) == [1, 2, 3]
    saves.save(step=4, params=params(4))
    assert steps(tmp_path) == [4]


def test_a_damaged_newest_one_is_named_and_the_one_before_is_taken(tmp_path: Path) -> None:
    saves = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        saves.save(step=step, params=params(step))
    damage(tmp_path / name(3))
    (tmp_path / name(4)).write_bytes(b"")
    (tmp_path / name(5)).mkdir()
    assert checkpoint.latest(tmp_path) == tmp_path / name(3)  # which has its size
    here = params(0)
    with pytest.warns(RuntimeWarning) as told:
        loaded = saves.load(params=here)
    assert loaded is not None
    assert (loaded.step, here["w"][0]) == (2, 2.0)
    assert [name(step) in str(w.message) for step, w in zip((5, 4, 3), told, strict=True)] == [
        True
    ] * 3
    assert all(f"went on from {tmp_path / name(2)}" in str(w.message) for w in told)
    assert told[0].filename == __file__
    for step in (1, 2):
        damage(tmp_path / name(step), 40)
    with pytest.raises(checkpoint.CheckpointError) as raised:
        saves.load(params=here)
    assert all(name(step) in str(raised.value) for step in (1, 2, 3, 4, 5))


def test_one_that_does_not_fit_is_no_damage(tmp_path: Path) -> None:
    saves = Checkpoints(tmp_path)
    for step in (1, 2):
        saves.save(step=step, params=params(step))
    with pytest.raises(checkpoint.form.StateError, match=name(2)):
        saves.load(params={"v": np.ones(2)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert saves.load(params={"v": np.ones(2)}, strict=False).new == ("params/v",)  # type: ignore[union-attr]


def test_an_empty_folder_and_none_have_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "none") is None
    assert checkpoint.latest(str(tmp_path)) is None
    assert Checkpoints(str(tmp_path)).load(params=params(0)) is None


def test_steps_are_due_where_a_multiple_was_passed(tmp_path: Path) -> None:
    saves = Checkpoints(tmp_path, every=10)
    assert [step for step in range(35) if saves.due(step)] == list(range(10, 35))
    due = []
    for step in (3, 9, 10, 11, 19, 23, 29, 47, 48):
        if saves.due(step):
            due.append(step)
            saves.save(step=step, params=params(0))
    assert due == [10, 23, 47]
    again = Checkpoints(tmp_path, every=10)
    assert again.due(47)
    again.load(params=params(0))
    assert [again.due(step) for step in (48, 49, 50)] == [False, False, True]


@pytest.mark.parametrize(
    ("every", "seconds"),
    [
        ("30 s", 30),
        ("10 min", 600),
        ("1.5 hours", 5400),
        ("1 day", 86400),
        ("2minutes", 120),
        ("1 second", 1),
        (timedelta(minutes=3), 180),
    ],
)
def test_times_are_due_when_they_have_gone_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: Any, seconds: float
) -> None:
    now = 1000.0
    monkeypatch.setattr(rotation.time, "monotonic", lambda: now)
    saves = Checkpoints(tmp_path, every=every)
    for _ in range(2):
        now += seconds - 0.5
        assert not saves.due(5)
        now += 0.5
        assert saves.due(5)
        saves.save(step=5, params=params(0))
    assert not Checkpoints(tmp_path).due(10**6)


@pytest.mark.parametrize(
    "arguments",
    [
        {"keep": 0},
        {"keep": 1.5},
        {"every": 0},
        {"every": 2.5},
        {"every": "soon"},
        {"every": "0 s"},
        {"every": "10 months"},
        {"every": "-3 s"},
        {"every": timedelta(0)},
        {"every": True},
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, arguments: dict[str, Any]) -> None:
    (key,) = arguments
    with pytest.raises((TypeError, ValueError), match=rf"^{key} must be"):
        Checkpoints(tmp_path, **arguments)
    with pytest.raises(ValueError, match="step must be"):
        Checkpoints(tmp_path).save(step=-1, params=params(0))


HOLDS = """
import os, sys, time
from pathlib import Path
from fusestep.checkpoint.writing import replaced
with replaced(Path(sys.argv[1]), lambda name: False) as descriptor:
    os.write(descriptor, b"begun")
    print("begun", flush=True)
    time.sleep(60)
"""


def test_what_killed_processes_have_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / name(1)
    command = [sys.executable, "-c", HOLDS, str(path)]
    left = tmp_path / f".{name(3)}.0123abcd.partial"
    left.write_bytes(b"left")
    others = [tmp_path / ".other.safetensors.0123abcd.partial", tmp_path / f"{name(3)}.partial"]
    for other in others:
        other.write_bytes(b"other")
    others.append(tmp_path / f".{name(3)}.4567abcd.partial")  # which somebody may have begun now
    others[-1].touch()
    old = tmp_path / f".{name(3)}.89abcdef.partial"
    old.touch()
    os.utime(old, (0, 0))
    with killed_at_the_end(subprocess.Popen(command, stdout=subprocess.PIPE)) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        (held,) = set(tmp_path.iterdir()) - {left, old, *others}
        checkpoint.save(path, params=params(0))  # this name alone
        assert left.exists()
        assert held.exists()
        saves = Checkpoints(tmp_path)
        saves.save(step=2, params=params(0))
        assert not left.exists()
        assert not old.exists()
        assert held.exists()  # its process lives
        child.stdout.close()
    assert checkpoint.latest(tmp_path) == tmp_path / name(2)
    saves.save(step=4, params=params(0))
    assert not held.exists()
    assert {path.name for path in tmp_path.iterdir()} == {name(s) for s in (1, 2, 4)} | {
        other.name for other in others
    }
