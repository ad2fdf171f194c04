from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias, final

import numpy as np
import numpy.typing as npt
from _typeshed import structseq

# name, lower bound, upper bound, whether the upper bound is excluded, whether it is a flag
Column: TypeAlias = tuple[str, float, float, bool, bool]

# 0 for a hyper-parameter, 1 for a limit; its place; its name; lower bound; upper bound; whether the
# upper bound is excluded; what is expected, in words
Target: TypeAlias = tuple[int, int, str, float, float, bool, float, str]

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

class Hold:
    def __enter__(self) -> None: ...
    def __exit__(self, *args: object) -> None: ...

class CpuPlan:
    attempted: int
    applied: int
    nonfinite: str
    updates: list[int]
    def __init__(
        self,
        rule: str,
        paths: list[str],
        parameters: list[Any],
        states: list[Any],
        groups: list[int],
        hyper: npt.NDArray[np.float64],
        limits: npt.NDArray[np.float64],
        containers: list[Entry] = ...,
    ) -> None: ...
    # goes on with other arrays of the same shapes and dtypes, then makes the changes
    def rebind(
        self,
        parameters: list[Any],
        containers: list[Entry] = ...,
        changes: Changes | None = None,
    ) -> None: ...
    # raises StateError naming a parameter that is another object
    def check_same(self, parameters: list[Any]) -> None: ...
    # inside of "with plan.held():" other threads' calls raise StateError
    def held(self) -> Hold: ...
    def bind(self, gradients: Any) -> None: ...
    @property
    def is_bound(self) -> bool: ...
    # copies of what a step reads: a row for each group, and the limits
    @property
    def hyper(self) -> npt.NDArray[np.float64]: ...
    @property
    def limits(self) -> npt.NDArray[np.float64]: ...
    # checks everything, then writes everything, then makes the changes (as in commit)
    def set_settings(
        self,
        hyper: npt.NDArray[np.float64],
        limits: npt.NDArray[np.float64],
        program: Program | None,
        targets: list[Target],
        nonfinite: str | None = None,
        changes: Changes | None = None,
    ) -> None: ...
    # likewise; arrays are pairs (destination, source) of NumPy
    def load(
        self,
        *,
        updates: list[int],
        attempted: int,
        applied: int,
        accumulated: tuple[float, int, float, list[bool]],
        hyper: npt.NDArray[np.float64],
        limits: npt.NDArray[np.float64],
        program: Program | None,
        targets: list[Target],
        nonfinite: str | None = None,
        arrays: list[tuple[Any, Any]] = ...,
        changes: Changes | None = None,
    ) -> None: ...
    # samples, micro-batches, the sum of samples times squared norm, which arrays hold a sum
    accumulated: tuple[float, int, float, list[bool]]
    @property
    def accumulated_samples(self) -> float: ...
    def set_accumulators(self, arrays: list[Any]) -> None: ...
    def accumulate(self, gradients: Any, samples: float) -> float: ...
    def discard_accumulated(self) -> None: ...
    # the changes are made if the update is
    def step(
        self,
        gradients: Any,
        grad_scale: float,
        clock: Any,
        take_norm: bool = False,
        changes: Changes | None = None,
        learn: Callable[[float], Changes] | None = None,  # further changes, given the norm
    ) -> StepInfo: ...

