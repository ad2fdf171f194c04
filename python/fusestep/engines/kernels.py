"""The kernels of the GPU, compiled when they are first needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parents[1]


class Kernels:
    """The kernels of a step: those of sums, and ``cuda/update.cu`` for one rule, with the cases
    compiled in that steps have asked for."""

    def __init__(self, cupy: Any, rule: str) -> None:
        self._cupy = cupy
        self._rule = rule
        self._cases: frozenset[int] = frozenset()
        self._update: Any = None
        self._sums: Any = None

    def update(self, cases: Sequence[int]) -> Any:
        """The update for these cases."""
        if not self.has(cases):
            self._cases = self._cases.union(cases)
            listed = ",".join(map(str, sorted(self._cases)))
            options = (f"-DFUSESTEP_RULE={self._rule}", f"-DFUSESTEP_CASES={listed}")
            module = compiled(self._cupy, "update.cu", *options)
            self._update = module.get_function("fusestep_update")
        return self._update

    def has(self, cases: Sequence[int]) -> bool:
        """Whether nothing must be compiled for them."""
        return self._update is not None and self._cases.issuperset(cases)

    @property
    def sum(self) -> Any:
        """The sum of squares."""
        return self._sum_kernels()[0]

    @property
    def conclude(self) -> Any:
        """What the sum of squares does at its end, for steps without one."""
        return self._sum_kernels()[1]

    def _sum_kernels(self) -> Any:
        if self._sums is None:
            module = compiled(self._cupy, "sum.cu")
            names = ("fusestep_sum", "fusestep_conclude")
            self._sums = tuple(map(module.get_function, names))
        return self._sums


def compiled(cupy: Any, name: str, *options: str) -> Any:
    """A file of the folder ``cuda`` as a module of CuPy.

    Raises RuntimeError where CuPy can't compile, most often because it finds no NVRTC.
    """
    code = f"// {_fingerprint()}\n{(_PACKAGE / 'cuda' / name).read_text()}"
    folders = (f"-I{_PACKAGE / folder}" for folder in ("cuda", "rules"))
    # contraction to fused multiply-add would change bits
    always = ("--std=c++17", "--fmad=false")
    try:
        module = cupy.RawModule(code=code, options=(*always, *folders, *options))
        module.compile()
    except Exception as error:
        raise RuntimeError(
            f"fusestep could not compile its GPU kernels ({name}); CuPy needs NVRTC and its "
            "headers for that, which come with CUDA or with pip install 'cupy-cuda12x[ctk]'"
        ) from error
    return module


@cache
def _fingerprint() -> str:
    """Of all sources: CuPy keeps what it has compiled, and does not look into included files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in _PACKAGE.rglob("*") if p.suffix in {".h", ".cu"}):
        digest.update(path.read_bytes())
    return digest.hexdigest()
