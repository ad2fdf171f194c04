"""fusestep.sklearn: scikit-learn's networks with optimizers of fusestep, and all that they do."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import schedules

pytest.importorskip("sklearn")
from joblib.externals.loky import get_reusable_executor
from sklearn import neural_network
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import check_estimator

from fusestep.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
X, Y = load_digits(return_X_y=True)
X = X[:400] / 16
Y = Y[:400]
NETWORKS = [MLPClassifier, MLPRegressor]
SMALL: dict[str, Any] = {"hidden_layer_sizes": (16, 8), "max_iter": 4, "random_state": 0}


def target(kind: type) -> Any:
    return Y if kind is MLPClassifier else np.stack([Y / 9.0, np.cos(Y)], axis=1)


def arrays(model: Any) -> list[Any]:
    return [*model.coefs_, *model.intercepts_]


def same(a: Any, b: Any) -> bool:
    pairs = zip(arrays(a), arrays(b), strict=True)
    return all(p.dtype == q.dtype and (p == q).all() for p, q in pairs)


def partly_fitted(kind: type, times: int, **settings: Any) -> Any:
    model, y = small(kind, **settings), target(kind)
    model.partial_fit(X, y, **({"classes": range(10)} if kind is MLPClassifier else {}))
    for _ in range(times - 1):
        model.partial_fit(X, y)
    return model


def small(kind: type = MLPClassifier, **settings: Any) -> Any:
    return kind(**{**SMALL, "optimizer": fs.AdamW, "optimizer__lr": 0.01, **settings})


@pytest.mark.parametrize("kind", NETWORKS)
def test_adam_is_the_adam_of_scikit_learn(kind: type) -> None:
    ours = kind(**SMALL, optimizer__eps_mode="hat").fit(X, target(kind))
    theirs = getattr(neural_network, kind.__name__)(**SMALL).fit(X, target(kind))
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-12)
    for a, b in zip(
        ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    assert ours.t_ == theirs.t_


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_is_that_of_the_optimizer(dtype: Any) -> None:
    """One batch, against the same optimizer on the same gradients."""
    model = small(max_iter=1, batch_size=len(X), shuffle=False, optimizer__weight_decay=0.5)
    start = small(max_iter=1, batch_size=len(X), shuffle=False, optimizer__lr=0.0)
    before = start.fit(X.astype(dtype), Y)
    params = {"coefs": before.coefs_, "intercepts": before.intercepts_}
    opt = fs.AdamW(params, lr=0.01, weight_decay=0.5)
    seen: list[Any] = []
    step = fs.AdamW.step

    def watched(self: Any, grads: Any, **given: Any) -> Any:
        seen.append(copy.deepcopy(grads))
        return step(self, grads, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fs.AdamW, "step", watched)
        model.fit(X.astype(dtype), Y)
    (grads,) = seen
    opt.step(grads)
    assert model.coefs_[0].dtype == dtype
    assert same(model, before)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", sorted({*fs.optim.__all__} & {*fs.__all__} - {"Optimizer"}))
def test_every_optimizer_trains(kind: type, name: str) -> None:
    lr = {"Rprop": {}, "Adadelta": {"lr": 1.0}, "LARS": {"lr": 0.1}}.get(name, {"lr": 0.01})
    settings = {f"optimizer__{key}": value for key, value in lr.items()}
    model = kind(**{**SMALL, "max_iter": 10}, optimizer=getattr(fs, name), **settings)
    model.fit(X, target(kind))
    assert model.loss_curve_[-1] < model.loss_curve_[0]


def test_groups_know_weights_and_biases() -> None:
    groups = [{"match": "intercepts/*", "lr": 0.0}, {"match": "coefs/0", "lr": 0.0}]
    model, start = small(optimizer__groups=groups).fit(X, Y), small(optimizer__lr=0.0).fit(X, Y)
    pairs = zip(arrays(model), arrays(start), strict=True)
    moved = [not (a == b).all() for a, b in pairs]
    assert moved == [False, True, True, False, False, False]


@pytest.mark.parametrize("kind", NETWORKS)
def test_an_estimator_is_cloned_and_shown_as_any(kind: type) -> None:
    lr = schedules.cosine(start=0.01, length=20)
    model = small(kind, optimizer__lr=lr, optimizer__betas=(0.8, 0.99))
    copied = clone(model)
    assert copied.get_params() == model.get_params()
    assert not hasattr(clone(model.fit(X, target(kind))), "coefs_")
    assert same(copied.fit(X, target(kind)), model)
    for part in ("max_iter=4", "AdamW", "optimizer__lr=cosine(start=0.01, length=20)"):
        assert part in repr(model)
    assert "alpha" not in repr(model)
    assert "optimizer__betas" in model._repr_html_()
    assert isinstance(model, getattr(neural_network, kind.__name__))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_finds_an_estimator_as_it_should_be(kind: type) -> None:
    check_estimator(kind(max_iter=20))


def test_settings_are_got_and_set_by_name() -> None:
    model = small()
    params = model.get_params()
    assert (params["optimizer"], params["optimizer__lr"]) == (fs.AdamW, 0.01)
    theirs = {"solver", "learning_rate_init", "beta_1", "momentum"}
    assert not theirs & {*params}
    assert model.set_params(alpha=0.0, optimizer=fs.Lion, optimizer__lr=1e-4) is model
    new = model.get_params()
    assert (new["alpha"], new["optimizer"], new["optimizer__lr"]) == (0.0, fs.Lion, 1e-4)
    model.set_params(optimizer__weight_decay=0.1)
    assert model.get_params()["optimizer__weight_decay"] == 0.1
    with pytest.raises(ValueError, match="'learning_rate_init'"):
        model.set_params(learning_rate_init=0.1, optimizer__lr=1.0)
    assert model.get_params()["optimizer__lr"] == 1e-4


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("lr", [0.01, schedules.cosine(start=0.01, length=30), "by epoch"])
def test_a_pickle_goes_on_with_the_same_bits(kind: type, lr: Any) -> None:
    if lr == "by epoch":
        lr = schedules.cosine(start=0.01, length=10, by="epoch")
    model = partly_fitted(kind, 3, optimizer__lr=lr)
    pickled, copied = pickle.loads(pickle.dumps(model)), copy.deepcopy(model)
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(model))))
    assert same(pickled, model)
    others = [pickled, copied, again]
    for network in (model, *others):
        network.partial_fit(X, target(kind)).partial_fit(X, target(kind))
    never = partly_fitted(kind, 5, optimizer__lr=lr)
    assert [same(other, model) for other in (*others, never)] == [True] * 4


def test_a_pickle_goes_on_in_another_process_with_the_same_bits() -> None:
    model = small().fit(X, Y)
    code = """