# What the kernels of the GPU are launched with. Addresses are whole numbers; tables are bytes.
class CudaPlan:
    attempted: int
    applied: int
    nonfinite: str
    updates: list[int]
    def __init__(
        self,
        array_type: Any,
        device: int,
        rule: str,
        paths: list[str],
        parameters: list[Any],
        states: list[Any],
        groups: list[int],
        hyper: npt.NDArray[np.float64],
        limits: npt.NDArray[np.float64],
        containers: list[Entry] = ...,
    ) -> None: ...
    # goes on with other arrays of the same shapes and dtypes, then makes the changes
    def rebind(
        self,
        parameters: list[Any],
        containers: list[Entry] = ...,
        changes: Changes | None = None,
    ) -> None: ...
    # raises StateError naming a parameter that is another object
    def check_same(self, parameters: list[Any]) -> None: ...
    # inside of "with plan.held():" other threads' calls raise StateError
    def held(self) -> Hold: ...
    def bind(self, gradients: Any) -> None: ...
    @property
    def is_bound(self) -> bool: ...
    # copies of what a step reads: a row for each group, and the limits
    @property
    def hyper(self) -> npt.NDArray[np.float64]: ...
    @property
    def limits(self) -> npt.NDArray[np.float64]: ...
    # checks everything, then writes everything, then makes the changes (as in commit)
    def set_settings(
        self,
        hyper: npt.NDArray[np.float64],
        limits: npt.NDArray[np.float64],
        program: Program | None,
        targets: list[Target],
        nonfinite: str | None = None,
        changes: Changes | None = None,
    ) -> None: ...
    # likewise; arrays are pairs (destination, source) of NumPy
    def load(
        self,
        *,
        updates: list[int],
        attempted: int,
        applied: int,
        accumulated: tuple[float, int, float, list[bool]],
        hyper: npt.NDArray[np.float64],
        limits: npt.NDArray[np.float64],
        program: Program | None,
        targets: list[Target],
        nonfinite: str | None = None,
        arrays: list[tuple[Any, Any]] = ...,
        changes: Changes | None = None,
    ) -> None: ...
    accumulated: tuple[float, int, float, list[bool]]
    @property
    def accumulated_samples(self) -> float: ...
    def set_accumulators(self, arrays: list[Any]) -> None: ...
    def discard_accumulated(self) -> None: ...
    @property
    def rule_type(self) -> str: ...
    def leaves(self) -> bytes: ...
    def chunks(self) -> bytes: ...
    # thread blocks, sums, groups
    def sum_layout(self) -> tuple[int, int, int]: ...
    def place(self, at: dict[str, int]) -> None: ...
    # whether it needs the sum of squares, whether others take part
    def begin(
        self, gradients: Any, grad_scale: float, clock: Any, take_norm: bool
    ) -> tuple[bool, bool]: ...
    # refuses the step that was begun
    def take_back(self) -> None: ...
    # the entries where they do not fit the arguments
    def prepare(self) -> bytes | None: ...
    def add_row(self, clock: Any, ahead: int) -> None: ...
    # rows of entries, clipping norms
    def table(self) -> tuple[bytes, bytes]: ...
    def undo(self) -> None: ...
    def take_row(self, row: int) -> None: ...
    def take_part(self) -> None: ...
    def cases(self) -> list[int]: ...
    def fill(
        self,
        has_sum: bool,
        counts: bool,
        table: int,
        clip_norms: int,
        report: int,
        number: int,
    ) -> None: ...
    def commit(self, changes: Changes | None = None) -> None: ...
    def launched(self) -> None: ...
    def resolve(self, attempted: int, applied: int) -> None: ...
    # which accumulators hold something
    def begin_micro_batch(self, gradients: Any, samples: float, sum: int) -> bytes: ...
    def end_micro_batch(self, samples: float) -> None: ...
    def refusal(self, leaf: int, what: str) -> str: ...
    @property
    def lr(self) -> float: ...
    @property
    def gradients(self) -> npt.NDArray[np.uint64]: ...
    @property
    def entry_of(self) -> npt.NDArray[np.uint32]: ...
    @property
    def update_arguments(self) -> npt.NDArray[np.void]: ...
    @property
    def sum_arguments(self) -> npt.NDArray[np.void]: ...
    @property
    def second_sum_arguments(self) -> npt.NDArray[np.void]: ...
    @property
    def rescues(self) -> bool: ...
    @property
    def conclusion(self) -> npt.NDArray[np.void]: ...

DEVICE_THREADS: int

def check_device_parameters(
    array_type: Any, device: int, paths: list[str], parameters: list[Any]
) -> None: ...

# sets the attributes (object, name, value) with no Python code in between; returns the result
def commit(
    changes: Changes, result: Any = None, expected: Iterable[tuple[Any, str, Any]] = ()
) -> Any: ...
def build_info() -> dict[str, Any]: ...
def rules() -> dict[str, tuple[tuple[Column, ...], tuple[str, ...]]]: ...
def states_used(rule: str, hyper: list[float]) -> int: ...
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
