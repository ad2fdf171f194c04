from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, final

import numpy as np
import numpy.typing as npt
from _typeshed import structseq

# name, lower bound, upper bound, whether the upper bound is excluded, whether it is a flag
Column: TypeAlias = tuple[str, float, float, bool, bool]

# name; what it holds at first: a number, or None for the parameter's own elements; whether it is
# of float64 for any parameter; what each of its elements belongs to: an "element" of the
# parameter, all of the "tensor", a "row" or a "column"
State: TypeAlias = tuple[str, float | None, bool, str]

# name, first value, lower bound, upper bound
Value: TypeAlias = tuple[str, float, float, float]

class Rule(NamedTuple):
    columns: tuple[Column, ...]
    states: tuple[State, ...]
    values: tuple[Value, ...]  # that one update hands to the next
    sums: int  # over whole tensors, which the update needs

# a dict or list, a key or an index, and what stands there; a container before those inside it
Entry: TypeAlias = tuple[Any, Any, Any]

# attributes to set: object, name, value
Changes: TypeAlias = Iterable[tuple[Any, str, Any]]

class StateError(RuntimeError): ...

@final
class StepInfo(structseq[float | None], tuple[float, float | None, bool]):
    __match_args__: Final = ("lr", "grad_norm", "applied")
    @property
    def lr(self) -> float: ...
    @property
    def grad_norm(self) -> float | None: ...
    @property
    def applied(self) -> bool: ...

class Program:
    def __init__(self, nodes: list[Any], outputs: list[int]) -> None: ...
    def value(self, step: Any, samples: Any, epoch: Any, batch_size: Any) -> float | None: ...
    def values(
        self, inputs: list[Any], count: int, functions: list[float]
    ) -> npt.NDArray[np.float64]: ...

# where in the table of settings a value goes, its name in errors, and what it may be
@final
class Target:
    def __init__(
        self,
        *,
        group: int,
        column: int,
        name: str,
        lower: float,
        upper: float,
        below_upper: bool,
        smallest: float,  # of a size that is not 0
        expected: str,
    ) -> None: ...

# indices of int32 or int64, values with a row of shape[1:] for each
class Rows:
    def __init__(
        self, indices: npt.NDArray[Any], values: npt.NDArray[Any], shape: Sequence[int]
    ) -> None: ...
    @property
    def indices(self) -> npt.NDArray[Any]: ...
    @property
    def values(self) -> npt.NDArray[Any]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...

# targets, kept for calls that set numbers again and again
@final
class Targets:
    def __init__(self, targets: list[Target]) -> None: ...

# a dict or a list, and the dicts and lists in it: whether they hold the same objects, in order
@final
class Snapshot:
    def __init__(self, container: Any) -> None: ...
    def is_current(self) -> bool: ...

# parameters that have their gradients as attributes, and the tensors of their state
@final
class Tensors:
    def __init__(
        self,
        *,
        parameters: list[Any],
        states: list[list[Any]],  # of each parameter
        counters: list[Any],  # a tensor of one element for each parameter, or None
        updates: list[int],  # what the counters say
        idle: list[Any],  # tensors that have no gradient
        kept: list[Any],  # what keeps the memory of states and counters
    ) -> None: ...
    # of each parameter, None where there is none; None for all if any memory is elsewhere, a
    # counter was changed or an idle tensor has a gradient
    def gradients(self) -> list[Any] | None: ...
    # which of them a step can't read as they are
    def unfit(self, gradients: list[Any]) -> list[int]: ...
    # counts an update where there is a gradient; how many
    def count(self, gradients: list[Any]) -> int: ...

class InPlace:
    def __enter__(self) -> None: ...
    def __exit__(self, *args: object) -> None: ...

class Hold:
    def __enter__(self) -> None: ...
    def __exit__(self, *args: object) -> None: ...

