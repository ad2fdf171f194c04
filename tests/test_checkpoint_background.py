"""Saves in the background: a snapshot, one at a time, and no error is lost."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import checkpoint
from fusestep.checkpoint import saving
from fusestep.checkpoint.background import writer
from runs.children import forked

pytest.importorskip("safetensors")
pytest.importorskip("xxhash")


class Gate:
    """Holds writes up until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.begun = threading.Event()
        self.writes: list[str] = []
        write_file = saving.write_file

        def held(path: Path, *args: Any) -> None:
            self.begun.set()
            assert self.open.wait(60)
            write_file(path, *args)
            self.writes.append(path.name)

        monkeypatch.setattr(saving, "write_file", held)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(monkeypatch)
    yield made
    made.open.set()
    checkpoint.wait()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    checkpoint.wait()
    assert (writer._threads, writer._errors, writer._memory) == ([], [], [])


def loaded(path: Path) -> float:
    here = np.zeros(1000)
    checkpoint.load(path, params=here)
    return float(here.mean())


def test_what_changes_after_the_call_is_not_saved(gate: Gate, tmp_path: Path) -> None:
    w = np.full(1000, 1.0)
    opt = fs.SGD(w, lr=1.0, momentum=0.5)
    opt.step(np.ones(1000))
    extra = {"list": [1], "array": np.ones(2)}
    path = checkpoint.save(tmp_path / "a", params=w, optimizer=opt, extra=extra, background=True)
    assert gate.begun.wait(60)
    opt.step(np.ones(1000))
    extra["list"].append(2)
    extra["array"][:] = 5
    gate.open.set()
    again = np.zeros(1000)
    here = fs.SGD(again, lr=1.0, momentum=0.5)
    found = checkpoint.load(path, params=again, optimizer=here)  # waits for the write
    assert (again == 0.0).all()
    assert here.steps_applied == 1
    assert (here.state[""]["momentum"] == 1.0).all()
    assert found.extra["list"] == [1]
    assert (found.extra["array"] == 1).all()


@pytest.mark.parametrize("background", [False, True])
def test_the_next_save_waits(gate: Gate, tmp_path: Path, background: bool) -> None:
    checkpoint.save(tmp_path / "a", params=np.ones(1000), background=True)
    assert gate.begun.wait(60)
    gate.begun.clear()
    more = {"params": np.ones(1000), "background": background}
    other = threading.Thread(target=checkpoint.save, args=(tmp_path / "b",), kwargs=more)
    other.start()
    assert not gate.begun.wait(0.05)
    gate.open.set()
    other.join()
    checkpoint.wait()
    assert gate.writes == ["a", "b"]


CALLS: list[Callable[[Path], object]] = [
    lambda folder: checkpoint.load(folder / "b"),
    lambda folder: checkpoint.latest(folder),
    lambda folder: checkpoint.wait(),
    lambda folder: checkpoint.Checkpoints(folder).load(),
]
SAVES: list[Callable[[Path], object]] = [
    lambda folder: checkpoint.save(folder / "b", params=np.ones(1000)),
    lambda folder: checkpoint.save(folder / "b", params=np.ones(1000), background=True),
    lambda folder: checkpoint.Checkpoints(folder).save(step=1, params=np.ones(1000)),
]


@pytest.mark.parametrize("call", [*CALLS, *SAVES])
def test_the_next_call_raises_the_error_and_a_save_saves_first(
    tmp_path: Path, call: Callable[[Path], object]
) -> None:
    path = tmp_path / "gone" / "run.safetensors"
    assert checkpoint.save(path, params=np.ones(2), background=True) == path
    with pytest.raises(FileNotFoundError) as raised:
        call(tmp_path)
    assert raised.value.filename == str(path)
    checkpoint.wait()  # raised once
    assert [loaded(file) for file in tmp_path.iterdir()] == [1.0] * (call in SAVES)


def test_two_errors_are_raised_one_after_the_other(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with pytest.raises(FileNotFoundError) if name == "second" else contextlib.nullcontext():
            checkpoint.save(tmp_path / "gone" / name, params=np.ones(2), background=True)
    with pytest.raises(FileNotFoundError, match="second"):
        checkpoint.wait()


def test_the_memory_of_snapshots_is_used_again_until_wait(tmp_path: Path) -> None:
    places = set()
    for size in (1000, 900, 1000):
        checkpoint.save(tmp_path / "a", params=np.ones(size), background=True)
        writer.finish()
        (memory,) = writer._memory
        places.add(memory.ctypes.data)
    assert len(places) == 1
    checkpoint.save(tmp_path / "a", params=np.ones(2000), background=True)
    writer.finish()
    assert writer._memory[0].nbytes == 16_000
    checkpoint.wait()
    assert writer._memory == []


def test_a_thread_that_cannot_start_is_an_error_of_this_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            checkpoint.save(tmp_path / "a", params=np.ones(2), background=True)
    checkpoint.save(tmp_path / "a", params=np.full(1000, 3.0), background=True)
    assert loaded(tmp_path / "a") == 3.0


def test_threads_that_save_at_once_write_whole_files(tmp_path: Path) -> None:
    def work(value: int) -> None:
        for i in range(50):
            checkpoint.save(
                tmp_path / f"{value}", params=np.full(1000, float(value)), background=i % 3 > 0
            )
            checkpoint.save(tmp_path / "shared", params=np.full(1000, float(value)))

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    checkpoint.wait()
    assert [loaded(tmp_path / f"{value}") for value in range(4)] == [0, 1, 2, 3]
    assert loaded(tmp_path / "shared") in range(4)
    assert len(list(tmp_path.iterdir())) == 5


SLOW = """
import os, sys, time, numpy as np
from fusestep import checkpoint
sync = os.fsync
os.fsync = lambda descriptor: (time.sleep(0.3), sync(descriptor))
checkpoint.save(sys.argv[1], params=np.full(1000, 7.0), background=True)
print("end")
"""


def test_the_exit_of_the_interpreter_waits(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOW, str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("end\n", "", 0)
    assert loaded(tmp_path / "a") == 7.0


def test_an_error_that_no_call_can_raise_is_a_warning_at_the_exit(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "a"
    command = [sys.executable, "-c", SLOW, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "end\n"
    assert "RuntimeWarning: [Errno 2] the checkpoint was not saved: No such file" in done.stderr
    assert str(path) in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_forked_meanwhile_saves_and_ends_on_its_own(gate: Gate, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", params=np.full(1000, 1.0), background=True)
    assert gate.begun.wait(60)

    def child() -> None:
        gate.open.set()
        for background in (True, False):
            checkpoint.save(tmp_path / "b", params=np.full(1000, 2.0), background=background)
            checkpoint.wait()

    with forked(child):
        pass
    gate.open.set()
    assert (loaded(tmp_path / "a"), loaded(tmp_path / "b")) == (1.0, 2.0)
