"""Saved state: what it holds, what it is of, and what stays beside it."""

from __future__ import annotations

import json
import math
import threading
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import control, schedules
from tables.edited_states import MEMORY, build, put
from tables.models import plain


@pytest.mark.parametrize("name", ["m", "v"])
def test_arrays_of_the_optimizer_itself_are_refused_in_a_state(name: str) -> None:
    _, opt = build()
    state = opt.state_dict()
    before = plain(opt.state_dict())
    live = opt.state["b"]
    state["parameters"]["b"]["state"] = {
        "m": np.ones((2, 3)),
        "v": np.ones((2, 3)),
        name: live["m"],
    }
    with pytest.raises(
        fs.StateError, match=rf"^.*\n  params\['b'\] {name}: is memory that loading"
    ):
        opt.load_state_dict(state)
    assert plain(opt.state_dict()) == before


def test_arrays_that_are_not_contiguous_or_mapped_from_a_file_are_copied(tmp_path: Any) -> None:
    w = np.ones((2, 3))
    opt = fs.SGD(w, momentum=0.5)
    state = opt.state_dict()
    values = np.arange(12.0).reshape(3, 4).T[::2]
    np.save(tmp_path / "m.npy", values)
    for array in (values, np.load(tmp_path / "m.npy", mmap_mode="r")):
        opt.reset()
        state["parameters"][""]["state"]["momentum"] = array
        opt.load_state_dict(state)
        assert (opt.state[""]["momentum"] == values).all()


def test_a_state_is_strict_json_beside_its_arrays_and_loads_from_it() -> None:
    def double(step: int) -> float:
        return 2.0 * step

    def build() -> fs.AdamW:
        lr = 0.5 * control.Plateau() * fs.expression.function(double)
        betas = (0.9, schedules.constant(0.5))
        return fs.AdamW(np.ones(3), lr=lr, betas=betas, clip_norm=math.inf, clip_value=math.inf)

    opt = build()
    opt.step(np.ones(3), loss=1.0)
    for gradient in (np.full(3, 1e200), np.full(3, math.nan)):
        opt.accumulate(gradient, 2)
        state = opt.state_dict()
        arrays = [state["parameters"][""]["state"], state["accumulated"]["gradients"]]
        state["parameters"][""]["state"] = state["accumulated"]["gradients"] = None
        again = json.loads(json.dumps(state, allow_nan=False))
        assert again == state
        again["parameters"][""]["state"], again["accumulated"]["gradients"] = arrays
        other = build()
        other.load_state_dict(again)
        assert plain(other.state_dict()) == plain(opt.state_dict())
        assert (other.clip_norm, other.clip_value) == (math.inf, math.inf)


@pytest.mark.parametrize(
    ("saved", "present", "name"),
    [
        (fs.AdamW, fs.Adam, "class"),
        (fs.Adam, fs.AdamW, "class"),
        (lambda w: fs.SGD(w, decoupled_weight_decay=True), fs.SGD, "decoupled_weight_decay"),
        (
            lambda w: fs.SGD(w, momentum=0.5, nesterov=True),
            lambda w: fs.SGD(w, momentum=0.5),
            "nes",
        ),
        (lambda w: fs.Adam(w, bias_correction=False), fs.Adam, "bias_correction"),
        (lambda w: fs.Adam(w, eps_mode="hat"), fs.Adam, "eps_mode"),
        (
            lambda w: fs.AdaBelief(w, decoupled_weight_decay=True),
            fs.AdaBelief,
            "decoupled_weight_decay",
        ),
        (
            lambda w: fs.SGD(w, groups=[{"match": "*", "maximize": True}]),
            lambda w: fs.SGD(w, groups=[{"match": "*"}]),
            "groups[1] maximize",
        ),
    ],
)
def test_a_state_of_other_arithmetic_is_refused(saved: Any, present: Any, name: str) -> None:
    opt = present({"w": np.ones(2)})
    before = plain(opt.state_dict())
    with pytest.raises(fs.StateError) as caught:
        opt.load_state_dict(saved({"w": np.ones(2)}).state_dict(), keep=("weight_decay",))
    assert f"\n  {name}" in str(caught.value)
    assert plain(opt.state_dict()) == before


