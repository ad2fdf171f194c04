"""The search of the example, whose process kills itself in a trial, or goes on where one did.

python search.py STUDY killed
python search.py STUDY resumed
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import optuna

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import search_digits

HEARTBEAT = 1  # seconds; a trial is given up after twice that
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # on Windows both end a process at once
report = search_digits.tune.report


def report_and_die(trial: Any, value: float, *, step: int) -> None:
    report(trial, value, step=step)
    if (trial.number, step) == (1, 3):
        os.kill(os.getpid(), KILL)


def main(path: str, part: str) -> None:
    if part == "killed":
        search_digits.tune.report = report_and_die
        search_digits.work(3, path, HEARTBEAT)
    time.sleep(4 * HEARTBEAT)  # times in SQLite are whole seconds
    study = search_digits.work(3, path, HEARTBEAT)
    retried = optuna.storages.RetryHeartbeatStaleTrialCallback.retried_trial_number
    trials = [
        {
            "state": trial.state.name,
            "params": trial.params,
            "reports": list(trial.intermediate_values.values()),
            "retries": retried(trial),
        }
        for trial in study.trials
    ]
    alone: list[float] = []
    search_digits.tune.report = lambda trial, value, step: alone.append(value)
    search_digits.objective(study.trials[1])
    json.dump({"trials": trials, "alone": alone}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
