"""Kernels of ``csrc/cuda``, compiled by NVRTC when they are first needed."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

_SOURCES = Path(__file__).parents[1] / "csrc" / "cuda"

# Contraction to fused multiply-add would change bits; the functions of a rule that only the host
# calls have no annotation.
OPTIONS = ("--std=c++17", "--fmad=false", "--device-as-default-execution-space")


def compiled(cupy: Any, name: str, *options: str) -> Any:
    """A file of the folder ``csrc/cuda``, compiled for the current device.

    Not by `cupy.RawModule`, which lets NVRTC flush subnormal numbers, and which keeps what it has
    compiled when an included file has changed. Raises RuntimeError where it can't be compiled, most
    often because CuPy finds no NVRTC.
    """
    device = cupy.cuda.Device()
    return _compiled(cupy, name, options, device.id, str(device.compute_capability))


@cache
def _compiled(cupy: Any, name: str, options: tuple[str, ...], device: int, capability: str) -> Any:
    code = (_SOURCES / name).read_text()
    try:
        nvrtc = cupy.cuda.nvrtc
        program = nvrtc.createProgram(code, name, (), ())
        try:
            # for a GPU that NVRTC does not know yet, the newest code that the driver can translate
            known = [arch for arch in nvrtc.getSupportedArchs() if arch <= int(capability)]
            is_known = int(capability) in known
            target = f"--gpu-architecture={'sm' if is_known else 'compute'}_{max(known)}"
            nvrtc.compileProgram(program, (*OPTIONS, target, f"-I{_SOURCES}", *options))
            binary = nvrtc.getCUBIN(program) if is_known else nvrtc.getPTX(program)
        finally:
            nvrtc.destroyProgram(program)
        module = cupy.cuda.function.Module()
        module.load(binary)
    except Exception as error:
        raise RuntimeError(
            f"fusestep could not compile its GPU kernels ({name}): {error}. CuPy needs NVRTC for "
            "them, which comes with CUDA or with pip install 'cupy-cuda12x[ctk]'"
        ) from error
    return module