def test_a_class_that_a_user_derives_has_the_states_of_the_one_it_derives_from() -> None:
    class Mine(fs.AdamW):
        """Other defaults, the same arithmetic."""

    state = Mine(np.ones(2), lr=0.25).state_dict()
    assert state["class"] == "AdamW"
    opt = fs.AdamW(np.ones(2))
    opt.load_state_dict(state)
    assert opt.lr == 0.25
    with pytest.raises(fs.StateError, match="class: saved 'AdamW', present 'Adam'"):
        fs.Adam(np.ones(2)).load_state_dict(state)


def test_a_python_function_is_saved_by_its_name_and_the_present_one_stays() -> None:
    def rate(step: int) -> float:
        return 0.5 / (step + 1)

    def slow(step: int) -> float:
        return 0.25

    opt = fs.SGD(np.ones(2), lr=rate)
    opt.step(np.ones(2))
    state = json.loads(json.dumps({**opt.state_dict(), "parameters": None}))
    state["parameters"] = opt.state_dict()["parameters"]
    again = fs.SGD(np.ones(2), lr=rate)
    again.load_state_dict(state)
    assert again.lr == again.step(np.ones(2)).lr == 0.25
    other = fs.SGD(np.ones(2), lr=slow)
    with pytest.raises(fs.StateError) as caught:
        other.load_state_dict(state)
    for text in ("lr: ", ".rate'", ".slow'", "keep=('lr',) keeps the present one"):
        assert text in str(caught.value)
    other.load_state_dict(state, keep=("lr",))
    assert (other.lr, other.steps_applied) == (0.25, 1)


def test_keep_keeps_what_controls_remember_and_the_saved_ones_need_not_fit() -> None:
    def build(lr: Any) -> fs.SGD:
        return fs.SGD(np.ones(2), lr=lr, weight_decay=0.5 * control.LossBackoff())

    first = build(control.ReduceThenGrow())
    first.step(np.ones(2), loss=2.0)
    first.step(np.ones(2), loss=4.0)
    plateau = control.Plateau(factor=0.5, patience=0)
    opt = build(0.5 * plateau)
    opt.step(np.ones(2), loss=1.0)
    opt.step(np.ones(2), loss=1.0)
    remembered = plateau.state_dict()
    state = first.state_dict()
    for memory in (state["control"]["lr"], "damaged", []):
        opt.load_state_dict(
            {**state, "control": {**state["control"], "lr": list(memory)}}, keep=("lr",)
        )
        assert plateau.state_dict() == remembered
        assert opt.lr == 0.25
        assert opt.state_dict()["control"]["weight_decay"] == state["control"]["weight_decay"]


def test_a_control_that_two_settings_share_is_kept_if_one_of_them_is() -> None:
    def build() -> tuple[control.Plateau, fs.SGD]:
        plateau = control.Plateau(factor=0.5, patience=0)
        return plateau, fs.SGD(np.ones(2), lr=plateau, weight_decay=0.5 * plateau)

    _, first = build()
    for _ in range(3):
        first.step(np.ones(2), loss=1.0)
    state = first.state_dict()
    plateau, opt = build()
    opt.load_state_dict(state, keep=("lr",))
    assert plateau.value == 1.0
    opt.load_state_dict(state)
    assert plateau.value == 0.25
    state["control"]["lr"][0]["value"] = 0.125
    with pytest.raises(fs.StateError, match="lr and weight_decay share a control"):
        opt.load_state_dict(state)


def test_a_saved_setting_that_takes_the_place_of_another_schedule_is_told() -> None:
    short, long = (schedules.warmup_cosine(peak=1.0, warmup=0, total=n) for n in (10, 20))

    def build(lr: Any, betas: Any = (0.9, 0.5)) -> fs.Adam:
        return fs.Adam(np.ones(2), lr=lr, betas=betas)

    opt = build(long)
    before = plain(opt.state_dict())
    with pytest.raises(
        UserWarning, match=r"^lr: the saved .*total=10\) takes the place of .*keep="
    ):
        opt.load_state_dict(build(short).state_dict())
    assert plain(opt.state_dict()) == before
    with pytest.warns(UserWarning, match="lr: the saved 0.5 takes the place of") as told:
        opt.load_state_dict(build(0.5).state_dict())
    assert told[0].filename == __file__
    assert opt.lr == 0.5
    opt.load_state_dict(build(short).state_dict())  # in place of a number: as ever
    assert opt.schedules["lr"] == short
    with pytest.warns(UserWarning, match="betas: the saved"):
        build(long, (short, 0.5)).load_state_dict(build(long, (long, 0.5)).state_dict())
    opt = build(long)
    opt.load_state_dict(build(short).state_dict(), keep=("lr",))
    assert opt.schedules["lr"] == long


