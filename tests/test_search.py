"""Hyper-parameter search: descriptions, pruning, and a study whose process is killed."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import batch_sizes, schedules, tune

optuna = pytest.importorskip("optuna")
optuna.logging.set_verbosity(optuna.logging.WARNING)

RUN = Path(__file__).parent / "runs" / "search.py"
RATE = ("log", 1e-4, 1e-1)
GROUPS = ({"match": "b", "weight_decay": 0.0},)
SPACE: dict[str, Any] = {
    "batch_size": [16, 32, 64],
    "kind": [fs.AdamW, fs.Lion],
    "loader": {"seed": ("int", 0, 3), "epochs": ("log_int", 1, 50), "tail": "short"},
    "lr": [
        partial(schedules.cosine, start=RATE, length=100),
        partial(schedules.exponential, RATE, rate=("uniform", 0.5, 1)),
        schedules.constant(0.1),
    ],
    "betas": (("uniform", 0.8, 0.95), 0.999),
    "clip_norm": [None, 1.0, ("uniform", 2.0, 3.0)],
    "groups": GROUPS,
}


def study_of(space: Any, count: int) -> tuple[Any, list[Any]]:
    seen: list[Any] = []

    def objective(trial: Any) -> float:
        seen.append(tune.suggest(trial, space))
        return float(trial.number)

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=count)
    return study, seen


def test_every_form_gives_what_it_says_under_names_that_are_paths() -> None:
    study, seen = study_of(SPACE, 40)
    names = set()
    for trial, settings in zip(study.trials, seen, strict=True):
        names |= {*trial.params}
        assert list(settings) == list(SPACE)
        assert settings["batch_size"] == trial.params["batch_size"]
        assert settings["kind"] is getattr(fs, trial.params["kind"])
        loader = settings["loader"]
        assert type(loader["seed"]) is type(loader["epochs"]) is int
        assert (loader["seed"] in range(4), loader["tail"]) == (True, "short")
        assert 1 <= loader["epochs"] <= 50
        assert settings["betas"] == (trial.params["betas/0"], 0.999)
        assert 0.8 <= settings["betas"][0] <= 0.95
        assert settings["groups"] == GROUPS
        clip = trial.params["clip_norm"]
        assert settings["clip_norm"] == trial.params.get("clip_norm/uniform", clip)
        kind = trial.params["lr"]
        start = trial.params.get(f"lr/{kind}/start")
        curve = {
            "cosine": lambda start=start: schedules.cosine(start=start, length=100),
            "exponential": lambda start=start, trial=trial: schedules.exponential(
                start=start, rate=trial.params["lr/exponential/rate"]
            ),
        }.get(kind, lambda: schedules.constant(0.1))()
        assert settings["lr"] == curve
        assert (start is None) == (kind == "constant(value=0.1)")
    assert names == {
        *("batch_size", "kind", "loader/seed", "loader/epochs", "lr", "lr/cosine/start"),
        *("lr/exponential/start", "lr/exponential/rate", "betas/0", "clip_norm"),
        "clip_norm/uniform",
    }
    scales = {name: kind for trial in study.trials for name, kind in trial.distributions.items()}
    assert {name for name, kind in scales.items() if getattr(kind, "log", False)} == {
        *("loader/epochs", "lr/cosine/start", "lr/exponential/start"),
    }
    rates = [t.params[n] for t in study.trials for n in t.params if n.endswith("start")]
    assert 1e-4 <= min(rates) < 1e-3 < 1e-2 < max(rates) <= 1e-1
    assert {settings["clip_norm"] for settings in seen} >= {None, 1.0}


def test_the_best_trial_and_its_parameters_give_its_settings_again() -> None:
    study, seen = study_of(SPACE, 6)
    assert tune.suggest(study.best_trial, SPACE) == seen[0]
    stored = json.loads(json.dumps(study.best_params))
    assert tune.suggest(stored, SPACE) == seen[0]
    with pytest.raises(ValueError, match="batch_size"):
        tune.suggest({}, SPACE)


def test_settings_go_straight_into_an_optimizer_and_a_loader() -> None:
    space = {
        "batch_size": partial(batch_sizes.polynomial, start=("int", 1, 4), end=8, length=20),
        "lr": partial(schedules.warmup_cosine, peak=RATE, warmup=("int", 1, 5), total=20),
        "weight_decay": np.float64(0.1),
        "groups": GROUPS,
    }
    for settings in study_of(space, 3)[1]:
        loader = fs.Loader(np.arange(20), settings.pop("batch_size"), epochs=1)
        params = {"w": np.ones(3), "b": np.ones(2)}
        opt = fs.AdamW(params, **settings)
        for batch in loader:
            opt.step({"w": np.ones(3), "b": np.ones(2)}, clock=batch.clock)
        assert opt.steps_applied > 2
        assert [group.weight_decay for group in opt.groups] == [0.1, 0.0]


def test_what_remembers_its_run_is_made_for_each_trial() -> None:
    def rate(start: float) -> fs.Expression:
        return schedules.constant(start) * fs.control.Plateau(factor=0.5)

    curves = [settings["lr"] for settings in study_of({"lr": partial(rate, RATE)}, 2)[1]]
    for curve in curves:
        fs.SGD(np.ones(1), lr=curve).step(np.ones(1), loss=1.0)


def test_values_that_only_look_like_a_description_are_left_alone() -> None:
    array, clock = np.arange(3), fs.Clock(step=1)
    space = {"pair": (0.9, 0.999), "names": ("*/b", "*/g"), "x": array, "t": clock, "n": ()}
    settings = study_of(space, 1)[1][0]
    assert settings["x"] is array
    assert settings["t"] is clock
    assert (settings["pair"], settings["names"], settings["n"]) == (
        (0.9, 0.999),
        ("*/b", "*/g"),
        (),
    )


def quadratic(a: float, *more: float, b: float = 0.0) -> tuple[float, ...]:
    return (a, *more, b)


def test_arguments_without_names_are_called_by_those_of_the_function() -> None:
    near, far = ("uniform", 0.0, 1.0), ("uniform", 5.0, 6.0)
    space = {"q": partial(quadratic, near, far, b=near), "d": partial(dict, low=near)}
    study, seen = study_of(space, 1)
    values = study.best_params
    assert {*values} == {"q/a", "q/1", "q/b", "d/low"}
    assert seen[0]["q"] == (values["q/a"], values["q/1"], values["q/b"])
    assert seen[0]["d"] == {"low": values["d/low"]}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (("log", 0, 0.1), r"lr: low of a logarithmic range must be greater than 0, not 0\.0: "),
        (("log_int", 0, 9), "lr: low of a logarithmic range .* or 'int' for 'log_int'"),
        (("log", 0.1, 1e-4), r"lr: low is above high: write \('log', 0.0001, 0.1\)"),
        (("uniform", 1, 1), r"lr: a range of 1\.0 alone: write 1\.0 in its place"),
        (("uniform", 0), r"lr: a range is \('uniform', low, high\), not \('uniform', 0\)"),
        (("log", 1e-4, math.inf), "lr: high must be finite, not inf"),
        (("log", math.nan, 1), "lr: low must be finite, not nan"),
        (("log", "a", 1), "lr: low must be a number, not 'a'"),
        (("int", 0, 1.5), "lr: high must be a whole number, not 1.5"),
        (("logg", 1, 2), "lr: there is no range 'logg'; did you mean 'log'?"),
        ([], r"lr: a list has two choices or more, not \[\]"),
        ([{"match": "b"}], "lr: a list has two choices or more, .* a tuple for a sequence"),
        ([1, 1.0], "lr: two choices are called 1.0"),
        ([True, 1], "lr: two choices are called 1"),
        ([math.nan, 1], "lr: a choice can't be NaN"),
        ([partial(quadratic, 1), partial(quadratic, 2)], "lr: two choices are called 'quadratic'"),
        ([object(), 1], "lr: <object object at 0x.* has no name that another process would know"),
        ({16, 32}, "lr: choices must be a list, not {"),
        (range(3), r"lr: choices must be a list, not range\(0, 3\)"),
        (partial(schedules.cosine, start=RATE), "lr: cosine: missing a required argument: 'leng"),
        (partial(quadratic, a=1, c=2), "lr: quadratic: got an unexpected keyword argument 'c'"),
        (partial(quadratic, a=("log", 2, 1)), "lr/a: low is above high"),
        ([1, partial(quadratic, a=("log", 2, 1))], "lr/quadratic/a: low is above high"),
        ((0.9, ("log", 2, 1)), "lr/1: low is above high"),
        ({"a/b": 1}, "lr: keys must be names without a slash, not 'a/b'"),
        ({0: 1}, "lr: keys must be names without a slash, not 0"),
        ({"": 1}, "lr: keys must be names without a slash, not ''"),
    ],
)
def test_what_is_wrong_is_named_by_path_before_anything_is_suggested(
    entry: Any, message: str
) -> None:
    asked: list[Any] = []

    class Trial:
        def suggest_float(self, *args: Any, **given: Any) -> None:
            asked.append(args)

    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        tune.suggest(Trial(), {"first": RATE, "lr": entry})
    assert asked == []


def test_a_trial_and_a_space_are_asked_for() -> None:
    trial = optuna.trial.FixedTrial({})
    with pytest.raises(TypeError, match=r"^trial must be a trial of Optuna, or a dict"):
        tune.suggest(None, {})
    with pytest.raises(TypeError, match=r"^space must be a dict, not \('log', 1, 2\)"):
        tune.suggest(trial, ("log", 1, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^space: keys must be names"):
        tune.suggest(trial, {"a/b": 1})


def reported(values: list[Any], direction: str = "minimize", **options: Any) -> Any:
    """The last of three good trials and one that reports these values."""
    pruner = optuna.pruners.MedianPruner(n_startup_trials=1, **options)
    study = optuna.create_study(direction=direction, pruner=pruner)

    def objective(trial: Any) -> float:
        series = [1.0, 1.0, 1.0] if trial.number < 3 else values
        for step, value in enumerate(series):
            tune.report(trial, value, step=step)
        return float(series[-1])

    study.optimize(objective, n_trials=4)
    return study.trials[-1]


def test_a_trial_that_falls_behind_is_pruned() -> None:
    assert reported([2.0, 0.5, 0.5]).intermediate_values == {0: 2.0}
    assert reported([2.0]).state.name == "PRUNED"
    assert reported([0.5], "maximize").state.name == "PRUNED"
    late = reported([2.0, 0.5, 0.5], n_warmup_steps=1)
    assert (late.state.name, late.value) == ("COMPLETE", 0.5)


def test_values_may_be_arrays_of_one_element() -> None:
    trial = reported([np.float32(0.5), np.array([0.25]), np.array(0.125)])
    assert trial.intermediate_values == {0: 0.5, 1: 0.25, 2: 0.125}


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_nan_ends_a_trial_as_the_worst_there_is(direction: str) -> None:
    good = 0.0 if direction == "minimize" else 2.0  # the pruner alone would let it go on
    trial = reported([good, np.float32("nan"), good], direction)
    assert trial.state.name == "PRUNED"
    assert list(trial.intermediate_values) == [0, 1]
    assert math.isnan(trial.intermediate_values[1])


@pytest.mark.parametrize("seed", range(3))
def test_a_sampler_learns_from_a_nan_and_stays_away(seed: int) -> None:
    def diverged(told: bool) -> int:
        """How many of the last 20 trials."""
        rates: list[float] = []

        def objective(trial: Any) -> float:
            lr = tune.suggest(trial, {"lr": ("log", 1e-4, 1e2)})["lr"]
            rates.append(lr)
            value = math.nan if lr > 0.1 else abs(math.log10(lr) + 2)
            if told:
                tune.report(trial, value, step=0)
            return value

        sampler = optuna.samplers.TPESampler(seed=seed)
        study = optuna.create_study(sampler=sampler, pruner=optuna.pruners.NopPruner())
        study.optimize(objective, n_trials=60)
        return sum(lr > 0.1 for lr in rates[-20:])

    assert diverged(told=True) <= 3
    assert diverged(told=False) == 20  # so that there is something to prevent


@pytest.mark.parametrize(
    ("value", "step", "message"),
    [
        ("x", 0, "value must be a number, not 'x'"),
        (np.ones(2), 0, "value must be a number"),
        (1.0, -1, "step must be at least 0, not -1"),
        (1.0, 0.5, "step must be a whole number, not 0.5"),
    ],
)
def test_a_report_is_checked(value: Any, step: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        tune.report(optuna.create_study().ask(), value, step=step)


WITHOUT_OPTUNA = """
import sys
sys.modules["optuna"] = None
from fusestep import tune
try:
    tune.suggest({"lr": 0.1}, {"lr": ("log", 0.01, 1)})
