"""Whatever the system refuses, the checkpoint of before stays, and the error says which file."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusestep import checkpoint
from fusestep.checkpoint import saving, writing

pytest.importorskip("safetensors")
pytest.importorskip("xxhash")

CALLS = [
    (os, "open"),
    (os, "write"),
    (os, "lseek"),
    (os, "fsync"),
    (os, "close"),
    (Path, "replace"),
    (Path, "iterdir"),
]


def params(value: float) -> dict[str, Any]:
    return {"w": np.full(300, value), "b": np.full(3, value, np.float32)}


def loaded(path: Path) -> float:
    """The value of all elements of a checkpoint."""
    here = params(0.0)
    checkpoint.load(path, params=here)
    (value,) = {float(x) for array in here.values() for x in array}
    return value


class Calls:
    """The system's calls by a save, of which one does something else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        self.number: int | None = None
        self.instead: Callable[..., Any] = lambda *_: None
        for owner, name in CALLS:
            monkeypatch.setattr(owner, name, self._watched(name, getattr(owner, name)))

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **options: Any) -> Any:
            self.made.append(name)
            if len(self.made) == self.number:
                return self.instead(call, *args, **options)
            return call(*args, **options)

        return watched

    @contextlib.contextmanager
    def other(self, number: int | None, instead: Callable[..., Any]) -> Iterator[None]:
        self.made, self.number, self.instead = [], number, instead
        yield
        self.number = None


def failing(call: Callable[..., Any], *_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def saved(path: Path, value: float, background: bool) -> None:
    checkpoint.save(path, params=params(value), step=1, background=background)
    checkpoint.wait()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    if writing.fcntl is not None:  # macOS has a call of its own before fsync
        monkeypatch.delattr(writing.fcntl, "F_FULLFSYNC", raising=False)
    return Calls(monkeypatch)


@pytest.mark.parametrize("background", [False, True])
def test_a_call_that_fails_leaves_the_checkpoint_of_before(
    calls: Calls, tmp_path: Path, background: bool
) -> None:
    path = tmp_path / "run.safetensors"
    failed = []
    for number in itertools.count(1):
        saved(path, 1.0, False)
        with calls.other(number, failing):
            try:
                saved(path, 2.0, background)
            except OSError as error:
                told = (error.errno, error.filename)
            else:
                break
        assert told == (errno.ENOSPC, str(path))
        name = calls.made[number - 1]
        failed.append(name)
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
        # the file's folder alone is written after it took its place
        assert loaded(path) == (2.0 if "replace" in calls.made[: number - 1] else 1.0)
    assert set(failed) == {name for _, name in CALLS}
    assert failed.count("write") >= 4
    if os.name != "nt":
        after = failed[failed.index("replace") - 1 :]
        assert after == ["fsync", "replace", "close", "open", "fsync", "close"]
    saved(path, 3.0, background)
    assert loaded(path) == 3.0


def test_a_folder_that_is_removed_meanwhile_is_named(calls: Calls, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "run.safetensors"

    def remove(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        shutil.rmtree(path.parent)
        return call(*args, **options)

    with pytest.raises(FileNotFoundError) as raised:
        saved(path, 1.0, False)
    assert raised.value.filename == str(path)
    path.parent.mkdir()
    saved(path, 1.0, False)
    for number in range(1, 1 + calls.made.index("replace")):
        path.parent.mkdir(exist_ok=True)
        with calls.other(number, remove), pytest.raises(FileNotFoundError) as raised:
            saved(path, 2.0, False)
        assert raised.value.filename == str(path)


@pytest.mark.skipif(os.name == "nt", reason="Windows syncs no folders")
def test_a_system_that_syncs_no_folders_is_saved_on(calls: Calls, tmp_path: Path) -> None:
    def not_for_folders(call: Callable[..., Any], *_: Any, **__: Any) -> Any:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    path = tmp_path / "run.safetensors"
    saved(path, 1.0, False)
    with calls.other(len(calls.made) - 1, not_for_folders):
        saved(path, 2.0, False)
    assert calls.made[-2:] == ["fsync", "close"]
    assert loaded(path) == 2.0


@pytest.mark.skipif(sys.platform != "linux", reason="Linux begins early")
def test_a_large_file_is_written_out_while_it_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, told = tmp_path / "run.safetensors", []

    def advise(descriptor: int, begin: int, length: int, advice: int) -> None:
        told.append((begin, begin + length))
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(saving, "STRETCH", 2**21)
    checkpoint.save(path, params={name: np.ones(2**18) for name in "abc"})  # of 2 MB each
    size = path.stat().st_size
    assert told == [(size - (3 - i) * 2**21, size - (2 - i) * 2**21) for i in range(3)]


@pytest.mark.skipif(writing.fcntl is None, reason="Windows has no fcntl")
@pytest.mark.parametrize("fails", [False, True])
def test_macos_is_asked_to_empty_the_cache_of_the_drive(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: bool
) -> None:
    asked: list[Any] = []

    def control(descriptor: int, command: int) -> None:
        asked.append(command)
        if fails:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(writing.fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(writing.fcntl, "fcntl", control)
    monkeypatch.setattr(os, "fsync", lambda descriptor: asked.append("fsync"))
    saved(tmp_path / "run.safetensors", 2.0, False)
    assert asked == ([51, "fsync"] if fails else [51]) * 2


def test_a_system_without_locks_saves_and_cleans_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "run.safetensors"
    left = tmp_path / f".{path.name}.0123abcd.partial"
    left.write_bytes(b"left")
    monkeypatch.setattr(writing, "fcntl", None)
    saved(path, 2.0, False)
    assert loaded(path) == 2.0
    assert not left.exists()


@pytest.mark.parametrize("most", [1, 7, 1000])
def test_a_write_that_takes_less_is_gone_on_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, most: int
) -> None:
    path, write = tmp_path / "run.safetensors", os.write
    saved(path, 2.0, False)
    whole = path.read_bytes()
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:most]))
    saved(path, 2.0, False)
    assert path.read_bytes() == whole
    assert loaded(path) == 2.0


