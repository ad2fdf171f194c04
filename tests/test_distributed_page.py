"""docs/distributed.md: its Python runs as it stands there; any number of ranks prints the same."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from runs import processes
from runs.distributed_page import BLOCKS, MPI, without_mpi
from tables import pages

PROGRAM = "runs.distributed_page"


def test_blocks_run_one_after_the_other_as_pasted() -> None:
    pytest.importorskip("safetensors")
    pytest.importorskip("xxhash")
    assert len(BLOCKS) == 6
    names: dict[str, Any] = {}
    for block in BLOCKS:
        pages.run(without_mpi(block), "distributed.md", names)
    assert names["opt"].steps_applied == 81


def test_the_program_prints_the_same_digits_on_any_number_of_ranks() -> None:
    assert BLOCKS[0].count(MPI) == 1
    child = processes.started([sys.executable, "-m", PROGRAM, "alone"])
    status, expected, errors = processes.ended(child, 120)
    assert status == 0, errors
    assert expected.startswith("80 steps, loss 0.0")
    for world in (1, 3):
        assert processes.on_mpi(world, PROGRAM)[:2] == (0, expected)
