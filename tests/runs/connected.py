"""The group of this process among those that mpiexec, or torch.distributed, has started."""

from __future__ import annotations

from fusestep import distributed


def connected(engine: str, *, timeout: float = 60.0) -> distributed.Group:
    if engine == "mpi":
        from mpi4py import MPI

        return distributed.mpi(MPI.COMM_WORLD, timeout=timeout)
    import torch.distributed

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    return distributed.torch(timeout=timeout)
