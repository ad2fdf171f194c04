"""Children of tests. None outlives its test: an orphan holds the output of the whole run open."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import TypeVar

Child = TypeVar("Child", "subprocess.Popen[bytes]", BaseProcess)


@contextlib.contextmanager
def killed_at_the_end(child: Child) -> Iterator[Child]:
    """Kills a child that still runs after the body, however that ends."""
    try:
        yield child
    finally:
        child.kill()
        child.wait() if isinstance(child, subprocess.Popen) else child.join()


@contextlib.contextmanager
def forked(work: Callable[[], object], seconds: float = 60) -> Iterator[None]:
    """A fork that does the work beside the body, and must then end well within some seconds."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            os._exit(1)
        os._exit(0)
    ended = (0, 0)
    try:
        yield
        deadline = time.monotonic() + seconds
        while ended == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.001)
            ended = os.waitpid(pid, os.WNOHANG)
        assert ended == (pid, 0), "the child hangs or has died"
    finally:
        if ended == (0, 0):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
