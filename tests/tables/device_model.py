"""Drives the kernels of csrc/cuda: a model on a device."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fusestep import _core
from tables import registry

CSRC = Path(__file__).parents[2] / "csrc"
STEP = "".join((CSRC / "cuda" / name).read_text() for name in ("update.cu", "sum.cu"))
INCLUDE = f"-I{CSRC / 'cuda'}"
# the structs of csrc/rules/all.h by the names of their rules
STRUCTS = dict(
    zip(
        _core.rules(),
        re.findall(r"\bRULE\((\w+)\)", (CSRC / "rules" / "all.h").read_text()),
        strict=True,
    )
)
TREATMENTS = ("as it is", "scaled", "divided")

KINDS = _core.launch_structs()
LEAF, CHUNKS, ENTRY = KINDS["Leaf"], KINDS["Chunk"], KINDS["Entry"]
PROGRESS, OUTCOME, REPORT = KINDS["Progress"], KINDS["Outcome"], KINDS["Report"]
CONCLUSION = KINDS["Conclusion"]
CONSTANTS = _core.launch_constants()
VARIANTS, THREADS, CHUNK, BLOCK, BLOCKS_PER_GROUP = (
    CONSTANTS[name] for name in ("kMaxVariants", "kThreads", "kChunk", "kBlock", "kBlocksPerGroup")
)

Array = np.ndarray[Any, Any]


# Runs on the host: what the native side prepares for a step.
PREPARE = """
#include "../rules/all.h"
#include "../portable/powers.h"
using Rule = fusestep::FUSESTEP_RULE;
struct Preparation { const double* hyper; long long number; void* scalars; unsigned* variant; };
template <class T>
void prepare(const Preparation& a) {
    fusestep::Powers powers;
    auto& scalars = *static_cast<Rule::Scalars<T>*>(a.scalars);
    double values[Rule::kValueCount + 1];
    for (int k = 0; k < Rule::kValueCount; ++k) values[k] = Rule::kValues[k].initial;
    for (long long n = 1; n <= a.number; ++n) {
        *a.variant = Rule::prepare(a.hyper, n, powers, values, scalars);
    }
}
extern "C" __global__ void prepare_float(const Preparation a) { prepare<float>(a); }
extern "C" __global__ void prepare_double(const Preparation a) { prepare<double>(a); }
"""
PREPARATION = np.dtype([(name, np.int64) for name in ("hyper", "number", "scalars", "variant")])


def record(dtype: np.dtype[Any], **fields: Any) -> Array:
    """One struct; what is not given is zero."""
    value = np.zeros(1, dtype)
    for name, field in fields.items():
        value[name] = field
    return value


def case(dtype: Any, treatment: int, variant: int) -> int:
    kind = int(np.dtype(dtype) == np.float64)
    return (kind * len(TREATMENTS) + treatment) * VARIANTS + variant


@functools.cache
def cases(rule: str) -> str:
    """Those that the rows of a rule come upon, for both types and all treatments."""
    found = set()
    for row in (row for row in registry.ROWS if row.rule == rule):
        for dtype in (np.float32, np.float64):
            for number in (1, 2):
                _, variant = prepared(row, dtype, number)
                found |= {case(dtype, treatment, variant) for treatment in range(3)}
    return ",".join(map(str, sorted(found)))


@functools.cache
def kernel(rule: str, name: str) -> Any:
    return module(STEP, f"-DFUSESTEP_RULE={STRUCTS[rule]}", f"-DFUSESTEP_CASES={cases(rule)}")(name)


def module(code: str, *options: str) -> Callable[[str], Any]:
    """Gives the kernels of a source. CuPy's own way to them would flush subnormal numbers."""
    from cupy.cuda import function, nvrtc

    program = nvrtc.createProgram(code, "kernels.cu", (), ())
    nvrtc.compileProgram(program, (INCLUDE, *options))
    loaded = function.Module()
    loaded.load(nvrtc.getPTX(program))
    nvrtc.destroyProgram(program)
    return loaded.get_function


