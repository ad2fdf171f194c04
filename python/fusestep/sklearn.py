"""scikit-learn's multi-layer perceptrons, trained by the optimizers of fusestep."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import sklearn
    from sklearn import neural_network
except ImportError as error:
    raise ImportError(
        "fusestep.sklearn needs scikit-learn: pip install scikit-learn", name="sklearn"
    ) from error

from .arguments import check_named
from .clock import Clock
from .optim import Adam, Optimizer

__all__ = ["MLPClassifier", "MLPRegressor"]

# What this relies on, none of it public: a fit stores its solver as _optimizer, and calls these.
_HOOKS = {"_optimizer", "update_params", "iteration_ends", "trigger_stopping"}
_fit = getattr(neural_network.MLPClassifier, "_fit_stochastic", None)
if not (inspect.isfunction(_fit) and set(_fit.__code__.co_names) >= _HOOKS):
    raise ImportError(
        f"fusestep.sklearn knows scikit-learn 1.1 to 1.9, whose networks call {sorted(_HOOKS)}; "
        f"those of version {sklearn.__version__} don't"
    )

_SETTING = "optimizer__"
# what scikit-learn's own solvers take, and what is in its place
_REPLACED = {
    "solver": "optimizer",
    "learning_rate": f"{_SETTING}lr, which may be a schedule",
    "learning_rate_init": f"{_SETTING}lr",
    "power_t": f"{_SETTING}lr, which may be a schedule",
    "momentum": f"{_SETTING}momentum",
    "nesterovs_momentum": f"{_SETTING}nesterov",
    "beta_1": f"{_SETTING}betas",
    "beta_2": f"{_SETTING}betas",
    "epsilon": f"{_SETTING}eps",
    "max_fun": "max_iter",
}


class _Steps:
    """What scikit-learn calls its optimizer: steps of fusestep on the arrays of a network.

    Pickled it holds a state; the arrays come with the next update.
    """

    def __init__(self, kind: type[Optimizer], settings: dict[str, Any]) -> None:
        if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
            raise TypeError(f"optimizer must be a class as fusestep.AdamW, not {kind!r}")
        self._kind = kind
        self._settings = settings
        self._clock = Clock(samples=0, epoch=0)
        self._state: dict[str, Any] | None = None
        self._optimizer: Optimizer | None = None
        self._params: list[Any] = []

    def update_params(self, params: list[Any], grads: list[Any]) -> None:
        """Updates weights and biases, a list with all of the weights first."""
        if self._optimizer is None or params is not self._params:
            self._optimizer = self._over(params)
            self._params = params
        # sample weights make gradients of float32 networks float64
        taken = [np.ascontiguousarray(g, p.dtype) for g, p in zip(grads, params, strict=True)]
        self._optimizer.step(_tree(taken), clock=self._clock)

    def iteration_ends(self, time_step: int) -> None:
        """Takes in the samples seen at the end of an epoch."""
        self._clock = Clock(samples=time_step, epoch=(self._clock.epoch or 0) + 1)

    def trigger_stopping(self, msg: str, verbose: bool) -> bool:
        """Whether to stop where nothing gets better: always."""
        if verbose:
            print(f"{msg} Stopping.")
        return True

    def _over(self, params: list[Any]) -> Optimizer:
        tree = _tree(params)
        if self._optimizer is not None:  # partial_fit, or other weights in their place
            self._optimizer.rebind(tree)
            return self._optimizer
        try:
            optimizer = self._kind(tree, **self._settings)
        except (TypeError, ValueError) as error:
            raise type(error)(f"optimizer: {error}") from None
        if self._state is not None:
            optimizer.load_state_dict(self._state)
        return optimizer

    def __getstate__(self) -> dict[str, Any]:
        state = self._state if self._optimizer is None else self._optimizer.state_dict()
        return {**vars(self), "_state": state, "_optimizer": None, "_params": []}


def _tree(arrays: list[Any]) -> dict[str, list[Any]]:
    layers = len(arrays) // 2
    return {"coefs": arrays[:layers], "intercepts": arrays[layers:]}


class _Fused:
    """What the networks have in common."""

    optimizer: type[Optimizer]

    @property
    def _optimizer(self) -> _Steps:
        return self._steps  # AttributeError before the first fit, as scikit-learn expects

    @_optimizer.setter
    def _optimizer(self, solver: Any) -> None:
        """Takes the place of the solver with which scikit-learn begins a fit."""
        settings = {name.removeprefix(_SETTING): v for name, v in self._settings().items()}
        self._steps = _Steps(self.optimizer, settings)

    def _settings(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name.startswith(_SETTING)}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings of the network and of its optimizer, by name.

        ``deep`` is scikit-learn's, and makes no difference here.
        """
        return {**super().get_params(deep), **self._settings()}  # type: ignore[misc]

    def set_params(self, **params: Any) -> Any:
        """Sets some of what the constructor takes, for the next ``fit``; returns the network."""
        settings = {name: params.pop(name) for name in [*params] if name.startswith(_SETTING)}
        super().set_params(**params)  # type: ignore[misc]
        vars(self).update(settings)
        return self


