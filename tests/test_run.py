"""Loops that save themselves and go on from what they saved."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from tables.training import N, Training, files

pytest.importorskip("safetensors", reason="needs safetensors")
pytest.importorskip("xxhash", reason="needs xxhash")


@pytest.fixture
def whole(tmp_path: Path) -> Training:
    return Training(tmp_path / "whole").train()


@pytest.mark.parametrize("stop", [1, 2, 5, 6, 12, 17, 18])
@pytest.mark.parametrize("background", [False, True])
def test_a_run_that_is_stopped_and_started_again_ends_with_the_same_bits(
    whole: Training, tmp_path: Path, stop: int, background: bool
) -> None:
    first = Training(tmp_path / "run", background=background).train(stop)
    assert (first.run.resumed, first.run.step, first.run.stopped) == (None, stop, "stop()")
    again = Training(tmp_path / "run", background=background).train()
    assert (again.run.resumed, again.run.step, again.run.stopped) == (stop, 18, None)
    assert first.seen + again.seen == whole.seen
    assert again.bits() == whole.bits()
    assert again.loader.state_dict() == whole.loader.state_dict()


def test_it_says_where_it_goes_on_and_where_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Training(tmp_path).train(7)
    Training(tmp_path).train()
    Training(tmp_path).train()
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}: stopped by stop() after step 7, which is saved",
        f"{tmp_path}: goes on from step 7",
        f"{tmp_path}: goes on from step 18",
        f"{tmp_path}: nothing is left to do after step 18",
    ]


@pytest.mark.parametrize("tail", ["short", "drop", "carry"])
def test_a_run_that_has_ended_gives_nothing_and_with_more_epochs_goes_on(
    tmp_path: Path, tail: Any
) -> None:
    def training(folder: str, epochs: int) -> Training:
        made = Training(tmp_path / folder, epochs=epochs)
        made.loader = fs.Loader(np.arange(N * 3.0).reshape(N, 3), 4, epochs=epochs, tail=tail)
        made.run = fs.Run(
            tmp_path / folder, params=made.params, optimizer=made.opt, loader=made.loader, every=5
        )
        return made

    longer = training("longer", 4).train()
    first = training("run", 2).train()
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    for _ in range(2):
        ended = training("run", 2).train()
        assert ended.seen == []
        assert ended.bits() == first.bits()
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    if tail != "carry":  # with it, the end of a loop is a short batch that a longer one has not
        more = training("run", 4).train()
        assert first.seen + more.seen == longer.seen
        assert more.bits() == longer.bits()


def test_a_second_loop_of_the_same_run_takes_more_epochs(tmp_path: Path) -> None:
    training = Training(tmp_path, epochs=1).train().train()
    assert training.run.step == len(training.seen) == 12
    assert sorted(chain(*training.seen[6:])) == list(range(N))
    again = Training(tmp_path, epochs=1).train()
    assert (again.run.resumed, again.seen) == (12, [])


@pytest.mark.parametrize(
    ("every", "keep", "expected"),
    [
        (5, 3, [10, 15, 18]),
        (5, None, [5, 10, 15, 18]),
        (7, 1, [18]),
        ("1 day", 3, [18]),
        (timedelta(microseconds=1), 2, [17, 18]),
        ("1 epoch", None, [6, 12, 18]),
        ("2 epochs", None, [12, 18]),
    ],
)
def test_it_saves_when_it_is_time_and_at_the_end(
    tmp_path: Path, every: Any, keep: Any, expected: list[int]
) -> None:
    Training(tmp_path, every=every, keep=keep).train()
    assert files(tmp_path) == expected


def test_epochs_after_which_it_saves_are_counted_over_a_resume(tmp_path: Path) -> None:
    Training(tmp_path, every="1 epoch", keep=None).train(8)
    assert files(tmp_path) == [6, 8]
    Training(tmp_path, every="1 epoch", keep=None).train(14)
    assert files(tmp_path) == [6, 8, 12, 14]


@pytest.mark.parametrize("how", ["error", "break", "interrupt"])
def test_a_step_that_is_not_finished_is_not_saved(
    whole: Training, tmp_path: Path, how: str
) -> None:
    training = Training(tmp_path / "run", background=False)

    def train() -> None:
        for batch in training.run.steps():
            training.step(batch)
            if training.run.step == 7:
                training.params["w"][:] = np.nan
                if how == "break":
                    break
                raise {"error": OSError, "interrupt": KeyboardInterrupt}[how]("no power")

    if how == "break":
        train()
    else:
        with pytest.raises((OSError, KeyboardInterrupt), match="no power"):
            train()
    assert training.run.stopped is None
    assert files(tmp_path / "run") == [5]
    again = Training(tmp_path / "run").train()
    assert again.run.resumed == 5
    assert again.bits() == whole.bits()


def test_after_a_break_the_loop_goes_on(tmp_path: Path, whole: Training) -> None:
    training = Training(tmp_path / "run")
    for batch in training.run.steps():
        training.step(batch)
        if len(training.seen) == 3:
            break
    training.train()
    assert training.seen == whole.seen
    assert training.bits() == whole.bits()


def test_a_total_ends_the_loop_before_the_loader_does(tmp_path: Path, whole: Training) -> None:
    first = Training(tmp_path / "run").train(total=11)
    assert (first.run.step, first.run.stopped) == (11, None)
    assert files(tmp_path / "run") == [5, 10, 11]
    assert Training(tmp_path / "run").train(total=11).seen == []
    again = Training(tmp_path / "run").train(total=99)
    assert again.bits() == whole.bits()


def test_without_a_loader_it_gives_the_numbers_of_the_steps(tmp_path: Path) -> None:
    def train(folder: str, total: int) -> tuple[list[int], Any, fs.Run]:
        w = np.zeros(4)
        opt = fs.Adam(w, lr=0.1)
        run, seen = fs.Run(tmp_path / folder, params=w, optimizer=opt), []
        for step in run.steps(total):
            seen.append(step)
            run.note(opt.step(np.random.default_rng([5, step]).standard_normal(4)))
        return seen, w, run

    assert train("whole", 9)[0] == list(range(9))
    assert train("run", 4)[0] == list(range(4))
    seen, w, run = train("run", 9)
    assert seen == list(range(4, 9))
    assert w.tobytes() == train("other", 9)[1].tobytes()
    assert run.record["step"].tolist() == list(range(9))
    with pytest.raises(TypeError, match="steps needs a total where the run has no loader"):
        run.steps()


def test_what_else_is_given_comes_back_into_the_same_dict(tmp_path: Path) -> None:
    def extra() -> dict[str, Any]:
        statistics = fs.gradients.GradientStatistics()
        own = {"best": None, "sums": np.zeros(2), "of": {"s": statistics}}
        return {**own, "history": [], "pair": [np.zeros(1), 0]}

    first = Training(tmp_path, extra=extra())
    for batch in first.run.steps():
        first.step(batch)
        own = first.run._extra
        assert own is not None
        own["best"], own["sums"][1] = 0.5, 7.0
        own["of"]["s"].add([2.0, 6.0], sizes=[8, 8], squared_norm_of_mean=3.0)
        own["history"].append([batch.size, None])
        own["pair"][1] += 1
        if len(first.seen) == 2:
            first.run.stop()
    mine = extra()
    sums, statistics = mine["sums"], mine["of"]["s"]
    Training(tmp_path, extra=mine).run.steps()
    assert mine["best"] == 0.5
    assert mine["history"] == [[4, None], [4, None]]
    assert mine["pair"] == [0.0, 2]
    assert mine["sums"] is sums
    assert sums.tolist() == [0.0, 7.0]
    assert mine["of"]["s"] is statistics
    assert statistics.noise_scale == 8.0


def test_several_optimizers_and_a_loader_of_ones_own(tmp_path: Path) -> None:
    class Numbers:
        """Counts down; its state is a number."""

        def __init__(self) -> None:
            self.left = 9

        def __iter__(self) -> Iterator[int]:
            while self.left:
                self.left -= 1
                yield self.left

        def state_dict(self) -> dict[str, int]:
            return {"left": self.left}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.left = state["left"]

    def train(stop: int) -> tuple[list[int], bytes]:
        params = {"g": np.ones(2), "d": np.ones(3)}
        opts = {"g": fs.Adam({"g": params["g"]}), "d": fs.SGD({"d": params["d"]}, lr=0.1)}
        run = fs.Run(tmp_path, params=params, optimizer=opts, loader=Numbers())
        seen = []
        for number in run.steps():
            seen.append(number)
            for name, opt in opts.items():
                opt.step({name: params[name] + number})
            run.note(loss=number)
            if len(seen) == stop:
                run.stop()
        return seen, params["g"].tobytes() + params["d"].tobytes()

    assert train(4)[0] == [8, 7, 6, 5]
    seen, bits = train(99)
    assert seen == [4, 3, 2, 1, 0]
    for path in tmp_path.iterdir():
        path.unlink()
    assert train(99) == (list(range(8, -1, -1)), bits)


def test_a_checkpoint_of_another_model_is_refused_and_nothing_has_changed(tmp_path: Path) -> None:
    Training(tmp_path).train(3)
    other = Training(tmp_path)
    params = {"w": np.ones(4), "b": np.zeros(2, np.float32)}
    opt = fs.SGD(params)
    run = fs.Run(tmp_path, params=params, optimizer=opt, loader=other.loader)
    before = other.loader.state_dict()
    with pytest.raises(fs.StateError, match=r"params\['w'\] shape: saved \(3,\), present \(4,\)"):
        run.steps()
    assert (params["w"] == 1).all()
    assert other.loader.state_dict() == before
    assert (run.step, run.resumed, len(run.record)) == (0, None, 0)
    assert files(tmp_path) == [3]


def test_a_save_that_fails_is_told_and_the_last_one_stays(
    whole: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path / "run", background=False)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    def train() -> None:
        for batch in training.run.steps():
            training.step(batch)
            if training.run.step == 7:
                monkeypatch.setattr("os.fsync", full)

    with pytest.raises(OSError, match="No space left"):
        train()
    monkeypatch.undo()
    assert files(tmp_path / "run") == [5]
    assert Training(tmp_path / "run").train().bits() == whole.bits()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"record": {}}, TypeError, "record must be a fusestep.Record, not {}"),
        ({"extra": [1]}, TypeError, r"extra must be a dict, not \[1\]"),
        ({"every": 0}, ValueError, "every must be at least 1, not 0"),
        ({"every": "often"}, ValueError, "every must be"),
        ({"every": "0 epochs"}, ValueError, "every must be at least 1, not 0"),
        ({"keep": 0}, ValueError, "keep must be at least 1, not 0"),
        ({"background": 1}, TypeError, "background must be True or False"),
        ({"progress": "yes"}, TypeError, "progress must be True or False"),
        ({"loader": None, "every": "1 epoch"}, ValueError, "needs a fusestep.Loader"),
        ({"loader": [1, 2]}, TypeError, "loader must be an iterable with state_dict"),
        ({"optimizer": 3}, TypeError, "optimizer must be an object with state_dict"),
        ({"model": 3}, TypeError, "Run has no argument 'model'"),
    ],
)
def test_bad_arguments_are_named(
    tmp_path: Path, options: Any, error: type[Exception], message: str
) -> None:
    given = {"params": np.ones(2), "loader": fs.Loader(np.arange(3), 1), **options}
    with pytest.raises(error, match=message):
        fs.Run(tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_parameters_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="params"):
        fs.Run(tmp_path, optimizer=fs.SGD(np.ones(2)))  # type: ignore[call-arg]


def test_parameters_that_the_optimizer_does_not_update_are_refused(tmp_path: Path) -> None:
    params = {"w": np.ones(2), "b": np.ones(3)}
    opts = {"one": fs.SGD(params)}
    message = r"params must hold the arrays that the optimizer updates, and lacks its \['b'\]"
    with pytest.raises(ValueError, match=message):
        fs.Run(tmp_path, params={**params, "b": np.ones(3)}, optimizer=opts)
    run = fs.Run(tmp_path, params=params, optimizer=opts)
    opts["one"].rebind({**params, "b": np.ones(3)})
    with pytest.raises(ValueError, match=message):
        next(run.steps(1))
    fs.Run(tmp_path, params=[params["w"], {"x": params["b"]}], optimizer=fs.SGD(params))


def test_a_note_belongs_in_the_body_and_loops_do_not_nest(tmp_path: Path) -> None:
    training = Training(tmp_path)
    with pytest.raises(fs.StateError, match="note is for the body of a loop"):
        training.run.note(loss=1.0)
    for _ in training.run.steps(1):
        with pytest.raises(fs.StateError, match="another loop of this run is under way"):
            next(training.run.steps())
    with pytest.raises(ValueError, match="total must be at least 0"):
        training.run.steps(-1)
    training.run.steps(3)


def test_a_loop_in_another_thread_saves_too(whole: Training, tmp_path: Path) -> None:
    made: list[Training] = []
    for stop in (7, None):
        work = lambda stop=stop: made.append(Training(tmp_path / "run").train(stop))  # noqa: E731
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert made[-1].bits() == whole.bits()


def test_the_record_may_be_ones_own_and_its_rows_have_the_clock(tmp_path: Path) -> None:
    record = fs.Record()
    training = Training(tmp_path, record=record, size=fs.batch_sizes.ramp(2, 5, 1, over_samples=9))
    training.train()
    assert training.run.record is record
    assert record["step"].tolist() == list(range(training.run.step))
    assert record["batch_size"].tolist() == [len(rows) for rows in training.seen]
    np.testing.assert_array_equal(record["samples"], np.cumsum([0, *map(len, training.seen)])[:-1])
    rate = training.opt.schedules["lr"]
    assert record["lr"].tolist() == rate(record["step"]).tolist()


def test_a_run_on_a_gpu_goes_on_with_the_same_bits(tmp_path: Path, cupy: Any) -> None:
    def train(folder: str, stop: int) -> tuple[list[bytes], fs.Run]:
        params = {"w": cupy.asarray(np.ones(5)), "b": cupy.asarray(np.ones(3, np.float32))}
        opt = fs.AdamW(params, lr=0.1, clip_norm=1.0, nonfinite="skip")
        loader = fs.Loader(cupy.asarray(np.arange(40.0).reshape(8, 5)), 2, epochs=12)
        run = fs.Run(tmp_path / folder, params=params, optimizer=opt, loader=loader, every=7)
        for batch in run.steps():
            grads = {"w": batch.data[0].copy(), "b": cupy.asarray(np.ones(3, np.float32))}
            if run.step == 9:
                grads["w"][1] = np.nan
            run.note(opt.step(grads), loss=batch.data[0][:1].copy())
            if run.step + 1 == stop:
                run.stop()
        arrays = [params["w"].get(), params["b"].get(), *dict(run.record).values()]
        return [array.tobytes() for array in arrays], run

    whole, _ = train("whole", 99)
    _, first = train("run", 30)
    assert np.flatnonzero(first.record["applied"] == 0.0).tolist() == [9]
    bits, again = train("run", 99)
    assert (again.resumed, again.step, len(again.record)) == (30, 48, 48)
    assert bits == whole
