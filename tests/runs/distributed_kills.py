"""Runs on digits of which one rank is killed at random moments, and which go on with other ranks.

    PYTHONPATH=tests python -m runs.distributed_kills 50 mpi     # or torch; any seed may follow

After each kill all other ranks must end within `SECONDS`, and the last checkpoint must load, on
another number of ranks. What a run tells at its end is that of one rank that never stopped.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from runs import distributed_digits, processes
from runs.connected import connected

PROGRAM, SECONDS = "runs.distributed_kills", 60


def life(folder: str, victim: str, delay: str, engine: str) -> None:
    """One rank; it kills itself after a delay where it is the victim."""
    group = connected(engine, timeout=10)
    if group.rank == int(victim):
        timer = threading.Timer(float(delay), os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True  # a rank that is done may end
        timer.start()
    found = distributed_digits.train(group, Path(folder))
    if found is not None:
        print(found)


def lived(engine: str, world: int, *arguments: str) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of the ranks that were not killed, which must all end."""
    if engine == "mpi":
        return [processes.on_mpi(world, PROGRAM, *arguments, seconds=SECONDS)]
    told = processes.on_gloo(world, PROGRAM, *arguments, seconds=SECONDS)
    return [one for one in told if one[0] != -signal.SIGKILL] or told


def main(kills: int, engine: str, seed: int) -> None:
    pick, done = random.Random(seed), 0
    status, expected, errors = processes.on_mpi(1, "runs.distributed_digits")
    assert status == 0, errors
    while done < kills:
        with tempfile.TemporaryDirectory() as folder:
            is_done = False
            while not is_done and done < kills:
                world, delay = pick.randint(1, 4), pick.uniform(0, 0.4)
                victim, begin = pick.randrange(world), time.monotonic()
                arguments = (folder, str(victim), str(delay))
                told = lived(engine, world, *arguments)
                errors = "".join(one[2] for one in told)
                is_done = all(status == 0 for status, _, _ in told)
                if is_done:
                    assert "".join(said for _, said, _ in told) == expected
                    print("a run has ended as expected", flush=True)
                    continue
                assert all(status != 0 for status, _, _ in told), errors
                assert "StateError" not in errors, errors
                assert "CheckpointError" not in errors, errors
                done += 1
                steps = sorted(path.name for path in Path(folder).glob("step-?????????.safe*"))
                print(
                    f"{done}: rank {victim} of {world} killed after {delay:.2f} s, all ended "
                    f"{time.monotonic() - begin:.1f} s after the start; {steps[-1:]}",
                    flush=True,
                )


if __name__ == "__main__":
    if len(sys.argv) == 5:
        life(*sys.argv[1:])
    else:
        main(int(sys.argv[1]), sys.argv[2], int((*sys.argv, "0")[3]))
