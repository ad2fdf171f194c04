"""Searches a schedule and a batch size for handwritten digits, in two processes.

    pip install "fusestep[tune]" scikit-learn
    python examples/search_digits.py [TRIALS]       # and again, whatever has stopped it

The study lives in digits.db. A trial whose process was killed is done again, once its heartbeat has
been missing for twice the interval and another trial begins.
"""

import multiprocessing
import sys
import warnings
from functools import partial

import numpy as np
import optuna
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

import fusestep as fs
from fusestep import schedules, tune

EPOCHS, PEAK = 20, ("log", 1e-4, 1.0)
SPACE = {
    "batch_size": [16, 32, 64, 128],
    "lr": [
        partial(schedules.cosine, start=PEAK, length=EPOCHS, by="epoch"),
        partial(schedules.one_cycle, peak=PEAK, total=EPOCHS, by="epoch"),
    ],
    "weight_decay": ("log", 1e-4, 1e-1),
}
ENDED = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED


def loss_and_grads(params, x, y):
    logits = x @ params["w"] + params["b"]
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    delta = (np.exp(log_p) - np.eye(10)[y]) / len(y)
    return -log_p[np.arange(len(y)), y].mean(), {"w": x.T @ delta, "b": delta.sum(axis=0)}


def objective(trial):
    x, y = load_digits(return_X_y=True)
    settings = tune.suggest(trial, SPACE)
    loader = fs.Loader({"x": x[360:] / 16, "y": y[360:]}, settings.pop("batch_size"), epochs=1)
    params = {"w": np.zeros((64, 10)), "b": np.zeros(10)}
    opt = fs.AdamW(params, **settings)
    for epoch in range(EPOCHS):
        for batch in loader:
            _, grads = loss_and_grads(params, batch["x"], batch["y"])
            opt.step(grads, clock=batch.clock)
        loss, _ = loss_and_grads(params, x[:360] / 16, y[:360])
        tune.report(trial, loss, step=epoch)  # ends a trial that is not worth going on
    return loss


def work(trials, path="digits.db", heartbeat=10):
    """What each process does: trials, until so many have ended in all of them together."""
    threadpool_limits(1)  # NumPy's threads and those of fusestep
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    retry = optuna.storages.RetryHeartbeatStaleTrialCallback()
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{path}", heartbeat_interval=heartbeat, heartbeat_stale_trial_callback=retry
    )
    study = optuna.create_study(storage=storage, study_name="digits", load_if_exists=True)
    study.pruner = optuna.pruners.MedianPruner(n_warmup_steps=5)
    if len(study.get_trials(states=ENDED)) < trials:
        study.optimize(objective, callbacks=[optuna.study.MaxTrialsCallback(trials, ENDED)])
    return study


if __name__ == "__main__":
    study, trials = work(0), int([*sys.argv, 40][1])
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=work, args=(trials,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(f"loss {study.best_value:.4f} with {tune.suggest(study.best_trial, SPACE)}")
