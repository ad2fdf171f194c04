"""docs/distributed.md: its Python runs as it stands there; any number of ranks prints the same."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "distributed.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
MPI, ALONE = "distributed.mpi(MPI.COMM_WORLD)", "distributed.alone()"


def without_mpi(block: str) -> str:
    return block.replace("from mpi4py import MPI\n", "").replace(MPI, ALONE)


def test_blocks_run_one_after_the_other_as_pasted() -> None:
    pytest.importorskip("safetensors")
    pytest.importorskip("xxhash")
    assert BLOCKS[0].count(MPI) == 1
    assert len(BLOCKS) == 6
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(without_mpi(block), "distributed.md", "exec"), names)
    assert names["opt"].steps_applied == 81


def printed(command: list[str]) -> str:
    """What the whole program prints."""
    once = dict.fromkeys(("OPENBLAS_NUM_THREADS", "FUSESTEP_NUM_THREADS"), "1")
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | once
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.unsanitized
def test_the_program_prints_the_same_digits_on_any_number_of_ranks(tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    mpiexec = shutil.which("mpiexec") or shutil.which(
        "mpiexec", path=str(Path(sys.executable).parent)
    )
    if mpiexec is None:
        pytest.skip("needs mpiexec")
    apart, program = tmp_path / "alone.py", tmp_path / "train.py"
    apart.write_text(without_mpi(BLOCKS[0]), "utf-8")
    program.write_text(BLOCKS[0], "utf-8")
    expected = printed([sys.executable, str(apart)])
    assert expected.startswith("80 steps, loss 0.0")
    for world in (1, 3):
        ranks = [mpiexec, "-n", str(world), sys.executable, "-m", "mpi4py"]
        assert printed([*ranks, str(program)]) == expected
