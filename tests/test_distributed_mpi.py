"""Processes that mpiexec starts have the bits of one process, and of ranks that are threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runs import children

digits = pytest.importorskip("runs.distributed_digits", reason="needs scikit-learn")
mpi4py = pytest.importorskip("mpi4py", reason="needs mpi4py")

# where wheels of an MPI put their programs: beside Python, and in the environment of mpi4py
ENVIRONMENTS = [Path(sys.prefix), Path(mpi4py.__file__).parents[4]]
SEARCHED = os.pathsep.join([*(str(e / "bin") for e in ENVIRONMENTS), os.environ.get("PATH", "")])
MPIEXEC = shutil.which("mpiexec", path=SEARCHED)
if MPIEXEC is None:
    pytest.skip("needs mpiexec: pip install mpich", allow_module_level=True)


def mpiexec(ranks: int, *program: str, seconds: float = 120) -> tuple[int, str]:
    """The exit status of a program on some ranks, and what they say."""
    libraries = [str(Path(MPIEXEC).parents[1] / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        "OPENBLAS_NUM_THREADS": "1",
        "FUSESTEP_NUM_THREADS": "1",
    }
    command = [MPIEXEC, "-n", str(ranks), sys.executable, "-m", "mpi4py", "-m", *program]
    child = subprocess.Popen(
        command,
        cwd=Path(__file__).parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with children.killed_at_the_end(child):
        said, _ = child.communicate(timeout=seconds)
    return child.returncode, said.decode()


@pytest.fixture(scope="module")
def of_one_rank() -> Any:
    """What one process tells of the run, with one thread of BLAS as the others have."""
    status, said = mpiexec(1, "runs.distributed_digits", "mpi")
    assert status == 0, said
    return said


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_processes_have_the_bits_of_one(ranks: int, of_one_rank: str) -> None:
    assert mpiexec(ranks, "runs.distributed_digits", "mpi") == (0, of_one_rank)