def prepared(row: registry.Row, dtype: Any, number: int) -> tuple[Array, int]:
    """The scalars and the variant of one update."""
    import cupy

    hyper = row.build([np.zeros(1, dtype)])._settings.table[0].copy()
    scalars, variant = np.zeros(ENTRY["scalars"].shape, np.uint8), np.zeros(1, np.uint32)
    argument = record(
        PREPARATION,
        hyper=hyper.ctypes.data,
        number=number,
        scalars=scalars.ctypes.data,
        variant=variant.ctypes.data,
    )
    function = module(PREPARE, f"-DFUSESTEP_RULE={STRUCTS[row.rule]}")
    function(f"prepare_{'float' if dtype == np.float32 else 'double'}")((1,), (1,), (argument,))
    cupy.cuda.get_current_stream().synchronize()
    return scalars, int(variant[0])


def on_device(array: Array, offset: int = 0) -> Any:
    """A copy on the device; with an offset in elements, not where an allocation begins."""
    import cupy

    memory = cupy.zeros(array.size + offset, array.dtype)
    view = memory[offset:].reshape(array.shape)
    view[...] = array
    return view


def pointers(arrays: Sequence[Any]) -> Any:
    found = [0 if array is None or array.size == 0 else array.data.ptr for array in arrays]
    return on_device(np.array(found, np.uint64))


class Model:
    """Leaves on a device, and what the kernels are given for them.

    ``states`` has the arrays of each state that is used, by its place among those of the rule.
    """

    def __init__(
        self,
        params: Sequence[Array],
        states: Mapping[int, Sequence[Array]] = MappingProxyType({}),
        offset: int = 0,
        accumulates: bool = False,
    ) -> None:
        self.sizes = [p.size for p in params]
        self.total = sum(self.sizes)
        self.params = [on_device(p, offset) for p in params]
        zeros = [np.zeros_like(p) for p in params]
        self.states = [
            [on_device(arrays[i], offset) for arrays in states.values()] for i in range(len(params))
        ]
        self.accumulators = [on_device(z, offset) if accumulates else None for z in zeros]
        self.holds = np.zeros(len(params), np.uint8)
        self.offset = offset
        leaves, begin = np.zeros(len(params), LEAF), 0
        for leaf, p, state, held in zip(
            leaves, self.params, self.states, self.accumulators, strict=True
        ):
            leaf["parameter"] = p.data.ptr
            leaf["state"][list(states)] = [s.data.ptr for s in state]
            leaf["accumulator"] = 0 if held is None else held.data.ptr
            leaf["begin"], leaf["size"], leaf["type"] = begin, p.size, p.dtype == np.float64
            begin += p.size
        self.leaves = on_device(leaves)
        chunks = [(i, k) for i, n in enumerate(self.sizes) for k in range(-(-n // CHUNK))]
        self.chunks = on_device(np.array(chunks, CHUNKS))

    def gradients(self, grads: Sequence[Array | None]) -> Any:
        """Their table on the device; they last as long as the next call."""
        self._grads = [None if g is None else on_device(g, self.offset) for g in grads]
        self._table = pointers(self._grads)
        return self._table

    def update(self, rule: str, grads: Sequence[Array | None], entry: Array, **more: Any) -> None:
        argument = record(
            KINDS["UpdateLaunch"],
            leaves=self.leaves.data.ptr,
            chunks=self.chunks.data.ptr,
            gradients=self.gradients(grads).data.ptr,
            entries=len(entry),
            last=self.total,
            **more,
        )
        argument["entry"][0, : len(entry)] = entry
        kernel(rule, "fusestep_update")((self.chunks.size,), (THREADS,), (argument,))

    def sum(self, grads: Sequence[Array | None], weight: float = 0.0, **more: Any) -> float:
        import cupy

        blocks = max(1, -(-self.total // BLOCK))
        levels = [blocks]
        while levels[-1] > 1:
            levels.append(-(-levels[-1] // BLOCK))
        partial, result = cupy.empty(sum(levels)), cupy.empty(1)
        arrived = cupy.zeros(max(1, sum(levels[1:])), np.uint32)
        holds = on_device(self.holds)
        argument = record(
            KINDS["SumLaunch"],
            leaves=self.leaves.data.ptr,
            gradients=self.gradients(grads).data.ptr,
            holds=holds.data.ptr,
            leaf_count=len(self.sizes),
            total=self.total,
            weight=weight,
            partial=partial.data.ptr,
            arrived=arrived.data.ptr,
            sum=result.data.ptr,
            **more,
        )
        groups = -(-blocks // BLOCKS_PER_GROUP)
        kernel("sgd", "fusestep_sum")((groups,), (THREADS,), (argument,))
        assert not arrived.get().any(), "the counters are left as they were found"
        return float(result[0])
