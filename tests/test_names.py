"""Public names: what a module shows, and what it says about names that changed."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
from types import ModuleType

import pytest

import fusestep as fs
import fusestep.expression as fe
from fusestep import control, scaling, schedules
from fusestep.expression.vocabulary import RENAMED, RENAMED_ARGUMENTS, VOCABULARY

ROOMS = [getattr(fs, name) for name in fs.__all__]
PUBLIC = [fs, *(room for room in ROOMS if isinstance(room, ModuleType))]
PUBLIC += [
    schedules.presets,
    *(getattr(schedules.presets, peer) for peer in schedules.presets.__all__),
]


@pytest.mark.parametrize("room", PUBLIC, ids=lambda room: room.__name__)
def test_a_module_shows_its_public_names_alone(room: ModuleType) -> None:
    assert dir(room) == sorted({*room.__all__, *(["__version__"] if room is fs else [])})
    assert all(hasattr(room, name) for name in dir(room))


def test_all_names_are_imported_at_once_and_no_others() -> None:
    found: dict[str, object] = {}
    exec("from fusestep import *", found)
    assert {*found} - {"__builtins__"} == {*fs.__all__}


def test_an_expression_shows_its_public_methods_alone() -> None:
    shown = {name for name in dir(2 * schedules.cosine(1, 0, 3)) if not name.startswith("_")}
    assert shown == {"by", "plot", "repeated", "shifted", "to_json"}
    assert "operator(self" in pydoc.plain(pydoc.render_doc(fs.Expression))
    assert "_written_with" not in pydoc.render_doc(fs.Expression)
    by = "by: Literal['step', 'samples', 'epoch'] = 'step')"
    assert f"exponent: float = 1.0, {by}" in str(inspect.signature(schedules.cosine))


def test_an_earlier_name_of_a_module_says_the_present_one() -> None:
    for name in ("linear", "power", "sqrt"):
        says = rf"^fusestep\.scaling\.scale_{name} is called fusestep\.scaling\.{name} now$"
        with pytest.raises(AttributeError, match=says):
            getattr(scaling, f"scale_{name}")
    for room, old, new in ((fs, "batch", "batch_sizes"), (fs.gradients, "parts", "split_batch")):
        says = rf"^{room.__name__}\.{old} is called {room.__name__}\.{new} now$"
        with pytest.raises(AttributeError, match=says):
            getattr(room, old)
    with pytest.raises(AttributeError, match="module 'fusestep' has no attribute 'scedules'"):
        fs.scedules  # noqa: B018
    done = subprocess.run(
        [sys.executable, "-c", "import fusestep; fusestep.scedules"], capture_output=True, text=True
    )
    assert "Did you mean: 'schedules'?" in done.stderr


EARLIER = [(curve, old) for curve, names in RENAMED_ARGUMENTS.items() for old in names]


@pytest.mark.parametrize(("curve", "old"), EARLIER)
def test_an_earlier_argument_of_a_curve_says_the_present_one(curve: str, old: str) -> None:
    new = RENAMED_ARGUMENTS[curve][old]
    with pytest.raises(TypeError, match=f"^{curve} has no argument '{old}': use '{new}'$"):
        getattr(schedules, curve, getattr(control, curve, None))(**{old: 1})
    with pytest.raises(TypeError, match=f"'{old}': use '{new}'"):
        fe.parse(f"{curve}({old}=1)")


def test_what_is_misspelt_is_told_the_argument_that_was_meant() -> None:
    with pytest.raises(
        TypeError, match=r"^cosine has no argument 'lenght'; did you mean 'length'\?"
    ):
        schedules.cosine(1.0, lenght=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Plateau has no argument 'patiance'; did you mean 'pati"):
        control.Plateau(patiance=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="fixed has no argument 'maxmum'; did you mean 'maximum'"):
        fs.batch_sizes.fixed(8, maxmum=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("old", RENAMED)
def test_an_earlier_name_in_a_text_says_the_present_one(old: str) -> None:
    assert RENAMED[old] in VOCABULARY
    with pytest.raises(ValueError, match=f"^{old} is called {RENAMED[old]} now$"):
        fe.parse(f"{old}(0.1, 32)")


SAVED = {
    '{"call": "scale_sqrt", "with": {"lr": 0.1, "base_batch": 32}}': scaling.sqrt(0.1, 32),
    '{"call": "noise_curve", "with": {"lr_max": 0.1, "noise_scale": 3}}': scaling.noise_curve(
        0.1, 3
    ),
    '{"call": "cosine_restarts", "with": {"start": 1, "length": 9, "decay": 0.5}}': (
        schedules.cosine_restarts(1, length=9, factor=0.5)
    ),
    '{"call": "gradual_warmup", "with": {"base": 0.1, "k": 8, "length": 5}}': (
        schedules.gradual_warmup(0.1, 8, 5)
    ),
    '{"call": "inverse_time", "with": {"start": 1, "scale": 9}}': schedules.inverse_time(1, 9),
    '{"call": "one_cycle", "with": {"peak": 1, "total": 9, "warm": 0.5, "anneal": "linear"}}': (
        schedules.one_cycle(1, 9, 0.5, anneal_strategy="linear")
    ),
    '{"call": "power", "with": {"a": 4, "b": -0.5}}': schedules.power(4, -0.5),
    '{"call": "staircase_linear", "with": {"start": 1, "decay": 0.5, "every": 2, "length": 8}}': (
        schedules.staircase_linear(1, 0.5, 2, 8)
    ),
}


@pytest.mark.parametrize("text", SAVED)
def test_what_was_saved_with_earlier_names_is_read(text: str) -> None:
    found = fe.from_json(f'{{"fusestep_expression": 2, "nodes": [{text}]}}')
    assert found == SAVED[text]
    assert fe.from_json(found.to_json()) == fe.parse(repr(found)) == found


def test_a_control_that_was_saved_with_an_earlier_name_is_read() -> None:
    text = '{"fusestep_expression": 2, "nodes": [{"call": "Plateau", "with": {"min_value": 0.5}}]}'
    assert repr(fe.from_json(text)) == "Plateau(lower=0.5)"