import pickle, sys
model, x, y = pickle.load(sys.stdin.buffer)
pickle.dump(model.partial_fit(x, y), sys.stdout.buffer)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, input=pickle.dumps((model, X, Y)), capture_output=True, check=True, timeout=60
    )
    assert same(pickle.loads(done.stdout), model.partial_fit(X, Y))


def test_partial_fit_keeps_the_state_and_fit_begins_anew() -> None:
    model = small().fit(X, Y)
    first = [array.copy() for array in model.coefs_]
    model.partial_fit(X, Y)
    assert not (model.coefs_[0] == first[0]).all()
    model.fit(X, Y)
    assert all((a == b).all() for a, b in zip(model.coefs_, first, strict=True))


def test_a_warm_start_keeps_the_weights_alone() -> None:
    warm = small(warm_start=True, shuffle=False).fit(X, Y)
    weights = [[a.copy() for a in arrays] for arrays in (warm.coefs_, warm.intercepts_)]
    warm.fit(X, Y)
    other = small(warm_start=True, shuffle=False, max_iter=1).fit(X, Y)
    other.coefs_, other.intercepts_ = weights
    other.set_params(max_iter=4).fit(X, Y)
    assert same(warm, other)


@pytest.mark.parametrize("kind", NETWORKS)
def test_early_stopping_is_that_of_scikit_learn(kind: type) -> None:
    settings = {**SMALL, "max_iter": 300, "early_stopping": True, "n_iter_no_change": 3}
    ours = kind(**settings, optimizer__eps_mode="hat").fit(X, target(kind))
    theirs = getattr(neural_network, kind.__name__)(**settings).fit(X, target(kind))
    assert (ours.n_iter_, ours.n_iter_ < 300) == (theirs.n_iter_, True)
    np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_, rtol=1e-9)


def test_steps_go_on_with_weights_that_took_the_place_of_others() -> None:
    model, other = partly_fitted(MLPClassifier, 2), partly_fitted(MLPClassifier, 2)
    other.coefs_ = [array.copy() for array in other.coefs_]
    other.intercepts_ = [array.copy() for array in other.intercepts_]
    assert same(model.partial_fit(X, Y), other.partial_fit(X, Y))


def test_training_ends_with_a_word_where_nothing_improves(capsys: Any) -> None:
    model = small(max_iter=50, optimizer__lr=0.0, n_iter_no_change=2, verbose=True).fit(X, Y)
    assert model.n_iter_ == 4
    assert capsys.readouterr().out.endswith("for 2 consecutive epochs. Stopping.\n")


