"""Checkpoints: all that a run needs to go on, in one file that is whole or not there.

    save(path, step=..., params=..., optimizer=..., loader=...)     # one file
    load(path, params=..., optimizer=..., loader=...)               # into what is there
    Checkpoints(folder, keep=3, every="10 min")                     # the newest of a run

Needs ``pip install 'fusestep[checkpoint]'`` (safetensors and xxhash), but for `flatten` and
`unflatten`, which are for formats of one's own.
"""

from __future__ import annotations

from .background import writer
from .flattening import flatten, unflatten
from .form import CheckpointError
from .loading import Loaded, load
from .rotation import Checkpoints, latest
from .saving import save

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "Loaded",
    "flatten",
    "latest",
    "load",
    "save",
    "unflatten",
    "wait",
]


def wait() -> None:
    """Waits for a save in the background, and gives back the memory of its copies.

    Raises the error that it ended with, if no call has raised it yet.
    """
    writer.wait()


def __dir__() -> list[str]:
    return __all__
