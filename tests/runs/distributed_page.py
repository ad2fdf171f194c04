"""The program of docs/distributed.md: as it stands there, or on one rank without MPI.

PYTHONPATH=tests python -m runs.distributed_page alone
"""

from __future__ import annotations

import sys

from tables import pages

BLOCKS = pages.blocks("docs/distributed.md")
MPI, ALONE = "distributed.mpi(MPI.COMM_WORLD)", "distributed.alone()"


def without_mpi(block: str) -> str:
    return block.replace("from mpi4py import MPI\n", "").replace(MPI, ALONE)


if __name__ == "__main__":
    program = BLOCKS[0] if sys.argv[1] == "mpi" else without_mpi(BLOCKS[0])
    pages.run(program, "train.py", {})