def test_keep_names_what_happens_at_gradients_that_are_not_finite_too() -> None:
    state = fs.SGD(np.ones(2), nonfinite="raise").state_dict()
    opt = fs.SGD(np.ones(2), nonfinite="skip")
    opt.load_state_dict(state, keep=("nonfinite",))
    assert opt.nonfinite == "skip"
    opt.load_state_dict(state)
    assert opt.nonfinite == "raise"


@pytest.mark.parametrize(
    ("edit", "name"),
    [
        (put("settings", "lr", -1.0), "lr"),
        (put("settings", "momentum", 0.5), "momentum=0.5: built without"),
        (put("control", "weight_decay", [{**MEMORY, "bad": -1}]), "weight_decay"),
        (put("nonfinite", "maybe"), "nonfinite"),
        (put("applied", 9), "applied"),
        (put("accumulated", "samples", -1.0), "accumulated"),
    ],
)
def test_a_load_refused_for_one_thing_changes_no_other(edit: Any, name: str) -> None:
    def build(**settings: Any) -> tuple[control.Plateau, fs.SGD]:
        plateau = control.Plateau(factor=0.5, patience=0)
        groups = [{"match": "b", "lr": 0.75}]
        params = {"a": np.ones(2), "b": np.ones(2)}
        settings = {"lr": 0.5, "clip_norm": 1.0, "nonfinite": "skip", **settings}
        return plateau, fs.SGD(params, weight_decay=0.5 * plateau, groups=groups, **settings)

    _, first = build(lr=0.25, clip_norm=5.0, nonfinite="raise")
    for _ in range(3):
        first.step({"a": np.ones(2), "b": np.ones(2)}, loss=1.0)
    first.groups[1].lr = 0.125
    state = first.state_dict()
    edit(state)
    plateau, opt = build()
    with pytest.raises(fs.StateError) as caught:
        opt.load_state_dict(state)
    assert name in str(caught.value)
    assert (opt.lr, opt.groups[1].lr, opt.clip_norm, opt.nonfinite) == (0.5, 0.75, 1.0, "skip")
    assert (plateau.value, opt.weight_decay, opt.steps_attempted) == (1.0, 0.5, 0)


def test_momentum_is_not_loaded_into_an_optimizer_without_its_buffers() -> None:
    state = fs.SGD(np.ones(2)).state_dict()
    opt = fs.SGD(np.ones(2))
    for momentum in (0.9, schedules.constant(0.9)):
        state["settings"]["momentum"] = (
            momentum if isinstance(momentum, float) else json.loads(momentum.to_json())
        )
        with pytest.raises(fs.StateError, match="built without a momentum buffer"):
            opt.load_state_dict(state)
        assert opt.momentum == 0.0
        assert opt.step(np.ones(2)).applied


def test_micro_batches_of_nothing_are_saved_and_loaded() -> None:
    def build() -> fs.SGD:
        return fs.SGD({"w": np.ones(2), "b": np.ones(3)}, lr=0.5)

    opt = build()
    opt.accumulate({"w": None, "b": None}, 3)
    again = build()
    again.load_state_dict(opt.state_dict())
    assert again.accumulated == 3.0
    assert again.step().applied
    assert (again.accumulated, again.state_dict()["parameters"]["w"]["updates"]) == (0.0, 0)
    again.load_state_dict(opt.state_dict())
    again.accumulate({"w": np.ones(2), "b": None}, 1)
    assert again.step().applied
    assert (again.params["w"] == 1.0 - 0.5 / 4.0).all()


