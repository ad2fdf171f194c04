"""Hyper-parameter search with Optuna: a description of what is searched, and pruning."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Set
from functools import partial
from numbers import Number
from typing import Any, TypeAlias

import numpy as np

from ..arguments import check_finite, check_scalar, check_whole, nearest

# an entry that was read: what a trial suggests for it
Suggestion: TypeAlias = Callable[[Any], Any]

# the name of a range: whether it is of whole numbers, and whether their logarithm is uniform
_RANGES = {
    "uniform": (False, False),
    "log": (False, True),
    "int": (True, False),
    "log_int": (True, True),
}

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def suggest(trial: Any, space: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for a trial of Optuna, from a description of the space that is searched.

    ====================================  ==========================================================
    ``("uniform", 0.8, 0.99)``            a number from 0.8 to 0.99
    ``("log", 1e-4, 1e-1)``               a number whose logarithm is uniform
    ``("int", 0, 500)``                   a whole number, both ends included
    ``("log_int", 1, 1000)``              a whole number whose logarithm is uniform
    ``[16, 32, 64]``                      one of these; any of them may be an entry of this table
    ``partial(function, length=100)``     what the function gives for these arguments, each of which
                                          may be such an entry: `functools.partial` of any curve or
                                          policy of fusestep, of a class, or of a function of yours
    a dict, or a tuple                    each of its entries, at any depth
    anything else                         itself
    ====================================  ==========================================================

    The names in ``study.best_params`` are the paths of what was searched, as in "batch_size" or
    "optimizer/lr/peak". One of a list is there by its value or its name, and what is searched in it
    below that: "optimizer/lr" is "cosine", and then there is "optimizer/lr/cosine/start".

    Args:
        trial: of Optuna: the one an objective is called with; ``study.best_trial``, for the
            settings it had; or a dict with the form of ``study.best_params``, for those settings.
        space: a dict. All of it is checked before the first value is suggested.

    Returns:
        A new dict in the nesting of ``space``. What a function gives is made anew each time, so
        that whatever remembers its run (a `fusestep.control`, a batch policy) belongs to one trial.

    Raises:
        TypeError, ValueError: named by path. Nothing was suggested.
        ImportError: a dict as ``trial`` without Optuna: ``pip install "fusestep[tune]"``.

    Example:
        >>> from functools import partial
        >>> from fusestep import schedules, tune
        >>> space = {
        ...     "batch_size": [16, 32, 64],
        ...     "optimizer": {
        ...         "lr": partial(schedules.cosine, start=("log", 1e-4, 1e-1), length=1000),
        ...         "betas": (("uniform", 0.8, 0.95), 0.999),
        ...     },
        ... }
        >>> best = {"batch_size": 32, "optimizer/lr/start": 0.01, "optimizer/betas/0": 0.9}
        >>> tune.suggest(best, space)["optimizer"]
        {'lr': cosine(start=0.01, length=1000), 'betas': (0.9, 0.999)}
    """
    if not isinstance(space, Mapping):
        raise TypeError(f"space must be a dict, not {space!r}")
    suggestion = _read("", space)
    if isinstance(trial, Mapping):
        trial = _optuna().trial.FixedTrial(dict(trial))
    elif not hasattr(trial, "suggest_float"):
        raise TypeError(
            f"trial must be a trial of Optuna, or a dict as study.best_params, not {trial!r}"
        )
    settings: dict[str, Any] = suggestion(trial)
    return settings


def report(trial: Any, value: float, *, step: int) -> None:
    """Tells a trial of Optuna how it does, and ends it if that is too bad.

    Call it after every epoch, or after as many samples: trials with other batch sizes are compared
    at the same ``step``. The study's pruner decides. A NaN ends the trial in any case, as the worst
    there is: one that goes on and returns it counts as failed, and samplers learn nothing from it.

    Args:
        trial: the one that the objective is called with.
        value: what the study minimizes or maximizes, as it is now: a number, or an array of one.
        step: a whole number, at least 0: how many epochs there were before.

    Raises:
        optuna.TrialPruned: for Optuna, which catches it.

    Example::

        def objective(trial):
            settings = tune.suggest(trial, space)
            loader = fs.Loader(data, settings.pop("batch_size"), epochs=1)
            params = initial_params()
            opt = fs.AdamW(params, **settings)
            for epoch in range(20):
                for batch in loader:
                    opt.step(gradients(params, batch), clock=batch.clock)
                loss = validation_loss(params)
                tune.report(trial, loss, step=epoch)
            return loss

        optuna.create_study(storage="sqlite:///study.db").optimize(objective, n_trials=100)

    ``examples/search_digits.py`` is such a program, with several processes and what becomes of
    trials whose process was killed.
    """
    number, at = check_scalar("value", value), check_whole("step", step, 0)
    trial.report(number, at)
    if math.isnan(number):
        raise _optuna().TrialPruned(f"the value is NaN at step {at}")
    if trial.should_prune():
        raise _optuna().TrialPruned(f"pruned at step {at}")