except ImportError as error:
    print(error)
"""


def test_optuna_is_imported_when_it_is_needed_and_missed_by_name() -> None:
    command = [sys.executable, "-c", WITHOUT_OPTUNA]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == ("hyper-parameter search needs Optuna: pip install 'fusestep[tune]'\n"), (
        done.stderr
    )


def run(study: Path, part: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUN), str(study), part]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.unsanitized
def test_a_study_whose_process_was_killed_goes_on_and_loses_nothing(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    killed = run(tmp_path / "study.db", "killed")
    assert killed.returncode == -getattr(signal, "SIGKILL", -signal.SIGTERM), killed.stderr
    resumed = run(tmp_path / "study.db", "resumed")
    assert resumed.returncode == 0, resumed.stderr
    found = json.loads(resumed.stdout)
    first, dead, again, last = found["trials"]
    assert [trial["state"] for trial in (first, dead)] == ["COMPLETE", "FAIL"]
    assert {trial["state"] for trial in (again, last)} <= {"COMPLETE", "PRUNED"}
    assert (again["retries"], again["params"]) == (1, dead["params"])
    assert len(dead["reports"]) == 4
    # the trial that was done again has the bits of one that was never stopped
    assert again["reports"] == found["alone"][: len(again["reports"])]
    assert dead["reports"] == again["reports"][:4]
