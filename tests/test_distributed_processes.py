"""Processes of any engine have the bits of ranks that are threads, on a network of digits."""

from __future__ import annotations

import sys

import pytest

from runs import processes

pytest.importorskip("sklearn", reason="needs scikit-learn")
PROGRAM = "runs.distributed_digits"


@pytest.fixture(scope="module")
def expected() -> str:
    """What ranks that are threads tell of the run, with one thread of BLAS as the others have."""
    child = processes.started([sys.executable, "-m", PROGRAM, "threads", "5"])
    status, said, errors = processes.ended(child, 120)
    assert status == 0, errors
    return said


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_processes_that_mpiexec_starts_have_the_bits_of_threads(world: int, expected: str) -> None:
    assert processes.on_mpi(world, PROGRAM)[:2] == (0, expected)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_of_torch_have_the_bits_of_threads(world: int, expected: str) -> None:
    told = processes.on_gloo(world, PROGRAM)
    assert [(status, said) for status, said, _ in told] == [(0, expected)] + [(0, "")] * (world - 1)
