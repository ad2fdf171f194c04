"""Settings as users read and assign them: whose they are, what is refused, all or nothing."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from emulation.interrupts import Interrupt
from fusestep import control, expression, scaling, schedules

LINE = schedules.linear(1.0, 0.0, length=10)
GRADS = {"u": np.ones(2), "v": np.ones(2)}


def model() -> dict[str, Any]:
    return {"u": np.zeros(2), "v": np.zeros(2)}


def eighth(t: float) -> float:
    return 0.125


def all_settings(opt: fs.Optimizer) -> Any:
    """Whatever of settings a user can see, or a step can use."""
    limits = (opt.clip_norm, opt.clip_value, opt.nonfinite, opt.schedules)
    groups = [(group, group.lr, group.weight_decay, group.schedules) for group in opt.groups]
    read = opt._plan.settings.tolist()
    return repr((opt, opt.lr, opt.weight_decay, limits, groups, read))


# whose a value is


def test_a_value_for_all_groups_leaves_a_group_with_its_own() -> None:
    params = model()
    opt = fs.SGD(params, lr=1.0, groups=[{"match": "v", "lr": 5.0}])
    opt.lr = 2.0
    opt.step(GRADS)
    assert (params["u"][0], params["v"][0]) == (-2.0, -5.0)
    assert (opt.lr, opt.groups[0].lr, opt.groups[1].lr) == (2.0, 2.0, 5.0)
    opt.groups[1].lr = 3.0
    opt.step(GRADS)
    assert (params["u"][0], params["v"][0]) == (-4.0, -8.0)


@pytest.mark.parametrize("own", [0, 1])
def test_the_value_of_an_optimizer_is_that_of_groups_without_their_own(own: int) -> None:
    groups: list[dict[str, Any]] = [{"params": np.zeros(2)}, {"params": np.zeros(2)}]
    groups[own]["lr"] = 5.0
    opt = fs.SGD(groups, lr=LINE)
    assert (opt.lr, opt.groups[own].lr, opt.groups[1 - own].lr) == (1.0, 5.0, 1.0)
    opt.step([np.ones(2), np.ones(2)])
    opt.step([np.ones(2), np.ones(2)])
    assert (opt.lr, opt.groups[own].lr) == (0.9, 5.0)


def test_a_lone_array_takes_no_list_of_gradients() -> None:
    w = np.zeros(1)
    opt = fs.SGD(w, lr=1.0)
    for grads in ([np.ones(1)], (np.ones(1),)):
        with pytest.raises(
            TypeError, match=r"^params: gradient must be a numpy.ndarray, not (list|tuple)"
        ):
            opt.step(grads)
    with pytest.raises(
        TypeError, match=r"^grads: must be a list or tuple as in params, not ndarray"
    ):
        fs.SGD([w]).step(np.ones(1))
    assert w[0] == 0.0


# before the first step


BEFORE: list[tuple[Any, float | None]] = [
    (LINE, 1.0),
    (LINE.by("epoch") * 0.5, 0.5),
    (schedules.linear(0.25, 0.0, length=10, by="samples"), 0.25),
    (lambda t: 0.5 / (t + 1), 0.5),
    (expression.function(lambda t: 0.25 + t, time=expression.epoch), 0.25),
    (scaling.sqrt(LINE, base_batch=32), None),
    (expression.function(lambda n: 0.5, time=expression.batch_size), None),
    (LINE * control.Plateau(), 1.0),
    (lambda t: math.nan, None),
]


@pytest.mark.parametrize(("rate", "expected"), BEFORE)
def test_a_setting_before_the_first_step_is_what_that_will_use_or_none(
    rate: Any, expected: float | None
) -> None:
    opt = fs.AdamW(
        model(), lr=rate, weight_decay=rate, clip_norm=rate, groups=[{"match": "v", "eps": rate}]
    )
    seen = (opt.lr, opt.weight_decay, opt.clip_norm, opt.groups[1].lr, opt.groups[1].eps)
    assert seen == (expected,) * 5
    pair = fs.Adam(model(), betas=(0.5, rate * 0.5 if not callable(rate) else 0.25))
    assert pair.betas[0] == 0.5
    assert "nan" not in repr(opt)


def test_a_setting_is_what_the_last_step_used_and_after_a_change_what_the_next_will() -> None:
    opt = fs.SGD(model(), lr=LINE)
    for _ in range(3):
        opt.step(GRADS)
    assert opt.lr == 0.8
    opt.lr = LINE * 2
    assert opt.lr == 2 * 0.7
    opt.lr = LINE.by("epoch")  # which only the next step is told
    assert opt.lr is None
    opt.lr = lambda t: float(t)
    assert opt.lr == 3.0
    opt.step(GRADS, clock=fs.Clock(step=7))
    assert opt.lr == 7.0


# a number in place of a schedule


def halved(opt: Any, name: str) -> None:
    value = getattr(opt, name)
    setattr(opt, name, tuple(v / 2 for v in value) if isinstance(value, tuple) else value / 2)


SCHEDULED: list[tuple[str, dict[str, Any], Callable[[Any], Any], str]] = [
    ("lr", {"lr": LINE}, lambda opt: opt, "opt"),
    ("lr", {"lr": lambda t: 0.5}, lambda opt: opt, "opt"),
    ("lr", {"lr": LINE}, lambda opt: opt.groups[1], r"opt\.groups\[1\]"),
    (
        "eps",
        {"groups": [{"match": "v", "eps": LINE}]},
        lambda opt: opt.groups[1],
        r"opt\.groups\[1\]",
    ),
    ("weight_decay", {"weight_decay": LINE * 0.1}, lambda opt: opt, "opt"),
    ("betas", {"betas": (LINE * 0.5, 0.75)}, lambda opt: opt, "opt"),
    ("betas", {"betas": (0.75, LINE * 0.5)}, lambda opt: opt.groups[1], r"opt\.groups\[1\]"),
    ("clip_norm", {"clip_norm": LINE}, lambda opt: opt, "opt"),
    ("clip_value", {"clip_value": LINE}, lambda opt: opt, "opt"),
]


@pytest.mark.parametrize(("name", "options", "holder", "typed"), SCHEDULED)
def test_a_number_does_not_take_the_place_of_a_schedule_without_a_word(
    name: str, options: dict[str, Any], holder: Callable[[Any], Any], typed: str
) -> None:
    opt = fs.Adam(model(), **{"groups": [{"match": "v"}], **options})
    opt.step(GRADS)
    before = all_settings(opt)
    with pytest.raises(fs.StateError, match=f"^{name}.* follows a schedule") as caught:
        halved(holder(opt), name)
    assert all_settings(opt) == before
    assert re.search(rf"{typed}\.{name} = .*{typed}\.schedules\[", str(caught.value))


def test_both_ways_out_of_a_schedule_are_as_the_error_tells_them() -> None:
    opt = fs.Adam(
        model(), lr=LINE, betas=(0.5, LINE), clip_norm=LINE, groups=[{"match": "v", "eps": LINE}]
    )
    for holder, name in [
        ("opt", "lr"),
        ("opt", "betas"),
        ("opt.groups[1]", "eps"),
        ("opt", "clip_norm"),
    ]:
        names = {"opt": opt, "fusestep": fs}
        with pytest.raises(fs.StateError) as caught:
            halved(eval(holder, names), name)
        _, ways = str(caught.value).split("nothing has changed. ")
        first, second = ways.removesuffix(" ends it").split(" goes on with another one, ")
        present = eval(f"{holder}.{name}", names)
        exec(first, names)
        after = eval(f"{holder}.{name}", names)
        if name == "betas":
            assert after == (0.25, present[1] * 0.5)
        else:
            assert after == present * 0.5
        exec(second, names)
        assert (
            schedules.constant(0.5)
            in np.ravel(eval(f"{holder}.schedules[{name!r}]", names)).tolist()
        )
    opt.clip_norm = None
    assert opt.clip_norm is None
    opt.clip_norm = 2.0
    assert opt.clip_norm == 2.0


def test_numbers_and_expressions_replace_numbers_and_expressions_expressions() -> None:
    opt = fs.SGD(model(), lr=0.5)
    opt.lr *= 0.5
    assert opt.lr == 0.25
    opt.lr = LINE
    opt.lr = LINE * 0.5
    opt.lr = opt.schedules["lr"] * 0.5
    assert opt.lr == 0.25
    opt.lr = lambda t: 3.0
    assert opt.lr == 3.0


# all or nothing


ASSIGNED: list[tuple[str, Callable[[Any], None]]] = [
    ("lr", lambda opt: setattr(opt, "lr", 0.25)),
    ("lr of a schedule", lambda opt: setattr(opt, "lr", LINE * 0.5)),
    ("lr of a function", lambda opt: setattr(opt, "lr", eighth)),
    ("betas", lambda opt: setattr(opt, "betas", (0.25, LINE * 0.5))),
    ("own lr", lambda opt: setattr(opt.groups[1], "lr", 0.125)),
    ("own schedule", lambda opt: setattr(opt.groups[1], "eps", LINE)),
    ("clip_norm", lambda opt: setattr(opt, "clip_norm", 0.5)),
    ("clip_norm of a schedule", lambda opt: setattr(opt, "clip_norm", LINE * 3)),
    ("clip_value", lambda opt: setattr(opt, "clip_value", None)),
    ("nonfinite", lambda opt: setattr(opt, "nonfinite", "skip")),
    ("control", lambda opt: setattr(opt, "weight_decay", 0.1 * control.Plateau())),
    ("group", lambda opt: opt.add_group({"w": np.zeros(1)}, lr=LINE)),
    ("arrays", lambda opt: opt.rebind({"u": np.ones(2), "v": np.ones(2)})),
]


@pytest.mark.parametrize(
    "assign", [entry[1] for entry in ASSIGNED], ids=[entry[0] for entry in ASSIGNED]
)
def test_an_interrupt_leaves_what_was_or_what_is_assigned(assign: Callable[[Any], None]) -> None:
    def build() -> Any:
        options: dict[str, Any] = {"lr": 1.0, "clip_value": 2.0, "weight_decay": LINE * 0}
        opt = fs.Adam(model(), **options, groups=[{"match": "v", "lr": 0.5}])
        opt.step(GRADS)
        return opt

    def look(opt: Any) -> Any:
        return all_settings(opt), [p.tolist() for p in opt.params.values()], list(opt.state)

    assign(build())  # what is cached takes fewer lines from now on
    opt = build()
    before = look(opt)
    counting = Interrupt()
    assert not counting.during(lambda: assign(opt))
    count = counting.lines
    after = look(opt)
    assert before != after
    # some of very many, and all of the last, where things change
    for line in sorted({*range(0, count, 1 + count // 40), *range(max(0, count - 25), count)}):
        opt = build()
        assert Interrupt(line).during(lambda opt=opt: assign(opt))  # type: ignore[misc]
        assert look(opt) in (before, after), line
        opt.step({path: np.ones_like(array) for path, array in opt.params.items()})


@pytest.mark.parametrize(
    "assign", [entry[1] for entry in ASSIGNED], ids=[entry[0] for entry in ASSIGNED]
)
def test_nothing_is_assigned_while_another_thread_has_the_optimizer(assign: Any) -> None:
    opt = fs.Adam(model(), lr=1.0, clip_value=2.0, groups=[{"match": "v", "lr": 0.5}])
    opt.step(GRADS)
    before = all_settings(opt)
    caught: list[BaseException] = []

    def other() -> None:
        try:
            assign(opt)
        except BaseException as error:
            caught.append(error)

    with opt._plan.held():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert all_settings(opt) == before
    assert [type(error) for error in caught] == [fs.StateError]
    assign(opt)
    assert all_settings(opt) != before or opt.params["u"][0] == 1.0


REFUSED: list[tuple[type[fs.Optimizer], str, Any]] = [
    (fs.SGD, "momentum", 0.9),
    (fs.SGD, "momentum", LINE),
    (fs.SGD, "lr", -1.0),
    (fs.SGD, "lr", "fast"),
    (fs.SGD, "dampening", math.nan),
    (fs.Adam, "betas", (0.9, 1.0)),
    (fs.Adam, "betas", (0.9, 0.9, 0.9)),
    (fs.Adam, "betas", [0.5]),
    (fs.Adam, "eps_mode", "hat"),
    (fs.AdamW, "amsgrad", True),
    (fs.AdaBelief, "eps_root", -1e-16),
    (fs.AdamW, "clip_norm", 0),
    (fs.AdamW, "clip_value", [1.0]),
    (fs.AdamW, "nonfinite", "ignore"),
]


@pytest.mark.parametrize(("optimizer", "name", "value"), REFUSED)
def test_a_refused_value_leaves_everything_a_step_reads(
    optimizer: type[fs.Optimizer], name: str, value: Any
) -> None:
    opt: Any = optimizer(model(), groups=[{"match": "v"}])
    before = all_settings(opt)
    holders = [opt] if name in ("clip_norm", "clip_value", "nonfinite") else [opt, opt.groups[1]]
    for holder in holders:
        with pytest.raises((ValueError, TypeError, fs.StateError), match=name):
            setattr(holder, name, value)
        assert all_settings(opt) == before


@pytest.mark.parametrize(
    ("build", "name", "value", "message"),
    [
        (
            lambda p, **own: fs.AdamW(p, decay_by="max_lr", max_lr=0.1, **own),
            "max_lr",
            None,
            "decay_by='max_lr' needs max_lr",
        ),
        (
            lambda p, **own: fs.SGD(p, lr=0.1, momentum=0.5, nesterov=True, **own),
            "momentum",
            0.0,
            "nesterov needs momentum above 0",
        ),
    ],
    ids=["max_lr", "momentum"],
)
def test_settings_go_together_after_they_are_assigned_too(
    build: Callable[..., Any], name: str, value: Any, message: str
) -> None:
    opt = build(model(), groups=[{"match": "v", "lr": 0.25}])
    before = all_settings(opt)
    for holder in (opt, opt.groups[1]):
        with pytest.raises(ValueError, match=message):
            setattr(holder, name, value)
    assert all_settings(opt) == before
