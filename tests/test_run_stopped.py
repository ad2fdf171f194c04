"""Runs that are killed, stopped by signals and interrupted: started again, all end alike."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from emulation.interrupts import Interrupt
from runs.children import killed_at_the_end
from tables.training import Training, files

pytest.importorskip("safetensors", reason="needs safetensors")
pytest.importorskip("xxhash", reason="needs xxhash")


def start(folder: Path, every: str, pause: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "runs.survived", str(folder), every, str(pause)]
    return subprocess.Popen(command, cwd=Path(__file__).parent)


def told(folder: Path, program: subprocess.Popen[bytes]) -> Any:
    assert program.wait(60) == 0
    return json.loads((folder / "told.json").read_text())


def assert_same_end(one: Path, other: Path) -> None:
    with np.load(one / "end.npz") as a, np.load(other / "end.npz") as b:
        assert a.files == b.files
        for name in a.files:
            assert a[name].tobytes() == b[name].tobytes(), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    with killed_at_the_end(start(folder, "10 min", 0.0)) as program:
        assert told(folder, program) == [None, 77, None]
    return folder


@pytest.mark.unsanitized
@pytest.mark.parametrize("every", ["1", "5"])
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(
    whole: Path, tmp_path: Path, every: str
) -> None:
    kills = 0
    while not (tmp_path / "end.npz").exists():
        newest = max(files(tmp_path), default=0)
        deadline = time.monotonic() + 60
        with killed_at_the_end(start(tmp_path, every, 0.003)) as program:
            while program.poll() is None and time.monotonic() < deadline:
                if max(files(tmp_path), default=0) > newest:
                    time.sleep(random.random() * 0.2)
                    program.kill()
                    kills += 1
                    break
                time.sleep(0.001)
            else:
                assert program.wait() == 0, "the run hangs or has failed"
    assert kills >= 2
    assert_same_end(whole, tmp_path)


@pytest.mark.unsanitized
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals between processes")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_a_run_after_a_step_that_is_saved(
    whole: Path, tmp_path: Path, name: str
) -> None:
    resumed = None
    for stop in (20, 50):
        with killed_at_the_end(start(tmp_path, "1", 0.005)) as program:
            while max(files(tmp_path), default=0) < stop:
                assert program.poll() is None
                time.sleep(0.001)
            program.send_signal(getattr(signal, name))
            before, step, stopped = told(tmp_path, program)
        assert (before, stopped) == (resumed, name)
        assert stop <= step < 77
        assert files(tmp_path)[-1] == step
        assert not (tmp_path / "end.npz").exists()
        resumed = step
    with killed_at_the_end(start(tmp_path, "1", 0.0)) as program:
        assert told(tmp_path, program) == [resumed, 77, None]
    assert_same_end(whole, tmp_path)


def train(
    folder: Path, at: int, act: Any, *, leave: Any = None, training: Training | None = None
) -> Training:
    """Trains; in the body of step ``at`` it acts."""
    training = training or Training(folder, every="1 day")
    for batch in training.run.steps():
        training.step(batch)
        if training.run.step == at:
            act()
            if leave == "break":
                break
            if leave is not None:
                raise leave
    return training


@pytest.fixture
def handlers() -> Any:
    """Tells whether the handlers are those there were; they are after the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def are_back(put_back: bool = False) -> bool:
        are = all(signal.getsignal(number) == handler for number, handler in before.items())
        for number, handler in before.items() if put_back else ():
            signal.signal(number, handler)
        return are

    yield are_back
    are_back(put_back=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_step_in_progress_ends_and_is_saved(
    tmp_path: Path, handlers: Any, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    training = train(tmp_path / "run", 6, lambda: signal.raise_signal(number))
    assert training.run.stopped == number.name
    assert (training.run.step, len(training.seen)) == (7, 7)
    assert files(tmp_path / "run") == [7]
    assert handlers()
    assert f"stopped by {number.name} after step 7, which is saved" in capsys.readouterr().err
    again = Training(tmp_path / "run").train()
    assert again.bits() == Training(tmp_path / "whole").train().bits()
    assert again.run.stopped is None


def test_a_second_interrupt_ends_it_at_once(tmp_path: Path, handlers: Any) -> None:
    training = Training(tmp_path, every=5, background=False)

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, 6, twice, training=training)
    assert handlers()
    assert files(tmp_path) == [5]
    assert training.run.stopped == "SIGINT"


def test_a_second_sigterm_changes_nothing(tmp_path: Path, handlers: Any) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    assert train(tmp_path, 6, twice).run.stopped == "SIGTERM"
    assert files(tmp_path) == [7]


def test_an_interrupt_while_the_last_save_is_under_way_ends_it_at_once(
    tmp_path: Path, handlers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, fsync = Training(tmp_path, every=5, background=False), os.fsync

    def interrupted(descriptor: int) -> None:
        signal.raise_signal(signal.SIGINT)
        fsync(descriptor)

    def act() -> None:
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr("os.fsync", interrupted)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, 6, act, training=training)
    monkeypatch.undo()
    assert handlers()
    assert files(tmp_path) == [5]


@pytest.mark.parametrize("leave", [None, "break", OSError("no power"), KeyboardInterrupt()])
def test_the_handlers_are_back_however_the_loop_is_left(
    tmp_path: Path, handlers: Any, leave: Any
) -> None:
    def act() -> None:
        assert not handlers()

    try:
        training = train(tmp_path, 6, act, leave=leave)
    except (OSError, KeyboardInterrupt):
        pass
    else:
        assert training.run.stopped is None
    assert handlers()
    loop = Training(tmp_path / "other").run.steps()
    assert handlers()
    next(loop)
    assert not handlers()
    loop.close()  # type: ignore[attr-defined]
    assert handlers()


def test_a_handler_that_the_body_sets_stays(tmp_path: Path, handlers: Any) -> None:
    own = lambda number, frame: None  # noqa: E731
    train(tmp_path, 6, lambda: signal.signal(signal.SIGTERM, own))
    assert signal.getsignal(signal.SIGTERM) is own


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path, handlers: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    training = train(tmp_path, 6, lambda: signal.raise_signal(signal.SIGINT))
    assert training.run.stopped is None
    assert len(training.seen) == 18
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


@pytest.mark.parametrize("leave", ["break", OSError("no power")])
def test_a_signal_is_told_where_the_step_that_it_comes_in_ends_the_loop(
    tmp_path: Path, handlers: Any, leave: Any
) -> None:
    training = Training(tmp_path, background=False)
    with contextlib.suppress(OSError):
        act = lambda: signal.raise_signal(signal.SIGTERM)  # noqa: E731
        train(tmp_path, 6, act, leave=leave, training=training)
    assert training.run.stopped == "SIGTERM"
    assert handlers()
    assert files(tmp_path) == [5]


def test_signals_are_left_alone_outside_the_main_thread(tmp_path: Path, handlers: Any) -> None:
    found: list[Any] = []

    def work() -> None:
        found.append(train(tmp_path, 6, lambda: found.append(handlers())).run.step)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [True, 18]


def test_a_loop_around_another_one_is_told_too(tmp_path: Path, handlers: Any) -> None:
    outer = fs.Run(tmp_path / "outer", params=np.ones(2))
    stopped = []
    for fold in outer.steps(5):
        act = (lambda: signal.raise_signal(signal.SIGTERM)) if fold == 2 else (lambda: None)
        stopped.append(train(tmp_path / str(fold), 6, act).run.stopped)
    assert stopped == [None, None, "SIGTERM"]
    assert (outer.stopped, outer.step) == ("SIGTERM", 3)
    assert handlers()


@pytest.mark.unsanitized
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_forked_child_takes_signals_as_before_the_loop(
    tmp_path: Path, handlers: Any, number: signal.Signals
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def act() -> None:
        pid = os.fork()
        if pid == 0:
            signal.raise_signal(number)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == number

    assert train(tmp_path, 6, act).run.stopped is None


class Pressed(Interrupt):
    """Ctrl-C before the line that is reached as number ``at``, once or twice, in some files."""

    def __init__(self, at: int, times: int, files: str) -> None:
        super().__init__(at)
        self._times, self._files = times, files

    def __call__(self, frame: Any, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.endswith(self._files):
            return None
        try:
            return super().__call__(frame, event, argument)
        except KeyboardInterrupt:
            for _ in range(self._times):
                signal.raise_signal(signal.SIGINT)


@pytest.mark.unsanitized
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(("files", "every"), [(".py", 131), ("signals.py", 1)])
def test_an_interrupt_before_any_line_is_never_lost_and_what_it_leaves_ends_with_the_same_bits(
    tmp_path: Path, handlers: Any, times: int, files: str, every: int
) -> None:
    def training(folder: Path) -> Training:
        return Training(folder, epochs=1, size=8, every=1, background=False)

    whole = training(tmp_path / "whole").train().bits()
    for number in itertools.count():
        made: list[Training] = []
        folder, pressed = tmp_path / str(number), Pressed(number * every, times, files)

        def train(folder: Path = folder, made: list[Training] = made) -> None:
            made.append(training(folder))
            made[0].train()

        is_interrupted = pressed.during(train)
        if not pressed.where:
            break
        assert is_interrupted or (times == 1 and made[0].run.stopped == "SIGINT"), pressed.where
        assert handlers(), pressed.where
        assert training(folder).train().bits() == whole, pressed.where
    assert number > 10
