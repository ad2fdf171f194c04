"""A run in which rank 1 fails: ``python -m runs.distributed_failure FAULT SECONDS mpi``.

FAULT: "killed" is a SIGKILL after some SECONDS; "late" and "gone" are a rank that sleeps, or ends,
in its tenth step; "interrupted" is a Ctrl-C on rank 0 while it waits for one that sleeps. The
others say how they end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import numpy as np

import fusestep as fs
from fusestep import distributed
from runs.connected import connected

TIMEOUT = 3.0


def main(fault: str, seconds: float, engine: str) -> None:
    group = connected(engine, timeout=TIMEOUT)
    params = {"w": np.ones(50_000, np.float32), "b": np.ones(7, np.float32)}
    opt = distributed.Sharded(fs.AdamW, params, group=group, leaves=6, lr=1e-3, clip_norm=1.0)
    if fault == "interrupted":
        signal.signal(signal.SIGALRM, signal.default_int_handler)
    print("started", flush=True)
    if fault == "killed" and group.rank == 1:
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    for step in range(10**9):
        if group.rank == 1 and step == 10:
            if fault in ("late", "interrupted"):
                time.sleep(seconds)
            if fault == "gone":
                return
        if group.rank == 0 and step == 10 and fault == "interrupted":
            signal.setitimer(signal.ITIMER_REAL, 1.0)
        while opt._gradients.missing:
            opt.accumulate({name: array * 0.5 for name, array in params.items()}, samples=1)
        try:
            opt.step()
        except distributed.RankTimeout as error:
            print(f"rank {group.rank}: {error}", flush=True)
            again(opt)
            raise
        except KeyboardInterrupt:
            print(f"rank {group.rank}: interrupted", flush=True)
            again(opt)
            raise


def again(opt: distributed.Sharded) -> None:
    """After that every call refuses at once."""
    begin = time.monotonic()
    try:
        opt.verify()
    except distributed.RankTimeout as error:
        assert time.monotonic() - begin < TIMEOUT / 2
        print(f"then: {error}", flush=True)


if __name__ == "__main__":
    fault, seconds, engine = sys.argv[1:]
    main(fault, float(seconds), engine)
