"""Files that are whole: what stands at a path is the one before or the one after."""

from __future__ import annotations

import errno
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CHUNK = 2**20  # bytes that a cache holds between hashing and writing
STRETCH = 2**26  # bytes that are written out at once
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
# where folders are not synced or not read, as PostgreSQL's fsync_fname takes it
_NOT_FOR_FOLDERS = {errno.EACCES, errno.EBADF, errno.EINVAL, errno.EISDIR, errno.ENOTSUP}
_UNFINISHED = ".partial"


@contextmanager
def replaced(path: Path, is_abandoned: Callable[[str], bool]) -> Iterator[int]:
    """A descriptor of a new file, which takes the place of the path when the body has ended.

    It is on the disk before it does, under a name of its own in the same folder, and the folder is
    after. Unfinished files that killed processes have left of names that ``is_abandoned`` takes are
    removed. OSError names the path.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_UNFINISHED}")
    with _named(path):
        _remove_unfinished(path.parent, is_abandoned)
        descriptor = os.open(temporary, _FLAGS, 0o666)
        try:
            try:
                _is_locked(descriptor)
                yield descriptor
                _sync(descriptor)
                if fcntl is not None:  # while it is locked
                    temporary.replace(path)
            finally:
                os.close(descriptor)
            if fcntl is None:  # Windows renames no file that is open
                temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """An error of the system says what failed, and for which file."""
    try:
        yield
    except OSError as error:
        reason = f"the checkpoint was not saved: {error.strerror or error}"
        raise OSError(error.errno or errno.EIO, reason, str(path)) from error


def write(descriptor: int, memory: memoryview) -> None:
    """Writes all of it: the system may take less at once."""
    while memory:
        written = os.write(descriptor, memory)
        if written <= 0:
            raise OSError(errno.EIO, "nothing was written")
        memory = memory[written:]


def chunks(memory: Any) -> Iterable[memoryview]:
    view = memoryview(memory)
    return (view[start : start + CHUNK] for start in range(0, len(view), CHUNK))


def begin_writing_out(descriptor: int, begin: int, end: int) -> None:
    """Has the system begin now with these bytes, which it would else leave to the sync.

    Linux begins with those that are not on the disk yet when it is told that nobody needs them.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.posix_fadvise(descriptor, begin, end - begin, os.POSIX_FADV_DONTNEED)


def sync_folder(folder: Path) -> None:
    """Makes new names in a folder durable, where the system can."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            _sync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS:
            raise


def _sync(descriptor: int) -> None:
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: its fsync leaves data in the drive's cache
        with suppress(OSError):  # a file system without it
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def _remove_unfinished(folder: Path, is_abandoned: Callable[[str], bool]) -> None:
    for entry in folder.iterdir():
        name, _, token = entry.name.removesuffix(_UNFINISHED).rpartition(".")
        is_unfinished = entry.name.endswith(_UNFINISHED) and len(token) == 8
        if is_unfinished and name.startswith(".") and is_abandoned(name[1:]):
            with suppress(OSError):
                state = entry.stat()
                # an empty one may be new, and about to be locked
                if state.st_size > 0 or time.time() - state.st_mtime > 60:
                    _remove_unless_in_use(entry)


def _remove_unless_in_use(path: Path) -> None:
    if fcntl is None:  # Windows removes no file that is open
        path.unlink()
        return
    descriptor = os.open(path, os.O_RDWR)
    try:
        if _is_locked(descriptor):
            path.unlink()
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Locks a file for as long as this process has it open; False if another one has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (AttributeError, OSError):  # Windows, or a file system without locks
        return False
    return True
