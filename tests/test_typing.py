"""What type checkers see of the package, in a program as users write it."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = Path(__file__).parent / "typing"


def check(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command, "."],
        capture_output=True,
        text=True,
        cwd=PROGRAMS,
        timeout=300,
    )
    return done.stdout + done.stderr


def mypy(tmp_path: Path) -> list[tuple[str, int]]:
    """The files and lines that mypy finds wrong."""
    pytest.importorskip("mypy", reason="needs mypy")
    printed = check(
        "mypy", "--strict", "--config-file=", "--output=json", f"--cache-dir={tmp_path}"
    )
    found = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    return [(entry["file"], entry["line"]) for entry in found if entry["severity"] == "error"]


def pyright(tmp_path: Path) -> list[tuple[str, int]]:
    """Likewise."""
    pytest.importorskip("pyright", reason="needs pyright")
    printed = check("pyright", "--outputjson", f"--pythonpath={sys.executable}")
    found = json.loads(printed[printed.index("{") :])["generalDiagnostics"]
    return [(Path(entry["file"]).name, entry["range"]["start"]["line"] + 1) for entry in found]


def test_the_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(PROGRAMS / "user_program.py"), run_name="__main__")
    assert "AdamW(2 parameters in 2 groups" in capsys.readouterr().out


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_type_checkers_find_what_would_fail_and_nothing_else(checker: Any, tmp_path: Path) -> None:
    lines = (PROGRAMS / "wrong_program.py").read_text().splitlines()
    wrong = [number for number, line in enumerate(lines, 1) if line.endswith("# wrong")]
    assert len(wrong) > 10
    assert sorted({*checker(tmp_path)}) == [("wrong_program.py", number) for number in wrong]
