"""What type checkers infer from curves."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PROGRAM = """
from typing import assert_type
import fusestep as fs
from fusestep import control, schedules
from fusestep.expression import clip, epoch, from_json, function, parse, pi, step, where
E = fs.Expression
assert_type(schedules.cosine(1.0, length=3), E)
assert_type(schedules.warmup(3, shape="cosine") * schedules.random(0, 1), E)
assert_type(2.0 * control.Plateau(), E)
assert_type(-control.Plateau() // 2 < 3, E)
assert_type(control.Plateau().shifted(3).by("epoch"), E)
assert_type([step, epoch, pi, clip(step, 1, 2), where(step < 3, 1, 2)], list[E])
assert_type(function(abs), E)
assert_type(parse("step"), E)
assert_type(from_json("{}", functions={"f": abs}, like=step), E)
presets = schedules.presets
assert_type(presets.torch.CosineAnnealingLR(0.1, T_max=3), E)
assert_type(presets.torch.LambdaLR(0.1, lambda t: 1 / (1 + t)) * presets.keras.CosineDecay(1, 2), E)
assert_type(presets.torch.SequentialLR([presets.timm.StepLRScheduler(1, 2), 0.1], [3]), E)
assert_type(presets.optax.piecewise_constant_schedule(0.1, {3: 0.5}), E)
assert_type(presets.optax.sgdr_schedule([{"init_value": 0, "peak_value": 1}]), E)
assert_type(presets.torch.ReduceLROnPlateau(0.1), control.Plateau)
assert_type(presets.transformers.GreedyLR(0.1) * 2, E)
assert_type(presets.averages.torch_swa(), E)
lr = schedules.linear(1, 0, length=3)
lr = lr * 2
lr = schedules.step(1, 0.5, every=2, by="samples")
"""
WRONG = [
    'schedules.cosine(1.0, length=3, by="steps")',
    'schedules.cyclic(0, 1, 2, mode="square")',
    'schedules.one_cycle(1, 2, anneal_strategy="sine")',
    'schedules.warmup(3, shape="sine")',
    'schedules.wsd(1, 2, 3, 4, shape="sine")',
    'schedules.interpolate([(0, 1), (1, 2)], kind="spline")',
    'schedules.random(0, 1, distribution="normal")',
    'presets.torch.OneCycleLR(1, anneal_strategy="cosine")',
    "presets.torch.StepLR(1)",
    'presets.transformers.get_wsd_schedule(1, 2, 3, decay_type="sine")',
    'step.by("day")',
    'step.plot(3, by="day")',
]


@pytest.mark.skipif(sys.version_info < (3, 11) or not find_spec("mypy"), reason="needs mypy")
def test_curves_are_expressions_and_choices_are_checked(tmp_path: Path) -> None:
    lines = PROGRAM.splitlines() + WRONG
    (tmp_path / "program.py").write_text("\n".join(lines))
    package = Path(__file__).parent.parent / "python"
    command = [sys.executable, "-m", "mypy", "--strict", "--no-color-output", "program.py"]
    environment = {"MYPYPATH": str(package), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if line.startswith("program.py")]
    places = [int(line.split(":")[1]) for line in found if ": error: " in line]
    assert places == list(range(len(lines) - len(WRONG) + 1, len(lines) + 1)), done.stdout