# What both kinds of plan have; fusestep.engines.protocol.Plan tells what it does.
class _Plan:
    nonfinite: str
    history: int
    @property
    def attempted(self) -> int: ...
    @property
    def applied(self) -> int: ...
    @property
    def updates(self) -> list[int]: ...
    @property
    def values(self) -> list[list[float]]: ...  # that updates hand on, of each parameter
    # samples, micro-batches, the sum of samples times squared norm, which arrays hold a sum
    @property
    def accumulated(self) -> tuple[float, int, float, list[bool]]: ...
    @property
    def accumulated_samples(self) -> float: ...
    @property
    def is_bound(self) -> bool: ...
    @property
    def is_captured(self) -> bool: ...
    @property
    def takes_foreign(self) -> bool: ...
    # a copy of the table that a step reads: a row for each group
    @property
    def settings(self) -> npt.NDArray[np.float64]: ...
    def held(self) -> Hold: ...
    def in_place(self, values: Callable[[], list[Any]]) -> InPlace: ...
    @property
    def is_in_place(self) -> bool: ...
    def rebind(
        self,
        parameters: list[Any],
        containers: list[Entry] = ...,
        changes: Changes | None = None,
    ) -> None: ...
    def check_same(self, parameters: list[Any]) -> None: ...
    def bind(self, gradients: Any) -> None: ...
    def fetch(self, path: str, rows: npt.NDArray[Any]) -> None: ...
    def flush(self) -> None: ...
    # checks everything, then writes everything, then makes the changes (as in commit)
    def set_settings(
        self,
        settings: npt.NDArray[np.float64],
        program: Program | None,
        targets: list[Target],
        changes: Changes | None = None,
    ) -> None: ...
    # all numbers or, where one is not accepted, none
    def set_numbers(self, targets: Targets, numbers: tuple[float, ...]) -> None: ...
    # likewise; arrays are pairs (destination, source) of NumPy, with None for zeros
    def load(
        self,
        *,
        updates: list[int],
        attempted: int,
        applied: int,
        accumulated: tuple[float, int, float, list[bool]],
        settings: npt.NDArray[np.float64],
        program: Program | None,
        targets: list[Target],
        nonfinite: str,
        arrays: list[tuple[Any, Any]] = ...,
        changes: Changes | None = None,
        values: list[list[float]] = ...,  # none: the initial ones
    ) -> None: ...
    # those that take rows are zeros, and nobody else's
    def set_accumulators(self, arrays: list[Any], takes_rows: bool = False) -> None: ...
    def discard_accumulated(self) -> None: ...
    def prepare_replays(
        self, steps: int, clocks: Sequence[Any] | None, grad_scale: float
    ) -> None: ...
    def refuse_capture(self, call: str) -> None: ...
    @property
    def size(self) -> int: ...
    def update_part(self, end: int) -> bool: ...
    def cancel_parts(self) -> None: ...

class CpuPlan(_Plan):
    def __init__(
        self,
        rule: str,
        paths: list[str],
        parameters: list[Any],
        states: list[Any],
        groups: list[int],
        settings: npt.NDArray[np.float64],
        containers: list[Entry] = ...,
        copies: list[Any] = ...,  # an array or None for each parameter; or nothing
    ) -> None: ...
    # what the next update of each parameter is to begin with
    def set_values(self, values: list[list[float]]) -> None: ...
    def accumulate(self, gradients: Any, samples: float) -> float: ...
    def step(
        self,
        gradients: Any,
        grad_scale: float,
        clock: Any,
        take_norm: bool = False,
        changes: Changes | None = None,
        learn: Callable[[float], Changes] | None = None,
        # that of all gradients, where these are some of them; a pair is that of gradients
        # multiplied by a power of two, and the power
        squared_norm: float | tuple[float, float] | None = None,
    ) -> StepInfo: ...
    def begin_parts(
        self,
        gradients: Any,
        grad_scale: float,
        clock: Any,
        take_norm: bool = False,
        changes: Changes | None = None,
        squared_norm: float | tuple[float, float] | None = None,
    ) -> StepInfo: ...

class CudaStepInfo:
    @property
    def lr(self) -> float: ...
    @property
    def grad_norm(self) -> float | None: ...
    @property
    def applied(self) -> bool: ...
    def __iter__(self) -> Iterator[Any]: ...

