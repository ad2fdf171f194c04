"""Pictures, and the command line that draws them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fusestep as fs
from fusestep import gallery, schedules
from fusestep.expression import function, parse, samples
from tables.preset_rows import CONTROLS

pyplot = pytest.importorskip("matplotlib.pyplot")
LR = schedules.warmup_cosine(peak=1e-3, warmup=500, total=10_000)


@pytest.fixture(autouse=True)
def no_window() -> None:
    pyplot.switch_backend("agg")


def test_a_picture_shows_the_values_and_names_the_curves() -> None:
    ax = LR.plot(1000)
    LR.shifted(100).plot(1000, ax=ax, label="later")
    first, later = ax.lines
    assert first.get_ydata()[[0, 1000, 2000]].tolist() == LR([0, 500, 1000]).tolist()
    assert later.get_ydata()[1200] == LR(500)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [repr(LR), "later"]
    assert ax.get_xlabel() == "step"
    pyplot.close("all")


def test_a_picture_may_be_by_samples_or_epoch_and_of_what_reads_other_inputs() -> None:
    ax = LR.by("epoch").plot(12_000, by="epoch")
    assert ax.get_xlabel() == "epoch"
    assert ax.lines[0].get_ydata().max() == pytest.approx(1e-3, rel=1e-2)
    both = (samples * fs.expression.batch_size).plot(10, by="samples")
    assert both.lines[0].get_ydata()[-1] == 10
    constant = schedules.constant(0.5).plot(3)
    assert set(constant.lines[0].get_ydata()) == {0.5}
    pyplot.close("all")


def test_a_python_function_is_drawn_at_whole_steps() -> None:
    ax = function([3.0, 2.0, 1.0].__getitem__).plot(2)
    assert set(ax.lines[0].get_ydata()) == {1.0, 2.0, 3.0}
    pyplot.close("all")


def test_a_long_expression_has_a_short_label() -> None:
    ax = sum((LR * k for k in range(100)), samples * 0).plot(10)
    assert len(ax.get_legend().get_texts()[0].get_text()) < 300
    pyplot.close("all")


@pytest.mark.parametrize("stop", [0, -1, np.nan, "x"])
def test_a_picture_needs_an_end(stop: object) -> None:
    with pytest.raises((TypeError, ValueError), match="stop must be"):
        LR.plot(stop)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="by must be one of step, samples, epoch"):
        LR.plot(10, by="batch_size")


def test_the_gallery_has_every_curve() -> None:
    assert set(gallery.GALLERY) == {*schedules.__all__} - {
        "as_lambda",
        "as_scheduler",
        "initial_lr",
        "presets",
    }
    for name, text in gallery.GALLERY.items():
        assert name in text
        assert np.isfinite(parse(text)(np.arange(120))).all()


def test_the_gallery_has_every_preset_that_does_not_follow_the_loss() -> None:
    presets = schedules.presets
    for peer in presets.__all__:
        names = {call.partition("(")[0] for call in gallery.PEERS[peer]}
        every = {*getattr(presets, peer).__all__}
        assert names == {name for name in every if f"{peer}.{name}" not in CONTROLS}
        for call in gallery.PEERS[peer]:
            values = parse(f"presets.{peer}.{call}")(np.arange(120))
            assert ((values >= 0) & (values <= 1)).all()


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fusestep", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_the_command_line_draws_expressions_and_the_gallery(tmp_path: Path) -> None:
    one = "warmup_cosine(peak=1e-3, warmup=500, total=10000)"
    preset = "presets.timm.CosineLRScheduler(0.1, t_initial=300, warmup_t=5)"
    for arguments in ([preset], [one, "cosine(1e-3, length=9000)", "--steps", "12000"], ["--all"]):
        done = run("plot", *arguments, "-o", "picture.png", folder=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "wrote picture.png\n", "")
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "picture.png").unlink()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["warmup_cosin(1)"], "no function 'warmup_cosin'; did you mean 'warmup_cosine'"),
        (["cosine(1, length=0)"], "length must be greater than 0, not 0"),
        (["open('x', 'w')"], "no function 'open'"),
        ([], "give expressions, or --all"),
        (["step", "--all"], "give expressions, or --all"),
        (["step", "--steps", "0"], "stop must be greater than 0"),
        (["step", "--steps", "1e300"], "step must be at least 0 and below 2^53"),
        (["step", "-o", "missing/folder/picture.png"], "No such file or directory"),
        (["step", "-o", "picture.unknown"], "error: Format 'unknown' is not supported"),
        (["(" * 500 + "step" + ")" * 500], "error: not an expression"),
        (["\udc80"], "error: not an expression"),
        (["random(0, 1, seed=2**70)"], "error: random: seed must be a whole number"),
    ],
)
def test_the_command_line_says_what_is_wrong(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = run("plot", *arguments, folder=tmp_path)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_info_tells_what_is_installed(tmp_path: Path) -> None:
    done = run("info", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"fusestep {fs.__version__}" in done.stdout
    assert f"instruction set: {fs.build_info()['isa_active']} of " in done.stdout
    assert f"threads: {fs.build_info()['threads']}" in done.stdout
    for extra in ("demo", "plot", "test", "bench", "dev"):
        assert f"  {extra}" in done.stdout
