"""Programs of `runs` as several processes, which mpiexec starts or torch.distributed connects."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runs import children

ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "FUSESTEP_NUM_THREADS": "1"}
# Open MPI starts more ranks than there are processors, and starts at all for root, where it is told
ANYWHERE = {
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    **{
        f"{prefix}_ALLOW_RUN_AS_ROOT{suffix}": "1"
        for prefix in ("OMPI", "PRTE")
        for suffix in ("", "_CONFIRM")
    },
}


def mpiexec() -> str:
    """The program, beside Python or mpi4py or in the PATH; skips the test where there is none."""
    found = importlib.util.find_spec("mpi4py")
    if found is None or found.origin is None:
        pytest.skip("needs mpi4py")
    environments = [Path(sys.prefix), Path(found.origin).parents[4]]
    places = [*(str(place / "bin") for place in environments), os.environ.get("PATH", "")]
    return shutil.which("mpiexec", path=os.pathsep.join(places)) or pytest.skip("needs mpiexec")


def started(command: list[str], **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=Path(__file__).parents[1],
        env={**os.environ, **ONE_THREAD, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ended(child: subprocess.Popen[bytes], seconds: float) -> tuple[int, str, str]:
    """Exit status, output and errors of a child, which must end within some seconds."""
    said, errors = child.communicate(timeout=seconds)
    return child.returncode, said.decode(), errors.decode()


def started_on_mpi(world: int, *program: str) -> subprocess.Popen[bytes]:
    """The processes of a program that mpiexec starts."""
    launcher = mpiexec()
    libraries = [str(Path(launcher).parents[1] / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    command = [launcher, "-n", str(world), sys.executable, "-m", "mpi4py", "-m", *program, "mpi"]
    return started(command, LD_LIBRARY_PATH=os.pathsep.join(filter(None, libraries)), **ANYWHERE)


def on_mpi(world: int, *program: str, seconds: float = 120) -> tuple[int, str, str]:
    """Exit status, output and errors of all processes of a program that mpiexec starts."""
    with children.killed_at_the_end(started_on_mpi(world, *program)) as child:
        return ended(child, seconds)


def on_gloo(world: int, *program: str, seconds: float = 120) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of each process of a program, connected by torch."""
    pytest.importorskip("torch", reason="needs torch")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    addresses = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    command = [sys.executable, "-m", *program, "torch"]
    with contextlib.ExitStack() as stack:
        ranks: list[Any] = [
            stack.enter_context(
                children.killed_at_the_end(started(command, RANK=str(rank), **addresses))
            )
            for rank in range(world)
        ]
        return [ended(child, seconds) for child in ranks]