def test_a_write_that_takes_nothing_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "write", lambda descriptor, data: 0)
    with pytest.raises(OSError, match=r"nothing was written.*run\.safetensors"):
        saved(tmp_path / "run.safetensors", 2.0, False)


@pytest.mark.skipif(writing.fcntl is None, reason="Windows removes no file that is open")
def test_another_process_that_cleans_up_leaves_a_file_that_is_about_to_take_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    replace = Path.replace

    def cleaned_up_before(self: Path, target: Path) -> Path:
        writing._remove_unfinished(tmp_path, lambda name: True)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", cleaned_up_before)
    saved(tmp_path / "run.safetensors", 2.0, False)
    assert loaded(tmp_path / "run.safetensors") == 2.0


LIMITED = """
import resource, signal, sys, numpy as np
from fusestep import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save(sys.argv[1], params={"w": np.full(100_000, 2.0)}, background=sys.argv[2] == "1")
    checkpoint.wait()
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("background", [False, True])
def test_a_file_that_becomes_too_large_for_the_system_is_named(
    tmp_path: Path, background: bool
) -> None:
    pytest.importorskip("resource")
    path = tmp_path / "run.safetensors"
    saved(path, 1.0, False)
    command = [sys.executable, "-c", LIMITED, str(path), str(int(background))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stderr, done.returncode) == ("", 0)
    assert "the checkpoint was not saved: File too large" in done.stdout
    assert str(path) in done.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert loaded(path) == 1.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_and_a_read_only_one_leave_the_checkpoint_of_before(
    disk: Path, background: bool
) -> None:
    path = disk / "run.safetensors"
    saved(path, 1.0, False)
    with contextlib.suppress(OSError), (disk / "other").open("wb", buffering=0) as other:
        while other.write(bytes(1000)):
            pass
    with pytest.raises(OSError, match=r"No space left on device: .*run\.safetensors"):
        saved(path, 2.0, background)
    assert loaded(path) == 1.0
    assert {entry.name for entry in disk.iterdir()} == {"run.safetensors", "other"}
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(OSError, match=r"Read-only file system: .*run\.safetensors"):
        saved(path, 3.0, background)
    assert loaded(path) == 1.0