def _read(path: str, entry: Any) -> Suggestion:
    """Checks an entry with all below it; returns what suggests it."""
    if isinstance(entry, Mapping):
        read = {key: _read(_key(path, key), value) for key, value in entry.items()}
        return lambda trial: {key: suggestion(trial) for key, suggestion in read.items()}
    if isinstance(entry, partial):
        return _call(path, entry)
    if isinstance(entry, list):
        return _one_of(path, entry)
    if type(entry) is tuple:  # a named tuple is a value
        if _is_range(path, entry):
            return _range(path, *entry)
        return _sequence(path, entry)
    if isinstance(entry, (Set, range)):
        raise TypeError(f"{path}: choices must be a list, not {entry!r}")
    return lambda trial: entry


def _below(path: str, name: object) -> str:
    return f"{path}/{name}" if path else str(name)


def _key(path: str, key: Any) -> str:
    if not isinstance(key, str) or not key or "/" in key:
        where = path or "space"
        raise ValueError(f"{where}: keys must be names without a slash, not {key!r}")
    return _below(path, key)


def _sequence(path: str, entries: tuple[Any, ...]) -> Suggestion:
    read = [_read(_below(path, i), entry) for i, entry in enumerate(entries)]
    return lambda trial: tuple(entry(trial) for entry in read)


def _call(path: str, call: partial[Any]) -> Suggestion:
    """What a function gives for arguments that are suggested."""
    names = []
    try:
        signature = inspect.signature(call.func)
        signature.bind(*call.args, **call.keywords)
        names = [name for name, p in signature.parameters.items() if p.kind in _BY_POSITION]
    except ValueError:  # of built-in functions that tell no signature
        pass
    except TypeError as error:
        raise TypeError(f"{path}: {_name(call.func)}: {error}") from None
    names += map(str, range(len(names), len(call.args)))
    args = [_read(_below(path, n), value) for n, value in zip(names, call.args, strict=False)]
    keywords = _read(path, call.keywords)
    return lambda trial: call.func(*(read(trial) for read in args), **keywords(trial))


def _is_range(path: str, entry: tuple[Any, ...]) -> bool:
    """Whether a tuple is the range of a number; other tuples are values."""
    if not entry or not isinstance(entry[0], str):
        return False
    if entry[0] in _RANGES:
        return True
    if any(isinstance(value, Number) for value in entry[1:]):
        raise ValueError(f"{path}: there is no range {entry[0]!r}{nearest(entry[0], _RANGES)}")
    return False


def _range(path: str, kind: str, *bounds: Any) -> Suggestion:
    whole, log = _RANGES[kind]
    if len(bounds) != 2:
        raise ValueError(f"{path}: a range is ({kind!r}, low, high), not {(kind, *bounds)!r}")
    names = f"{path}: low", f"{path}: high"
    low, high = (
        check_whole(name, bound, -(2**63)) if whole else check_finite(name, bound)
        for name, bound in zip(names, bounds, strict=True)
    )
    if low > high:
        raise ValueError(f"{path}: low is above high: write ({kind!r}, {high!r}, {low!r})")
    if low == high:
        raise ValueError(f"{path}: a range of {low!r} alone: write {low!r} in its place")
    if log and low <= 0:
        linear = "int" if whole else "uniform"
        raise ValueError(
            f"{path}: low of a logarithmic range must be greater than 0, not {low!r}: write a "
            f"number that is as good as 0, or {linear!r} for {kind!r}"
        )
    if whole:
        return lambda trial: trial.suggest_int(path, low, high, log=log)
    return lambda trial: trial.suggest_float(path, low, high, log=log)


def _one_of(path: str, entries: list[Any]) -> Suggestion:
    if len(entries) < 2:
        raise ValueError(
            f"{path}: a list has two choices or more, not {entries!r}: write a value itself, and a "
            "tuple for a sequence"
        )
    read: dict[Any, Suggestion] = {}
    for entry in entries:
        name = _choice(path, entry)
        if name in read:
            raise ValueError(
                f"{path}: two choices are called {name!r}: give one of them as a function with a "
                "name of its own"
            )
        read[name] = _read(_below(path, name), entry)
    return lambda trial: read[trial.suggest_categorical(path, list(read))](trial)


def _choice(path: str, entry: Any) -> bool | int | float | str | None:
    """What stands for a choice in the study: its value, or its name."""
    if isinstance(entry, np.generic):
        entry = entry.item()
    if entry is None or isinstance(entry, (bool, int, float, str)):
        if entry != entry:
            raise ValueError(f"{path}: a choice can't be NaN")
        return entry
    if type(entry) is tuple and _is_range(path, entry):
        return str(entry[0])
    name = _name(entry.func if isinstance(entry, partial) else entry)
    if " at 0x" in name:
        raise TypeError(
            f"{path}: {name} has no name that another process would know: write "
            "partial(function) with a function that makes it"
        )
    return name


def _name(value: Any) -> str:
    return getattr(value, "__name__", None) or repr(value)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            "hyper-parameter search needs Optuna: pip install 'fusestep[tune]'", name="optuna"
        ) from error
    return optuna