def test_other_threads_neither_save_nor_load_nor_set_while_a_step_is_under_way() -> None:
    refused: list[str] = []

    def beside() -> None:
        for call in (
            opt.state_dict,
            lambda: opt.load_state_dict(state),
            lambda: setattr(opt, "momentum", 0.75),
            lambda: setattr(opt.groups[0], "lr", 0.75),
            lambda: setattr(opt, "clip_norm", 0.75),
            opt.reset,
        ):
            try:
                call()
            except fs.StateError as error:
                refused.append(str(error))

    def rate(step: int) -> float:
        if threading.current_thread() is threading.main_thread() and inside:
            thread = threading.Thread(target=beside)
            thread.start()
            thread.join()
        return 0.5

    inside = False
    w = np.ones(2)
    opt = fs.SGD(w, lr=rate, momentum=0.5)
    opt.step(np.ones(2))
    state = opt.state_dict()
    inside = True
    opt.step(np.ones(2))
    inside = False
    assert len(refused) == 6
    assert all("inside a call of another thread" in text for text in refused)
    assert (opt.momentum, opt.clip_norm, opt.groups[0].lr, opt.steps_applied) == (0.5, None, 0.5, 2)
    assert (w == 1.0 - 0.5 - 0.75).all()


# the settings that states of format 3 had, beside maximize and limits
_ADAM = ("lr", "betas", "eps", "weight_decay", "amsgrad", "bias_correction", "eps_mode")
_LATER = ("lr", "betas", "eps", "weight_decay")
FORMAT_3 = {
    "SGD": ("lr", "momentum", "dampening", "nesterov", "weight_decay", "decoupled_weight_decay"),
    "Adam": _ADAM,
    "AdamW": _ADAM,
    "AdaBelief": (*_ADAM, "eps_root", "decoupled_weight_decay"),
    "NAdam": (*_LATER, "momentum_decay", "decoupled_weight_decay"),
    "LAMB": (*_LATER, "bias_correction"),
}


def only(names: tuple[str, ...], settings: dict[str, Any]) -> dict[str, Any]:
    return {n: settings[n] for n in (*names, "maximize", "clip_norm", "clip_value")}


def test_a_state_of_format_2_goes_on() -> None:
    def build(**settings: Any) -> fs.SGD:
        groups = [{"match": "b", "decoupled_weight_decay": True, "lr": 0.25}]
        return fs.SGD({"a": np.ones(2), "b": np.ones(2)}, momentum=0.5, groups=groups, **settings)

    first = build(lr=0.5, clip_norm=math.inf, clip_value=schedules.constant(2.0))
    first.step({"a": np.ones(2), "b": np.ones(2)})
    state = first.state_dict()
    settings = state["settings"] = only(FORMAT_3["SGD"], state["settings"])
    for name in ("clip_norm", "clip_value"):
        state[name] = settings.pop(name)
    for values in (settings, state["groups"][1]["settings"]):
        values["decoupled"] = values.pop("decoupled_weight_decay")
    opt = build()
    opt.load_state_dict({**state, "format": 2})
    assert plain(opt.state_dict()) == plain(first.state_dict())
    with pytest.raises(fs.StateError, match="format: saved 2, and the rest is not in that form"):
        opt.load_state_dict({**first.state_dict(), "format": 2})


@pytest.mark.parametrize("name", FORMAT_3)
def test_a_state_of_format_3_goes_on(name: str) -> None:
    first = getattr(fs, name)({"w": np.ones(2)}, lr=0.5, clip_norm=1.0)
    first.step({"w": np.ones(2)})
    state = first.state_dict()
    settings = only(FORMAT_3[name], state["settings"])
    opt = getattr(fs, name)({"w": np.ones(2)}, lr=0.25)
    before = plain(opt.state_dict())
    for lost in ("lr", "clip_norm"):
        damaged = {k: v for k, v in settings.items() if k != lost}
        with pytest.raises(fs.StateError, match=f"settings.{lost}: not saved"):
            opt.load_state_dict({**state, "format": 3, "settings": damaged})
    assert plain(opt.state_dict()) == before
    opt.load_state_dict({**state, "format": 3, "settings": settings})
    assert plain(opt.state_dict()) == plain(first.state_dict())
