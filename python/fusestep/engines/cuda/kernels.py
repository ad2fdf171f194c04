"""The kernels of the GPU, compiled when they are first needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

_SOURCES = Path(__file__).parents[2] / "csrc" / "cuda"

# Contraction to fused multiply-add would change bits; the functions of a rule that only the host
# calls have no annotation.
OPTIONS = ("--std=c++17", "--fmad=false", "--device-as-default-execution-space")


class Kernels:
    """The kernels of a step: those of sums, and ``update.cu`` for one rule.

    Compiled into the latter are the cases that steps have asked for.
    """

    def __init__(self, cupy: Any, rule: str) -> None:
        self._cupy = cupy
        self._rule = rule
        self._cases: frozenset[int] = frozenset()
        self._update: Any = None
        self._sums: tuple[Any, Any] | None = None

    def update(self, cases: Sequence[int]) -> Any:
        """The update for these cases."""
        if not self.has(cases):
            wanted = self._cases.union(cases)
            listed = ",".join(map(str, sorted(wanted)))
            options = (f"-DFUSESTEP_RULE={self._rule}", f"-DFUSESTEP_CASES={listed}")
            module = compiled(self._cupy, "update.cu", *options)
            self._cases, self._update = wanted, module.get_function("fusestep_update")
        return self._update

    def has(self, cases: Sequence[int]) -> bool:
        """Whether nothing must be compiled for them."""
        return self._update is not None and self._cases.issuperset(cases)

    @property
    def sum(self) -> Any:
        """The sum of squares."""
        return self.compile_sums()[0]

    @property
    def conclude(self) -> Any:
        """What the sum of squares does at its end, for steps without one."""
        return self.compile_sums()[1]

    def compile_sums(self) -> tuple[Any, Any]:
        """Both of them, unless that was done."""
        if self._sums is None:
            module = compiled(self._cupy, "sum.cu")
            get = module.get_function
            self._sums = get("fusestep_sum"), get("fusestep_conclude")
        return self._sums


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