@pytest.mark.unsanitized
def test_a_grid_is_searched_in_two_processes() -> None:
    grid = {
        "optimizer__lr": [0.0, schedules.cosine(start=0.02, length=4, by="epoch")],
        "optimizer": [fs.AdamW, fs.NAdam],
    }
    try:
        search = GridSearchCV(small(), grid, cv=2, n_jobs=2).fit(X, Y)
    finally:
        get_reusable_executor().shutdown()  # processes that would wait for more to do
    assert search.best_params_["optimizer__lr"] == grid["optimizer__lr"][1]
    alone = GridSearchCV(small(), grid, cv=2).fit(X, Y)
    scores = [found.cv_results_["mean_test_score"].tolist() for found in (search, alone)]
    assert scores[0] == scores[1]
    assert same(search.best_estimator_, alone.best_estimator_)


def test_schedules_by_epoch_and_samples_move_at_the_end_of_each_epoch() -> None:
    rates: list[float] = []
    step = fs.SGD.step

    def watched(self: Any, grads: Any, **given: Any) -> Any:
        info = step(self, grads, **given)
        rates.append(info.lr)
        return info

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fs.SGD, "step", watched)
        for by, length in (("epoch", 4), ("samples", 1600)):
            lr = schedules.linear(start=0.4, end=0.0, length=length, by=by)
            small(optimizer=fs.SGD, optimizer__lr=lr, batch_size=200).fit(X, Y)
    np.testing.assert_allclose(rates, [0.4, 0.4, 0.3, 0.3, 0.2, 0.2, 0.1, 0.1] * 2, rtol=1e-15)


@pytest.mark.parametrize("kind", NETWORKS)
def test_sparse_rows_float32_and_weights_of_samples_are_taken(kind: type) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    y = target(kind)
    dense = small(kind).fit(X, y)
    rows = small(kind).fit(sparse.csr_matrix(X), y)
    np.testing.assert_allclose(rows.coefs_[0], dense.coefs_[0], atol=1e-10)
    single = small(kind).fit(X.astype("f4"), y)
    assert {a.dtype.name for a in single.coefs_ + single.intercepts_} == {"float32"}
    if "sample_weight" in single.fit.__code__.co_varnames:  # of scikit-learn 1.7
        weighted = small(kind).fit(X.astype("f4"), y, sample_weight=np.full(len(X), 2.0))
        assert {a.dtype.name for a in weighted.coefs_ + weighted.intercepts_} == {"float32"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"solver": "sgd"}, "MLPClassifier has no argument 'solver': use optimizer$"),
        ({"learning_rate_init": 0.1}, "'learning_rate_init': use optimizer__lr$"),
        ({"learning_rate": "adaptive"}, "'learning_rate': use optimizer__lr, which may be a sch"),
        ({"max_iters": 3}, "MLPClassifier has no argument 'max_iters'; did you mean 'max_iter'?"),
        ({"optimiser": fs.Adam}, "did you mean 'optimizer'?"),
    ],
)
def test_arguments_that_have_another_name_here_are_refused_with_it(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        MLPClassifier(**arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adam"}, "optimizer must be a class as fusestep.AdamW, not 'adam'"),
        ({"optimizer": fs.AdamW(np.ones(1))}, "optimizer must be a class as fusestep.AdamW, not A"),
        ({"optimizer__lr": -1.0}, "optimizer: lr must be finite and at least 0, not -1"),
        ({"optimizer__betta": 1.0}, "optimizer: AdamW has no argument 'betta'; did you mean 'bet"),
    ],
)
def test_settings_are_checked_by_the_fit(settings: dict[str, Any], message: str) -> None:
    model = small(**settings)
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        model.fit(X, Y)


OTHER = """
from sklearn import neural_network
def _fit_stochastic(self, *args):
    self._solver = None
neural_network.MLPClassifier._fit_stochastic = _fit_stochastic
try:
    import fusestep.sklearn
except ImportError as error:
    print(error)
"""
WITHOUT = """
import sys
import fusestep
assert not any(name.partition(".")[0] == "sklearn" for name in sys.modules)
sys.modules["sklearn"] = None
try:
    import fusestep.sklearn
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (OTHER, "fusestep.sklearn knows scikit-learn 1."),
        (WITHOUT, "fusestep.sklearn needs scikit-learn: pip install scikit-learn\n"),
    ],
)
def test_a_scikit_learn_that_is_absent_or_other_is_named(code: str, message: str) -> None:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(message), done.stderr
