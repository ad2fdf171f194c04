"""Kernels compiled by the host's C++ compiler, and what CuPy calls them."""

from __future__ import annotations

import ctypes
import functools
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from emulation import cuda
from emulation.cuda import Driver

EMULATION = Path(__file__).parent
KERNEL = re.compile(
    r'(extern\s+"C"\s+__global__\s+(?:void\s+|__launch_bounds__\([^)]*\)\s*)+(\w+)\s*\([^()]*\))\s*{'
)


def compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "c++")) if os.name == "posix" else None


class CompileError(RuntimeError):
    """The kernels do not compile."""


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="emulated-cuda-")


@functools.cache
def compiled(code: str, options: tuple[str, ...]) -> ctypes.PyDLL:
    """The kernels of a source as functions launch_<name>; macros and include folders apply."""
    folder = Path(tempfile.mkdtemp(dir=_folder().name))
    source, library = folder / "kernels.cpp", folder / "kernels.so"
    # a launcher for each kernel, declared where the kernel is
    launchable = KERNEL.sub(lambda m: f"{' '.join(m[1].split())}; EMULATED({m[2]}) {m[0]}", code)
    source.write_text(f'#include "device.h"\n#line 1 "kernels.cu"\n{launchable}\n')
    given = [
        re.sub(r"^--(include-path|define-macro)=", lambda m: "-" + m[1][0].upper(), option)
        for option in options
    ]
    given = [option for option in given if re.match("-[DIU]", option)]
    command = [
        compiler() or "c++",
        "-std=c++17",
        "-O1",
        "-ffp-contract=off",
        "-fno-strict-aliasing",
    ]
    command += ["-shared", "-fPIC", f"-I{EMULATION}", *given, str(source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise CompileError(done.stderr)
    loaded = ctypes.PyDLL(str(library))  # keeps Python's lock: the emulation runs one launch
    for _, name in KERNEL.findall(code):
        getattr(loaded, f"launch_{name}").restype = ctypes.c_bool
    return loaded


def flushes(options: Sequence[str]) -> bool:
    """Whether subnormal numbers become zero; of several options the last one counts."""
    found = [option.endswith("=true") for option in options if re.match("--?ftz=", option)]
    return bool(found) and found[-1]


def packed(argument: Any) -> tuple[bytes, object]:
    """The bytes that a kernel is given for an argument, and what must live until it has run."""
    if argument is None:
        return bytes(8), None
    if hasattr(argument, "__cuda_array_interface__"):
        return np.uint64(argument.data.ptr).tobytes(), argument
    if isinstance(argument, np.ndarray):
        if argument.size != 1:
            raise TypeError("an array passed by value has one element")
        return argument.tobytes(), None
    if isinstance(argument, (bool, int, float, np.generic)):
        return np.asarray(argument).tobytes(), None
    raise TypeError(f"Unsupported type {type(argument)}")


class Function:
    """One kernel of a module."""

    def __init__(self, code: str, options: tuple[str, ...], name: str) -> None:
        self.name, self._flushes = name, flushes(options)
        try:
            self._launch = getattr(compiled(code, options), f"launch_{name}")
        except AttributeError:
            raise RuntimeError("CUDA_ERROR_NOT_FOUND: named symbol not found") from None

    def __call__(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        *,
        shared_mem: int = 0,
        stream: Any = None,
    ) -> None:
        sizes = [(*size, 1, 1)[:3] for size in (grid, block)]
        if min(map(min, sizes)) < 1 or np.prod(sizes[1]) > 1024 or shared_mem:
            raise RuntimeError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        owner = cuda.driver
        queue = owner.queue(None if stream is None else stream.ptr)
        arguments = [packed(argument) for argument in args]
        owner.launches += queue.capture is None
        queue.submit(functools.partial(self._run, owner, sizes, arguments))

    def _run(self, owner: Driver, sizes: list[Any], arguments: list[tuple[bytes, object]]) -> None:
        n = len(arguments)
        values = [ctypes.create_string_buffer(value, len(value)) for value, _ in arguments]
        matches = self._launch(
            *((ctypes.c_uint * 3)(*size) for size in sizes),
            ctypes.c_bool(owner.backward),
            ctypes.c_bool(self._flushes),
            ctypes.c_size_t(n),
            (ctypes.c_size_t * n)(*map(len, values)),
            (ctypes.c_void_p * n)(*map(ctypes.addressof, values)),
        )
        if not matches:
            raise TypeError(f"{self.name}: the arguments are not those of the kernel")


class RawModule:
    """Compiled when the first kernel is asked for, and with -ftz=true, as CuPy does it."""

    def __init__(
        self, *, code: str, options: Sequence[str] = (), name_expressions: None = None
    ) -> None:
        if name_expressions is not None:
            raise NotImplementedError("kernels are found by their C names")
        self.code, self.options = code, (*options, "-ftz=true")

    def compile(self) -> None:
        compiled(self.code, self.options)

    def get_function(self, name: str) -> Function:
        return Function(self.code, self.options, name)


class Module:
    """What a compiled image, be it PTX or for one processor, is loaded into."""

    def load(self, image: bytes) -> None:
        self._code, options = json.loads(image)
        self._options = tuple(options)

    def get_function(self, name: str) -> Function:
        return Function(self._code, self._options, name)


class _Program:
    def __init__(self, source: str) -> None:
        self.source, self.image, self.log = source, b"", ""


def nvrtc() -> SimpleNamespace:
    """The module cupy.cuda.nvrtc; headers come from folders only."""
    programs: dict[int, _Program] = {}
    handles = itertools.count(1)

    def create(source: str, name: str, headers: Sequence[bytes], names: Sequence[bytes]) -> int:
        if headers or names:
            raise NotImplementedError("headers in memory")
        handle = next(handles)
        programs[handle] = _Program(source)
        return handle

    def compile_program(handle: int, options: Sequence[str] = ()) -> None:
        program = programs[handle]
        try:
            compiled(program.source, tuple(options))
        except CompileError as error:
            program.log = str(error)
            raise
        program.image = json.dumps([program.source, list(options)]).encode()

    return SimpleNamespace(
        NVRTCError=CompileError,
        getVersion=lambda: (12, 9),
        getSupportedArchs=lambda: (75, 80, 86, 89, 90),
        createProgram=create,
        compileProgram=compile_program,
        getPTX=lambda handle: programs[handle].image,
        getCUBIN=lambda handle: programs[handle].image,
        getProgramLog=lambda handle: programs[handle].log,
        destroyProgram=lambda handle: programs.pop(handle, None),
    )
