"""Trial steps leave no trace: every bit of parameters, state, settings and loader is as before."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from emulation.interrupts import Interrupt
from fusestep import tune
from tables.models import plain

STEPS = 12
SCANS: dict[str, Callable[..., Any]] = {
    "lr_range": lambda *args: tune.lr_range(*args, steps=STEPS),
    "noise_scale_scan": lambda *args: tune.noise_scale_scan(*args, steps=STEPS, parts=2),
}
CLASSES = [
    getattr(fs, name)
    for name in fs.__all__
    if inspect.isclass(getattr(fs, name)) and issubclass(getattr(fs, name), fs.Optimizer)
]
CLASSES.remove(fs.Optimizer)
DATA = {"x": np.random.default_rng(0).normal(size=(50, 4))}


class Model:
    """Parameters of both dtypes, with the gradients of a fit to the mean of the data."""

    def __init__(self, xp: Any = np) -> None:
        self.xp = xp
        values = {"w": np.arange(12.0).reshape(3, 4), "b": np.ones(4, np.float32)}
        self.params = {name: xp.asarray(value) for name, value in values.items()}
        self.calls = 0

    def loss_and_grads(self, batch: Any) -> tuple[float, Any]:
        self.calls += 1
        w, b = (np.asarray(self.host(p)) for p in self.params.values())
        error = w + b - self.host(batch["x"]).mean(axis=0)
        grads = {"w": error, "b": error.sum(axis=0).astype(np.float32)}
        on_device = {name: self.xp.asarray(grad) for name, grad in grads.items()}
        return 0.5 * float((error**2).sum()), on_device

    def host(self, array: Any) -> Any:
        return array if isinstance(array, np.ndarray) else array.get()


def everything(opt: fs.Optimizer, model: Model, loader: Any = None) -> Any:
    """All that later steps depend on, and what users see."""
    state = [
        opt.state_dict(),
        {name: model.host(p) for name, p in model.params.items()},
        {name: model.host(p) for name, p in opt.copies.items()},
        opt._plan.settings,
    ]
    if loader is not None:
        state.append(loader.state_dict())
    return plain(state)


def trained(opt: fs.Optimizer, model: Model, loader: fs.Loader, steps: int = 3) -> None:
    for batch, _ in zip(loader, range(steps), strict=False):
        loss, grads = model.loss_and_grads(batch)
        opt.step(grads, clock=batch.clock, loss=loss)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("begun", [False, True])
def test_every_optimizer_is_as_before(kind: Any, scan: str, begun: bool) -> None:
    model = Model()
    copy = np.zeros(4)
    own = "ScheduleFree" in kind.__name__  # they have averages of their own
    opt = kind(model.params, ema=None if own else 0.9, copies={"b": copy}, clip_norm=5.0)
    loader = fs.Loader(DATA, 8, seed=1)
    if begun:
        trained(opt, model, loader)
    before = everything(opt, model, loader)
    averaged, lr = plain(opt.averaged), opt.lr
    SCANS[scan](opt, model.loss_and_grads, loader)
    assert everything(opt, model, loader) == before
    assert (plain(opt.averaged), opt.lr) == (averaged, lr)
    assert opt.copies["b"] is copy


@pytest.mark.parametrize("scan", SCANS)
def test_the_next_steps_are_those_of_a_run_without_it(scan: str) -> None:
    runs = []
    for tries in (False, True):
        model = Model()
        lr = fs.schedules.cosine(start=0.1, length=50) * fs.control.Plateau(0.5, patience=1)
        decay = fs.schedules.linear(start=0.0, end=0.1, length=20)
        opt = fs.AdamW(model.params, lr=lr, weight_decay=decay, ema=0.9)
        size = fs.batch_sizes.doubling(4, every=20, by="samples", maximum=16, dwell=5)
        loader = fs.Loader(DATA, size, seed=1, epochs=4, tail="carry")
        for step, batch in enumerate(loader):
            if tries and step in (0, 5):
                SCANS[scan](opt, model.loss_and_grads, loader)
            loss, grads = model.loss_and_grads(batch)
            opt.step(grads, clock=batch.clock, loss=loss)
        runs.append([everything(opt, model, loader), loader.clock])
    assert runs[0] == runs[1]


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("source", ["array", "lazy"])
def test_a_loop_goes_on_where_it_was(scan: str, prefetch: int, source: str) -> None:
    class Lazy:
        def __len__(self) -> int:
            return 50

        def __getitem__(self, rows: Any) -> Any:
            return DATA["x"][rows]

    data = DATA if source == "array" else {"x": Lazy()}
    alone = fs.Loader(data, 7, seed=2, epochs=3, prefetch=prefetch)
    expected = [(batch["x"].tobytes(), batch.clock) for batch in alone]
    model = Model()
    opt = fs.SGD(model.params, lr=0.01)
    loader = fs.Loader(data, 7, seed=2, epochs=3, prefetch=prefetch)
    seen = []
    for batch in loader:
        kept = batch["x"].tobytes()
        if len(seen) in (0, 3, 7, 23):
            SCANS[scan](opt, model.loss_and_grads, loader)
        assert batch["x"].tobytes() == kept
        seen.append((kept, batch.clock))
    assert seen == expected
    assert len(list(loader)) == len(expected)


@pytest.mark.parametrize("scan", SCANS)
def test_accumulated_gradients_wait_for_their_step(scan: str) -> None:
    model = Model()
    opt = fs.Adam(model.params)
    loader = fs.Loader(DATA, 8, seed=1)
    for batch, _ in zip(loader, range(2), strict=False):
        opt.accumulate(model.loss_and_grads(batch)[1], samples=len(batch))
    before = everything(opt, model, loader)
    SCANS[scan](opt, model.loss_and_grads, loader)
    assert opt.accumulated == 16
    assert everything(opt, model, loader) == before


@pytest.mark.parametrize("scan", SCANS)
def test_settings_are_the_same_objects(scan: str) -> None:
    model = Model()
    lr = fs.expression.function(lambda step: 0.1 / (1 + step))  # has no name to be saved by
    opt = fs.SGD(model.params, lr=lr, nonfinite="skip", groups=[{"match": "b", "momentum": 0.5}])
    SCANS[scan](opt, model.loss_and_grads, [DATA])
    assert opt.schedules["lr"] is lr
    assert opt.groups[1].schedules["lr"] is lr
    assert opt.nonfinite == "skip"
    opt.lr = lr * 0.5
    assert opt.lr == 0.05
    assert opt.groups[1].lr == 0.05  # it still has none of its own


def test_what_settings_follow_remembers_what_it_did() -> None:
    model = Model()
    plateau = fs.control.Plateau(0.5, patience=0)
    statistics = fs.gradients.GradientStatistics()
    scale = fs.gradients.AdaScale(statistics, base_batch=4)
    opt = fs.SGD(model.params, lr=fs.scaling.adascale(0.01, scale), weight_decay=0.1 * plateau)
    loader = fs.Loader(DATA, fs.batch_sizes.noise_scale(statistics, start=4, maximum=16), seed=1)
    for batch in loader:
        fs.gradients.split_step(opt, model.loss_and_grads, batch, statistics=statistics)
    things = [plateau, statistics, scale, loader.policy]
    before = plain([thing.state_dict() for thing in things])
    shown = scale.factor(fs.Clock(batch_size=8))
    tune.lr_range(opt, model.loss_and_grads, loader, steps=STEPS)
    assert plain([thing.state_dict() for thing in things]) == before
    assert scale.factor(fs.Clock(batch_size=8)) == shown


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("error", [ValueError, MemoryError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("call", [1, 2, STEPS - 1])
def test_everything_is_as_before_when_the_function_raises(
    scan: str, error: type[BaseException], call: int
) -> None:
    model = Model()
    opt = fs.AdamW(model.params, lr=fs.schedules.cosine(start=0.1, length=50), ema=0.9)
    loader = fs.Loader(DATA, 8, seed=1)
    trained(opt, model, loader)
    opt.accumulate(model.loss_and_grads(DATA)[1], samples=2)
    before = everything(opt, model, loader)
    model.calls = 0

    def loss_and_grads(batch: Any) -> tuple[float, Any]:
        if model.calls == call:
            raise error("here")
        return model.loss_and_grads(batch)

    with pytest.raises(error, match="here"):
        SCANS[scan](opt, loss_and_grads, loader)
    assert everything(opt, model, loader) == before


@pytest.mark.unsanitized
@pytest.mark.parametrize("scan", SCANS)
def test_an_interrupt_between_any_two_lines_leaves_everything_as_before(scan: str) -> None:
    model = Model()
    opt = fs.AdamW(model.params, lr=fs.schedules.cosine(start=0.1, length=50))
    loader = fs.Loader(DATA, 8, seed=1)
    trained(opt, model, loader, steps=1)

    def call() -> None:
        SCANS[scan](opt, model.loss_and_grads, loader)

    before = everything(opt, model, loader)
    whole = Interrupt()
    assert not whole.during(call)
    # all lines of the beginning and the end, and some of the steps between
    lines = {*range(150), *range(150, whole.lines, 41), *range(whole.lines - 60, whole.lines)}
    for at in sorted(lines):
        interrupt = Interrupt(at)
        interrupt.during(call)
        assert everything(opt, model, loader) == before, interrupt.where


@pytest.mark.unsanitized
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that sends signals")
# a signal in a callback that nobody waits for is swallowed there
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_signals_at_random_moments_leave_everything_as_before() -> None:
    model = Model()
    opt = fs.AdamW(model.params, lr=fs.schedules.cosine(start=0.1, length=50))
    loader = fs.Loader(DATA, 8, seed=1)
    trained(opt, model, loader)
    before = everything(opt, model, loader)
    random, interrupted = np.random.default_rng(0), 0
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for scan in list(SCANS.values()) * 100:
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 2e-3))
                    scan(opt, model.loss_and_grads, loader)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            assert everything(opt, model, loader) == before
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert interrupted > 0


def test_another_loader_is_loaded_back() -> None:
    class Batches:
        """A loader with a state of its own."""

        def __init__(self) -> None:
            self.at = 3

        def __iter__(self) -> Any:
            while self.at < 8:
                self.at += 1
                yield {"x": DATA["x"][self.at :]}
            self.at = 0

        def state_dict(self) -> dict[str, int]:
            return {"at": self.at}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.at = state["at"]

    for scan in SCANS.values():
        model, loader = Model(), Batches()
        opt = fs.SGD(model.params, lr=0.01)
        assert scan(opt, model.loss_and_grads, loader).rounds == 2
        assert loader.at == 3


def test_a_loader_at_its_end_begins_anew_and_is_then_at_its_end() -> None:
    model = Model()
    opt = fs.SGD(model.params, lr=0.01)
    loader = fs.Loader(DATA, 8, seed=1)
    assert len(list(loader)) == 7
    before = loader.state_dict()
    tune.lr_range(opt, model.loss_and_grads, loader, steps=STEPS)
    assert loader.state_dict() == before
    resumed = fs.Loader(DATA, 8, seed=1)
    resumed.load_state_dict(before)
    tune.lr_range(opt, model.loss_and_grads, resumed, steps=STEPS)
    assert resumed.state_dict() == before


def test_a_bar_of_the_loader_shows_the_loop_alone(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    model = Model()
    opt = fs.SGD(model.params, lr=0.01)
    loader = fs.Loader(DATA, 8, seed=1, progress=True)
    tune.lr_range(opt, model.loss_and_grads, loader, steps=STEPS)
    assert capsys.readouterr().err == ""
    assert loader._progress


@pytest.mark.parametrize("scan", SCANS)
def test_averages_in_place_are_refused(scan: str) -> None:
    model = Model()
    opt = fs.SGD(model.params, lr=0.01, ema=0.5)
    trained(opt, model, fs.Loader(DATA, 8))
    with opt.averaged_in_place():
        before = everything(opt, model)
        with pytest.raises(fs.StateError, match=r"leave averaged_in_place\(\) first"):
            SCANS[scan](opt, model.loss_and_grads, [DATA])
        assert everything(opt, model) == before
    assert opt.lr == 0.01


@pytest.mark.parametrize("scan", SCANS)
def test_arrays_on_a_gpu_are_as_before(cupy: Any, scan: str) -> None:
    model = Model(cupy)
    copy = cupy.zeros(4, np.float64)
    lr = fs.schedules.cosine(start=0.1, length=50)
    opt = fs.AdamW(model.params, lr=lr, ema=0.9, copies={"b": copy}, nonfinite="skip")
    loader = fs.Loader(DATA, 8, seed=1, device="cuda")
    trained(opt, model, loader)
    opt.accumulate(model.loss_and_grads({"x": DATA["x"]})[1], samples=2)
    before = everything(opt, model, loader)
    found = SCANS[scan](opt, model.loss_and_grads, loader)
    assert everything(opt, model, loader) == before
    host = Model()
    twin = fs.AdamW(host.params, lr=lr, ema=0.9, nonfinite="skip")
    on_host = fs.Loader(DATA, 8, seed=1)
    trained(twin, host, on_host)
    expected = SCANS[scan](twin, host.loss_and_grads, on_host)
    assert found.losses.tobytes() == expected.losses.tobytes()