def _constructor(base: Any) -> Callable[..., None]:
    """That of a network of scikit-learn, with an optimizer in place of what its solvers take."""
    own, *inherited = inspect.signature(base.__init__).parameters.values()
    kept = [p.replace(kind=p.KEYWORD_ONLY) for p in inherited if p.name not in _REPLACED]
    chosen = inspect.Parameter("optimizer", own.KEYWORD_ONLY, default=Adam)
    known = [parameter.name for parameter in (*kept, chosen)]

    def __init__(self: Any, *, optimizer: type[Optimizer] = Adam, **given: Any) -> None:
        settings = {name: given.pop(name) for name in [*given] if name.startswith(_SETTING)}
        check_named(type(self).__name__, known, (), given, 0, needed=0, hints=_REPLACED)
        base.__init__(self, **given)
        self.optimizer = optimizer
        vars(self).update(settings)

    # where scikit-learn looks for the parameters of an estimator
    __init__.__signature__ = inspect.Signature([own, *kept, chosen])  # type: ignore[attr-defined]
    return __init__


class MLPClassifier(_Fused, neural_network.MLPClassifier):  # type: ignore[misc]
    """scikit-learn's ``MLPClassifier``, with any optimizer of fusestep in place of its solvers.

    Everything else is scikit-learn's: data, loss, ``partial_fit``, ``warm_start``, early stopping,
    ``clone``, pickling, grids.

    Args:
        hidden_layer_sizes, activation, alpha, batch_size, max_iter, shuffle, random_state, tol,
            verbose, warm_start, early_stopping, validation_fraction, n_iter_no_change: those of
            scikit-learn. ``alpha`` is a penalty on the weights, added to the loss and so to the
            gradients; a ``weight_decay`` of the optimizer comes on top.
        optimizer: a class of optimizers, `fusestep.Adam` by default.
        optimizer__...: its settings, as in ``optimizer__lr=0.01``, under names that grids know. By
            default its own. Parameters are "coefs/0", "coefs/1", ... and "intercepts/0", ...: give
            ``optimizer__groups=[{"match": "intercepts/*", "weight_decay": 0.0}]``.

    Schedules count steps; those by "epoch" or "samples" move once, at the end of each epoch.
    Those that follow the loss never see it. ``optimizer__eps_mode="hat"`` with Adam is what
    ``solver="adam"`` does. A pickle holds the optimizer's state, and goes on with the same bits.
    Predictions use the parameters that steps update, not averages of them.

    Raises:
        TypeError, ValueError: from ``fit``, for settings the optimizer does not take.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> import fusestep as fs
        >>> from fusestep.sklearn import MLPClassifier
        >>> model = MLPClassifier(optimizer=fs.AdamW, optimizer__lr=0.02, random_state=0)
        >>> x, y = load_iris(return_X_y=True)
        >>> model.fit(x, y).score(x, y)
        0.98
    """

    __init__ = _constructor(neural_network.MLPClassifier)


class MLPRegressor(_Fused, neural_network.MLPRegressor):  # type: ignore[misc]
    """scikit-learn's ``MLPRegressor``, with any optimizer of fusestep in place of its solvers.

    As `MLPClassifier`, and with ``loss`` where scikit-learn has it.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> from fusestep.sklearn import MLPRegressor
        >>> x = np.linspace(-1, 1, 200).reshape(-1, 1)
        >>> model = MLPRegressor(optimizer=fs.NAdam, optimizer__lr=0.02, random_state=0)
        >>> print(round(model.fit(x, x.ravel() ** 2).score(x, x.ravel() ** 2), 2))
        0.98
    """

    __init__ = _constructor(neural_network.MLPRegressor)
