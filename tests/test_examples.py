"""The programs in examples/, each run with a small setting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
# for each program: what it needs, its arguments, and how its last line begins
PROGRAMS = {
    "search_digits": (["optuna", "sklearn"], ["3"], "loss 0."),
    "sklearn_digits": (["sklearn"], ["--epochs", "5"], "losses after one more epoch: "),
    "torch_digits": (["sklearn", "torch"], ["--epochs", "2"], "fusestep epoch  4: loss 0."),
    "word2vec": ([], ["--epochs", "2"], "try: "),
}


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*PROGRAMS}


@pytest.mark.unsanitized
@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_ends_well(name: str, tmp_path: Path) -> None:
    needed, arguments, last = PROGRAMS[name]
    for module in needed:
        pytest.importorskip(module)
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(last), done.stdout


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_fits_a_page(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 80
