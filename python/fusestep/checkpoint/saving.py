"""What is saved: collected and checked first, then written."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from .. import foreign, trees
from .._core import StateError
from ..arguments import check_flag, check_whole
from ..optim import Optimizer
from ..saved_state import differences
from .background import host_copy, writer
from .flattening import Flattened, has_state
from .form import DIGEST, code_of, header, name_of, needed
from .writing import STRETCH, begin_writing_out, chunks, replaced, write


def collected(
    held: ExitStack, step: int | None, params: Any, parts: Mapping[str, Any]
) -> tuple[bytes, dict[str, Any]]:
    """The header of a file, and its arrays: those that were passed, of optimizers too.

    No optimizer takes a step until ``held`` ends. Raises TypeError, ValueError or StateError naming
    what can't be saved.
    """
    for module in ("safetensors", "xxhash"):
        needed(module)
    parts = {name: value for name, value in parts.items() if value is not None}
    if params is None and not parts:
        raise ValueError("nothing to save: pass params, optimizer, loader or extra")
    contents: dict[str, Any] = {
        "step": None if step is None else check_whole("step", step, 0),
        "params": None,
        "begin": 0,
        "end": 0,
    }
    with differences("a checkpoint") as found:
        flattened = Flattened(found, held)
        if params is not None:
            refuse_averages(parts.get("optimizer"))
            structure, leaves = trees.flatten(params)
            foreign.check_parameters(structure.paths, leaves)
            for path, array in zip(structure.paths, leaves, strict=True):
                flattened.add(name_of(path), array)
            contents["params"] = listed(structure.paths, leaves)
            contents["end"] = sum(math.prod(array.shape) for array in leaves)
        for name in ("optimizer", "loader"):
            check_objects(name, parts.get(name))
        contents["parts"] = {name: flattened.of(value, name) for name, value in parts.items()}
    return laid_out(contents, flattened.arrays)


def listed(paths: Sequence[str], arrays: Sequence[Any]) -> list[dict[str, Any]]:
    """Parameters as the contents of a file have them."""
    return [
        {"path": path, "dtype": code_of(array.dtype), "shape": list(array.shape)}
        for path, array in zip(paths, arrays, strict=True)
    ]


def laid_out(
    contents: Mapping[str, Any], arrays: Mapping[str, Any]
) -> tuple[bytes, dict[str, Any]]:
    """The header of a file, and its arrays in their order."""
    # the widest first, so that each begins at a multiple of its width
    placed = dict(sorted(arrays.items(), key=lambda entry: -entry[1].dtype.itemsize))
    return header(contents, placed), placed


def check_objects(name: str, value: Any) -> None:
    """Raises TypeError unless it is None, one object with a state, or a dict of such."""
    if value is None or has_state(value):
        return
    for one in value.values() if isinstance(value, Mapping) else [value]:
        if not has_state(one):
            raise TypeError(
                f"{name} must be an object with state_dict and load_state_dict, or a dict of such, "
                f"not {type(one).__name__}"
            )


def refuse_averages(optimizer: Any) -> None:
    for one in optimizer.values() if isinstance(optimizer, Mapping) else [optimizer]:
        if isinstance(one, Optimizer) and one._plan.is_in_place:
            raise StateError("the parameters hold their averages: leave averaged_in_place() first")


def write_file(
    path: Path,
    begin: bytes,
    arrays: Mapping[str, Any],
    is_abandoned: Callable[[str], bool],
) -> str:
    """Writes a file whole and durably, or raises OSError with what was there before in place.

    Returns its checksum.
    """
    checksum = needed("xxhash").xxh3_128()
    with replaced(path, is_abandoned) as descriptor:
        checksum.update(begin)
        write(descriptor, memoryview(begin))
        first = last = len(begin)
        for array in arrays.values():
            for chunk in chunks(_bytes_of(array)):
                checksum.update(chunk)
                write(descriptor, chunk)
                last += len(chunk)
                if last - first >= STRETCH:
                    begin_writing_out(descriptor, first, last)
                    first = last
        os.lseek(descriptor, DIGEST.start, os.SEEK_SET)
        digest: str = checksum.hexdigest()
        write(descriptor, memoryview(digest.encode()))
    return digest


def _bytes_of(array: Any) -> Any:
    """The bytes of an array in C order: its own memory where that has them."""
    if not isinstance(array, np.ndarray):
        array = host_copy(array)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def save(
    path: str | os.PathLike[str],
    *,
    step: int | None = None,
    params: Any = None,
    optimizer: Any = None,
    loader: Any = None,
    extra: Any = None,
    background: bool = False,
) -> Path:
    """Saves what a run needs to go on, in one file of safetensors that is whole or not there.

    The file is written under another name in the same folder and takes the place of ``path`` when
    all of it is on the disk: whatever happens, ``path`` is what it was before or the new one. A
    checksum over all its bytes is verified by `load`.

    Args:
        path: of the file; a file that is there is replaced. The folder must exist.
        step: how far the run is: a whole number, at least 0.
        params: arrays of NumPy or CuPy in any nesting that an optimizer takes. They keep their
            dtypes: integers, floats and complex64 of at most 64 bits, truth values, and bfloat16
            and float8 of ml_dtypes, in the processor's byte order.
        optimizer: an object with ``state_dict`` and ``load_state_dict``, or a dict of such.
        loader: likewise.
        extra: any nesting of dicts and lists of arrays, JSON values (numbers that are finite) and
            objects as above.
        background: return when all is copied, and let a thread write. The next call of this module
            waits for it and raises the error that it ended with, a save once it has saved; `wait`
            does that alone, and the exit of the interpreter waits. The memory of the copies is kept
            for the next save until `wait`.

    Returns:
        The path.

    Raises:
        TypeError, ValueError, StateError: named by their paths, what can't be saved. Nothing was
            written.
        OSError: the file could not be written, which it names. A file of before is still there.
        ImportError: safetensors or xxhash is missing.

    Arrays are little-endian and in C order in the file, under "params/dense1/w",
    "optimizer/parameters/dense1/w/state/m" and so on; other programs can read them.

    Example:
        >>> import tempfile, numpy as np, fusestep as fs
        >>> params = {"w": np.ones(3)}
        >>> opt = fs.AdamW(params, lr=0.1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = folder + "/run.safetensors"
        ...     _ = fs.checkpoint.save(path, step=7, params=params, optimizer=opt)
        ...     params["w"] += 1.0
        ...     loaded = fs.checkpoint.load(path, params=params, optimizer=opt)
        >>> loaded.step, params["w"]
        (7, array([1., 1., 1.]))
    """
    target = Path(path)
    parts = {"optimizer": optimizer, "loader": loader, "extra": extra}
    return save_as(target, lambda name: name == target.name, step, params, parts, background)


def save_as(
    path: Path,
    is_abandoned: Callable[[str], bool],
    step: int | None,
    params: Any,
    parts: Mapping[str, Any],
    background: bool,
    then: Callable[[], object] = lambda: None,
) -> Path:
    """`save`, which does something more once the file is on the disk."""
    check_flag("background", background)
    failed = writer.join()

    def write(arrays: Mapping[str, Any]) -> None:
        write_file(path, begin, arrays, is_abandoned)
        then()

    with ExitStack() as held:
        begin, arrays = collected(held, step, params, parts)
        if background:
            writer.start(arrays, write)
        else:
            write(arrays)
    writer.raise_once(failed)  # only now: a run that ends by it has lost nothing more
    return path
