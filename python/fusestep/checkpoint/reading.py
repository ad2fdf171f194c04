"""Files as they are read: vetted first, then verified, and only then taken from."""

from __future__ import annotations

import math
import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..saved_state import (
    anything,
    dict_of,
    fields,
    list_of,
    optional,
    read,
    short,
    text,
    whole,
)
from .flattening import nested
from .form import (
    DIGEST,
    DIGITS,
    FORMAT,
    LARGEST_HEADER,
    PREFIX,
    CheckpointError,
    code_of,
    dtype_of,
    from_json,
    name_of,
    needed,
)
from .writing import CHUNK

RANGES = "ranges"  # the part that lists other files

_parameter = fields({"path": text, "dtype": text, "shape": list_of(whole())})
_contents = fields(
    {
        "fusestep": text,
        "step": optional(whole(0, 2**63 - 1)),
        "params": optional(list_of(_parameter)),
        "begin": whole(),
        "end": whole(),
        "parts": dict_of(anything),
    }
)


class SavedFile:
    """A file that is open: its header fits its size, and says what it holds.

    ``contents`` is that; ``arrays`` are views of the file itself, which nothing can write into. Of
    a parameter that is partly in the file's range they have that part, without its shape. For a
    with statement; raises CheckpointError naming the file.
    """

    contents: dict[str, Any]
    arrays: dict[str, np.ndarray[Any, Any]]
    elements: int  # of all parameters, wherever they are

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_verified = False
        self._library = needed("safetensors")
        self._file = path.open("rb")
        try:
            self._look()
        except CheckpointError as error:
            self._file.close()
            raise self.error(str(error)) from None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> SavedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.arrays = {}
        self._file.close()

    def verify(self) -> None:
        """Reads the whole file once; CheckpointError where the bytes are not those saved."""
        if self._is_verified:
            return
        checksum = needed("xxhash").xxh3_128()
        begin = bytearray(self._begin)
        begin[DIGEST] = b"0" * DIGITS
        checksum.update(begin)
        self._file.seek(len(begin))
        buffer = memoryview(bytearray(CHUNK))
        while count := self._file.readinto(buffer):
            checksum.update(buffer[:count])
        if checksum.hexdigest().encode() != self._begin[DIGEST]:
            raise self.error("it is damaged: its bytes have another checksum than those saved")
        self._is_verified = True

    @property
    def digest(self) -> str:
        """The checksum that it says it has."""
        return self._begin[DIGEST].decode("ascii", "replace")

    def error(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self.path} can't be loaded: {reason}")

    def _look(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        length = int.from_bytes(self._file.read(8), "little")
        if size < DIGEST.stop or length > min(size - 8, LARGEST_HEADER):
            raise CheckpointError(f"it is cut off, or no checkpoint ({size} bytes)")
        self._file.seek(0)
        self._begin = self._file.read(8 + length)
        if not self._begin.startswith(PREFIX, 8):
            raise CheckpointError("it is no checkpoint of fusestep")
        self._vet()
        entries = from_json(self._begin[8:])
        metadata = entries.pop("__metadata__")
        self.contents = _read(from_json(metadata.get("fusestep", "")))
        memory = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        data = np.frombuffer(memory, np.uint8)[8 + length :]
        self.arrays = {name: _array(data, entry) for name, entry in entries.items()}
        self._check_parameters()
        if RANGES not in self.contents["parts"]:  # whose arrays are in other files
            nested(self.contents["parts"], self.arrays)  # every array that it names is there

    def _vet(self) -> None:
        """Has safetensors look at the header: every byte of the data is of one array, and fits."""
        try:
            with self._library.safe_open(self.path, framework="numpy"):
                is_same = os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except self._library.SafetensorError as error:
            raise CheckpointError(f"it is damaged: {error}") from None
        if not is_same:
            raise CheckpointError("it was replaced while it was read; load it again")

    def _check_parameters(self) -> None:
        """Of each there is the part that is in the range of the file."""
        begin, end, last = self.contents["begin"], self.contents["end"], 0
        for path, code, shape in (p.values() for p in self.contents["params"] or ()):
            first, last = last, last + math.prod(shape)
            count = min(end, last) - max(begin, first)
            is_whole = count == last - first
            if count > 0 or is_whole:
                here = self.arrays.get(name_of(path))
                expected = (shape if is_whole else [count], code)
                if here is None or (list(here.shape), code_of(here.dtype)) != expected:
                    raise CheckpointError(f"params[{short(path)}]: there is no array {expected}")
        self.elements = last
        if not 0 <= begin <= end <= last:
            raise CheckpointError(f"it has no elements {begin} to {end} of {last}")


def _array(data: np.ndarray[Any, Any], entry: dict[str, Any]) -> np.ndarray[Any, Any]:
    begin, end = entry["data_offsets"]
    try:
        return data[begin:end].view(dtype_of(entry["dtype"])).reshape(entry["shape"])
    except (ValueError, OverflowError) as error:  # more dimensions than NumPy has, or longer ones
        raise CheckpointError(f"shape {short(entry['shape'])}: {error}") from None


def _read(contents: Any) -> dict[str, Any]:
    found: list[str] = []
    values: dict[str, Any] = read(contents, _contents, found, version=FORMAT)
    if found:
        raise CheckpointError("\n  ".join(["its contents are not in this form:", *found]))
    return values
