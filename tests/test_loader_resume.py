"""A training run that is killed again and again ends with the bits of one that never stopped."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fusestep as fs
from runs.children import killed_at_the_end


def start(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "runs.loading", str(folder)]
    return subprocess.Popen(command, cwd=Path(__file__).parent)


@pytest.mark.unsanitized
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with killed_at_the_end(start(whole)) as program:
        assert program.wait(120) == 0
    kills, place = 0, killed / "loader.json"
    while not (killed / "end.npz").exists():
        before = json.loads(place.read_text())["steps"] if place.exists() else 0
        # let it take some steps, as many as chance says, then kill it without warning
        wanted, deadline = before + random.randint(5, 60), time.monotonic() + 60
        with killed_at_the_end(start(killed)) as program:
            while program.poll() is None and time.monotonic() < deadline:
                if place.exists() and json.loads(place.read_text())["steps"] >= wanted:
                    kills += 1
                    break
                time.sleep(0.002)
            else:
                assert program.poll() == 0, "the run hangs or has failed"
    assert kills >= 1
    with np.load(whole / "end.npz") as one, np.load(killed / "end.npz") as other:
        for name in one.files:
            assert one[name].tobytes() == other[name].tobytes()


def state(**changes: object) -> dict[str, object]:
    return {**fs.Loader(np.arange(10), 3).state_dict(), **changes}


POLICY = state()["policy"]
assert isinstance(POLICY, dict)


class Lying(int):
    """Says that it equals anything."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (None, "it must be a dict of n_samples, .*, not None"),
        ({}, "format: saved None, present 2"),
        ([], r"it must be a dict of n_samples, .*, not \[\]"),
        (state(more=1), "more: unknown"),
        (state(n_samples=9), "n_samples: saved 9, present 10"),
        (state(n_samples=Lying(9)), "n_samples: saved 9, present 10"),
        (state(n_samples=10.0), "n_samples: saved 10.0, present 10"),
        (state(order="hashed"), "order: saved 'hashed', present 'shuffled'"),
        (state(window=3), "window: saved 3, present None"),
        (state(position=10), "position: 10 is not below 10"),
        (state(epoch=-1), "epoch: must be a whole number from 0"),
        (state(epoch=2**53), r"epoch: must be a whole number from 0 to 2\^"),
        (state(epoch=float("nan")), "epoch: must be a whole number .*, not nan"),
        (state(epoch=True), "epoch: must be a whole number .*, not True"),
        (state(epoch="1"), "epoch: must be a whole number .*, not '1'"),
        (state(epoch=np.ma.masked_array([1], [True])), "epoch: must be a JSON value or an array"),
        (state(seed=1.5), "seed: must be a whole number .*, not 1.5"),
        (state(seed=2**63), "seed: must be a whole number from 0"),
        (state(seed=-1), "seed: must be a whole number from 0"),
        (state(samples=2**63 - 1, batches=1), r"samples: must be a whole number from 0 to 2\^"),
        (state(samples=5, batches=1), "samples: 5 are more than the 0 of its epochs"),
        (state(epoch=2, samples=20), "batches: 0 can't hold 20 samples"),
        (state(epoch=2, samples=20, batches=21), "batches: 21 can't hold 20 samples"),
        (state(batches=1), "batches: 1 can't hold 0 samples"),
        (state(begin=3), "begin: 3 is after epoch 0"),
        (state(begin=-1), "begin: must be a whole number from 0"),
        (state(begin=0.0), "begin: must be a whole number"),
        (state(format=1), "format: saved 1, present 2"),
        (state(format=None), "format: saved None, present 2"),
        (state(policy=None), "policy: must be a dict of typed, state, not None"),
        (state(policy={}), r"policy\.typed: not saved\n  policy\.state: not saved"),
        (state(policy={**POLICY, "more": 1}), r"policy\.more: unknown"),
        (state(policy={**POLICY, "typed": 3}), r"policy\.typed: must be text, not 3"),
        (state(policy={**POLICY, "state": {}}), r"policy\.state\.size: not saved"),
        (
            state(policy={**POLICY, "state": {**POLICY["state"], "size": -4}}),
            r"policy\.state\.size: must be",
        ),
        (
            state(policy={**POLICY, "state": {**POLICY["state"], "overflow": float("nan")}}),
            r"policy\.state\.overflow: must be",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused(saved: object, message: str) -> None:
    loader = fs.Loader(np.arange(10), 3)
    next(iter(loader))
    before = loader.state_dict()
    with pytest.raises(fs.StateError, match=message):
        loader.load_state_dict(saved)  # type: ignore[arg-type]
    assert loader.state_dict() == before
    assert [len(rows) for rows in loader] == [3, 3, 1]


def test_all_that_does_not_fit_is_named_at_once() -> None:
    wrong = state(n_samples=9, seed=-1, order="hashed", policy={**POLICY, "state": {}})
    names = ("n_samples: ", "order: ", "seed: must be", r"policy\.state\.size: not saved")
    with pytest.raises(fs.StateError, match=r"(.|\n)*".join(names)):
        fs.Loader(np.arange(10), 3).load_state_dict(wrong)


def test_a_policy_that_fails_consumes_nothing() -> None:
    sizes = iter([3, float("nan"), 4])
    loader = fs.Loader(np.arange(10), lambda clock: next(sizes), order="sequential")
    batches = iter(loader)
    assert next(batches).data.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="nan"):
        next(batches)
    assert next(iter(loader)).data.tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_a_source_that_fails_consumes_nothing(fails_at: int) -> None:
    class Rows:
        calls = 0

        def __len__(self) -> int:
            return 100_000

        def __getitem__(self, indices: np.ndarray) -> np.ndarray:
            self.calls += 1
            if self.calls == fails_at + 1:
                raise OSError("no disk")
            return np.zeros((len(indices), 100)) + indices[:, None]

    loader = fs.Loader(Rows(), 30_000, order="sequential")
    seen: list[int] = []
    while len(seen) < 100_000:
        try:
            for batch in loader:
                seen += batch.data[:, 0].astype(int).tolist()
        except OSError:
            continue
    assert seen == list(range(100_000))
