"""The streaming limit: stream.c, compiled on the machine that is measured."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fusestep as fs

from .agreement import Contestant, Rule
from .models import Problem


class Limit(Contestant):
    """Moves what an AdamW step must, over flat arrays of as many elements as the model has."""

    def __init__(self, problem: Problem, rule: Rule) -> None:
        del rule
        self.count = problem.model.parameters
        # so small that sums over thousands of steps stay small
        self.arrays = [np.full(self.count, 1e-6, np.float32) for _ in range(4)]
        self.step = self.on(fs.get_num_threads())

    def on(self, threads: int) -> Callable[[], object]:
        """The step on so many threads."""
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in self.arrays]
        count = ctypes.c_ssize_t(self.count)
        return functools.partial(_stream(), count, ctypes.c_int(threads), *pointers)


@functools.cache
def limit_absent() -> str:
    """The reason why stream.c cannot run here, or nothing."""
    try:
        _stream()
    except subprocess.CalledProcessError as error:
        errors = [line for line in error.stderr.splitlines() if "error" in line]
        return f"stream.c does not compile: {(errors or [f'status {error.returncode}'])[0]}"
    except OSError as error:
        return f"no C compiler with OpenMP: {error}"
    return ""


@functools.cache
def _stream() -> Any:
    compiler = os.environ.get("CC") or shutil.which("cc") or "cc"
    source = Path(__file__).with_name("stream.c")
    options = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "stream.so"
        command = [*compiler.split(), *options, str(source), "-o", str(library)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        stream = ctypes.CDLL(str(library)).stream
    stream.restype = None
    return stream