class CudaPlan(_Plan):
    # make_launcher: see engines.cuda.launcher.Launcher
    def __init__(
        self,
        make_launcher: Callable[[str, int, int], Any],
        array_type: Any,
        device: int,
        rule: str,
        paths: list[str],
        parameters: list[Any],
        states: list[Any],
        groups: list[int],
        settings: npt.NDArray[np.float64],
        containers: list[Entry] = ...,
        copies: list[Any] = ...,  # an array or None for each parameter; or nothing
    ) -> None: ...
    def accumulate(self, gradients: Any, samples: float) -> Any: ...
    def step(
        self,
        gradients: Any,
        grad_scale: float,
        clock: Any,
        take_norm: bool = False,
        changes: Changes | None = None,
        learn: Callable[[float], Changes] | None = None,
        squared_norm: float | tuple[float, float] | None = None,
    ) -> CudaStepInfo: ...
    def begin_parts(
        self,
        gradients: Any,
        grad_scale: float,
        clock: Any,
        take_norm: bool = False,
        changes: Changes | None = None,
        squared_norm: float | tuple[float, float] | None = None,
    ) -> CudaStepInfo: ...

# layouts of the structs of csrc/cuda/launch.h, and what is constant in kernels, by their names
def launch_structs() -> dict[str, np.dtype[np.void]]: ...
def launch_constants() -> dict[str, int]: ...
def check_device_parameters(
    array_type: Any, device: int, paths: list[str], parameters: list[Any]
) -> None: ...

# sets the attributes (object, name, value) with no Python code in between; returns the result
def commit(
    changes: Changes, result: Any = None, expected: Iterable[tuple[Any, str, Any]] = ()
) -> Any: ...

@final
class Copies:
    """Arrays to write, destination and source each; what it checks is checked once."""

    def __init__(self, arrays: list[tuple[Any, Any]]) -> None: ...
    def apply(self) -> None: ...

def build_info() -> dict[str, Any]: ...
def rules() -> dict[str, Rule]: ...
def states_used(rule: str, hyper: list[float]) -> tuple[str, ...]: ...
def use_isa(name: str) -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def check_parameters(paths: list[str], parameters: list[Any]) -> None: ...
def shuffled_order(n: int, seed: int, epoch: int) -> npt.NDArray[np.uint32]: ...
def window_order(n: int, seed: int, epoch: int, window: int) -> npt.NDArray[np.uint32]: ...
def hashed_order(n: int, seed: int, epoch: int, begin: int, end: int) -> npt.NDArray[np.uint64]: ...
def hashed_order_numbers(n: int, seed: int, epoch: int) -> npt.NDArray[np.uint64]: ...
def weighted_order(
    weights: npt.NDArray[np.float64], samples: int, seed: int, epoch: int
) -> npt.NDArray[np.uint32]: ...
def balanced_draws(
    members: npt.NDArray[np.uint32],
    begins: npt.NDArray[np.uint64],
    seed: int,
    epoch: int,
    begin: int,
    end: int,
) -> npt.NDArray[np.uint32]: ...
def balanced_order(
    members: npt.NDArray[np.uint32],
    begins: npt.NDArray[np.uint64],
    samples: int,
    seed: int,
    epoch: int,
) -> npt.NDArray[np.uint32]: ...

class WeightedDraws:
    def __init__(self, weights: npt.NDArray[np.float64]) -> None: ...
    def draw(self, seed: int, epoch: int, begin: int, end: int) -> npt.NDArray[np.uint32]: ...

class Gathering:
    def __init__(self, entries: list[Any], indices: npt.NDArray[Any]) -> None: ...
    def has(self, rows: int) -> bool: ...
    def finish(self, rows: int) -> None: ...

def unique_rows(ids: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]: ...

# of what several processes add
BLOCK: int  # elements whose squares are added together

def add_arrays(
    arrays: Sequence[npt.NDArray[Any]], additions: Sequence[int], target: npt.NDArray[Any]
) -> None:
    """Writes a sum of arrays; ``additions`` are their places in postfix, and -1 to add."""
    ...

def block_sums(array: npt.NDArray[Any], scale: float = 1.0) -> npt.NDArray[np.float64]:
    """The sums of squares of blocks of elements, which are multiplied by ``scale`` first."""
    ...

def add_block_sums(sums: npt.NDArray[np.float64]) -> float:
    """The sum over blocks, as a step adds it."""
    ...

def scale_for(sum: float) -> float:
    """The power of two for which sums of squares are taken again; 1 where they need not be."""
    ...
