"""What is loaded: all of it is compared first, then written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import foreign, trees
from ..saved_state import array, differences, reported
from .background import writer
from .flattening import ARRAY, STATE, array_of, has_state, nested
from .form import CheckpointError, name_of
from .ranges import SavedRanges, opened
from .reading import SavedFile
from .saving import check_objects


class Loaded(NamedTuple):
    """What a load found.

    Args:
        step: that was saved, or None.
        extra: what was saved as ``extra``: values as they were, and the arrays and objects that
            were given to load into, or else copies and states. None if nothing was.
        new: what is here and not in the file, and stays as it is.
        unused: what is in the file and was not asked for.
        renamed: pairs of the saved path and the path here.

    Paths begin with the part: "params/dense1/w", "optimizer/dense1/w", "loader".
    """

    step: int | None
    extra: Any
    new: tuple[str, ...]
    unused: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]


def load(
    path: str | os.PathLike[str],
    *,
    params: Any = None,
    optimizer: Any = None,
    loader: Any = None,
    extra: Any = None,
    strict: bool = True,
    keep: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
) -> Loaded:
    """Goes on from what `save` saved: into the arrays and objects that are there, or not at all.

    The file is verified and all of it compared with what is here before anything is written.
    Nothing is unpickled, and memory is taken for the header of a file alone, of 100 MB at most.

    Args:
        path: of the file.
        params: the arrays to write into, nested as they were saved, of the same shapes and dtypes.
            None leaves this part out, here and below.
        optimizer, loader: the object, or a dict of objects, to load the saved state into.
        extra: a nesting as it was saved, in which arrays are written and objects loaded into;
            everything else in it only stands for itself. Without it `Loaded.extra` has all values,
            with copies of the arrays.
        strict: False takes what the file has of what is here: parameters, and parts, that it has
            not stay as they are. What both have must still be of one shape and dtype.
        keep: settings of ``optimizer`` whose present values stay, as in ``keep=("lr",)``.
        rename: paths of parameters in the file and what they are called here.

    Returns:
        ``step`` and ``extra`` as they were saved, and ``new``, ``unused`` and ``renamed``: see
        `Loaded`.

    Raises:
        CheckpointError: the file is cut off, damaged or no checkpoint. It is a StateError.
        StateError: names every difference between the file and what is here.
        OSError: the file can't be read.
        ImportError: safetensors or xxhash is missing.

    In each case nothing has changed: where an object refuses its state, those that had loaded
    theirs load again what they had. Only an interrupt while arrays are written leaves some of them
    written.

    Example:
        >>> import tempfile, numpy as np, fusestep as fs
        >>> saved = {"body": np.ones(2), "head": np.ones(3)}
        >>> params = {"body": np.zeros(2), "tail": np.zeros(3)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = folder + "/run.safetensors"
        ...     _ = fs.checkpoint.save(path, params=saved, extra={"best": 0.5})
        ...     loaded = fs.checkpoint.load(path, params=params, strict=False)
        >>> loaded.extra, loaded.new, loaded.unused
        ({'best': 0.5}, ('params/tail',), ('params/head',))
        >>> params["body"], params["tail"]
        (array([1., 1.]), array([0., 0., 0.]))
    """
    writer.finish()
    path = Path(path)
    given = {"loader": loader, "extra": extra, "optimizer": optimizer}
    for name in ("optimizer", "loader"):
        check_objects(name, given[name])
    with opened(path) as file:
        return load_from(file, params, given, strict=strict, keep=keep, rename=rename or {})


def load_from(
    file: SavedFile | SavedRanges,
    params: Any,
    given: Mapping[str, Any],
    *,
    strict: bool,
    keep: Sequence[str],
    rename: Mapping[str, str],
    agree: Callable[[], object] | None = None,
) -> Loaded:
    """`load`, of a file that is open; ``agree`` may refuse what is ready to be written."""
    file.verify()
    with differences(f"what {str(file.path)!r} is loaded into") as found:
        loading = Loading(file, found, strict, keep, rename)
        loading.look_at_params(params)
        for name, value in given.items():
            loading.look_at_part(name, value)
        loading.look_at_names()
        if not found:
            loading.load_objects(agree)
    loading.write_arrays()
    return Loaded(
        file.contents["step"],
        loading.extra,
        tuple(loading.new),
        tuple(loading.unused),
        tuple(loading.renamed),
    )


class Loading:
    """One load: what it will write, and the differences found."""

    def __init__(
        self,
        file: SavedFile | SavedRanges,
        found: list[str],
        strict: bool,
        keep: Sequence[str],
        rename: Mapping[str, str],
    ) -> None:
        self._file, self._strict, self._keep, self._rename = file, strict, keep, rename
        self.found = found
        self._objects: list[tuple[str, Any, Any]] = []  # path, object, state
        self._writes: list[tuple[Any, Any]] = []  # array, source
        self._known: set[str] = set()  # parameters that were saved
        self.extra: Any = None
        self.new: list[str] = []
        self.unused: list[str] = []
        self.renamed: list[tuple[str, str]] = []

    # looking

    def look_at_params(self, params: Any) -> None:
        contents = self._file.contents
        saved = contents["params"]
        if params is None or saved is None:
            if params is not None:
                self._lacks("params")
            elif saved is not None:
                self.unused.append("params")
            return
        begin, end, elements = contents["begin"], contents["end"], self._file.elements
        if end - begin < elements:
            raise CheckpointError(
                f"{self._file.path} holds the elements {begin} to {end} of {elements} alone"
            )
        structure, leaves = trees.flatten(params)
        foreign.check_parameters(structure.paths, leaves)
        here = dict(zip(structure.paths, leaves, strict=True))
        paths = [entry["path"] for entry in saved]
        there = {self._rename.get(path, path): path for path in paths}
        self._known.update(paths)
        self.found += [
            f"rename: {new!r} is not present" for new in self._rename.values() if new not in here
        ]
        self.found += [
            f"rename: {count} saved parameters would be {path!r}"
            for path, count in Counter(self._rename.get(path, path) for path in paths).items()
            if count > 1
        ]
        for path, leaf in here.items():
            if path in there:
                source = self._file.arrays[name_of(there[path])]
                self._take(foreign.where("params", path), leaf, source)
            elif self._strict:
                self.found.append(f"{foreign.where('params', path)}: not saved")
            else:
                self.new.append(name_of(path))
        for path in there:
            if path not in here:
                if self._strict:
                    self.found.append(f"{foreign.where('params', path)}: saved, and not here")
                self.unused.append(name_of(path))
        self.renamed += [(name_of(old), name_of(new)) for old, new in self._rename.items()]

    def look_at_names(self) -> None:
        """What is renamed must be saved somewhere: each optimizer is told of its own."""
        self.found += [
            f"rename: {old!r} is not saved" for old in self._rename if old not in self._known
        ]

    def look_at_part(self, name: str, value: Any) -> None:
        parts = self._file.contents["parts"]
        if value is None:
            if name == "extra":
                self.extra = plain(nested(parts.get(name), self._file.arrays))
            elif name in parts:
                self.unused.append(name)
        elif name not in parts:
            self._lacks(name)
        else:
            result = self._look(value, parts[name], name)
            if name == "extra":
                self.extra = result

    def _look(self, here: Any, there: Any, path: str) -> Any:
        """What `Loaded.extra` has for a value that was given, which will be loaded into."""
        arrays = self._file.arrays
        kind = _kind(there)
        if foreign.is_array(here):
            if kind == ARRAY:
                self._take(path, here, array_of(there, arrays))
                return here
        elif has_state(here):
            if kind == STATE:
                self._objects.append((path, here, nested(there[STATE], arrays)))
                self._known.update(_parameters_of(self._objects[-1][2]))
                return here
        elif isinstance(here, Mapping):
            if kind is dict:
                return self._look_at_entries(here, there, path)
        elif isinstance(here, (list, tuple)) and _is_loaded_into(here):
            if kind is list and len(there) == len(here):
                pairs = enumerate(zip(here, there, strict=True))
                return [self._look(a, b, f"{path}/{i}") for i, (a, b) in pairs]
        else:  # a value to replace
            return plain(nested(there, arrays))
        present = type(here).__name__ + (f" of {len(here)}" if isinstance(here, list) else "")
        self.found.append(f"{path}: saved {_in_words(there)}, present {present}")
        return None

    def _look_at_entries(self, here: Mapping[str, Any], there: Any, path: str) -> Any:
        entries = {}
        for key, value in here.items():
            if key in there:
                entries[key] = self._look(value, there[key], f"{path}/{key}")
            else:
                self._lacks(f"{path}/{key}")
                entries[key] = value
        for key in there:
            if key not in here and path.startswith("extra"):
                entries[key] = plain(nested(there[key], self._file.arrays))
            elif key not in here:
                self.unused.append(f"{path}/{key}")
        return entries

    def _take(self, where: str, target: Any, source: Any) -> None:
        before = len(self.found)
        source = array(target.shape, target.dtype)(source, where, self.found)
        if isinstance(target, np.ndarray) and not target.flags.writeable:
            self.found.append(f"{where}: is read-only")
        if len(self.found) == before:
            if not isinstance(target, np.ndarray) and not target.flags.c_contiguous:
                source = _on_device(target, source)  # what may fail comes first
            self._writes.append((target, source))

    def _lacks(self, path: str) -> None:
        if self._strict:
            self.found.append(f"{path}: not saved; leave it out, or strict=False")
        else:
            self.new.append(path)

    # writing

    def load_objects(self, agree: Callable[[], object] | None) -> None:
        """Loads the states of all objects, or puts back those that took theirs over."""
        loaded: list[tuple[Any, Any]] = []
        try:
            for i, (path, one, state) in enumerate(self._objects, 1):
                # after the last one nothing refuses: no copy of what may be large
                is_needed = i < len(self._objects) or self.found or agree is not None
                before = one.state_dict() if is_needed else None
                options = self._options(state) if path.startswith("optimizer") else {}
                with reported(self.found, path):
                    told = one.load_state_dict(state, **options)
                    loaded.append((one, before))
                    self._tell(path, told)
            if agree is not None and not self.found:
                agree()
        except BaseException:
            _put_back(loaded)
            raise
        if self.found:
            _put_back(loaded)

    def _options(self, state: Any) -> dict[str, Any]:
        saved = _parameters_of(state)
        rename = {old: new for old, new in self._rename.items() if old in saved}
        options = {"keep": self._keep, "rename": rename}
        given = {name: value for name, value in options.items() if value}
        return given if self._strict else {**given, "strict": False}

    def _tell(self, path: str, told: Any) -> None:
        self.new += [f"{path}/{name}" for name in getattr(told, "new", ())]
        self.unused += [f"{path}/{name}" for name in getattr(told, "unused", ())]
        pairs = getattr(told, "renamed", ())
        self.renamed += [(f"{path}/{old}", f"{path}/{new}") for old, new in pairs]

    def write_arrays(self) -> None:
        for target, source in self._writes:
            if isinstance(target, np.ndarray):
                np.copyto(target, source, casting="no")
                continue
            with target.device:
                if isinstance(source, np.ndarray):
                    target.set(source)
                else:
                    target[...] = source
                target.device.synchronize()  # the file is closed after it


def _parameters_of(state: Any) -> Mapping[str, Any]:
    """The saved parameters of an optimizer's state, by path."""
    found = state.get("parameters") if isinstance(state, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _put_back(loaded: list[tuple[Any, Any]]) -> None:
    for one, before in reversed(loaded):
        if before is not None:
            one.load_state_dict(before)


def _on_device(target: Any, source: Any) -> Any:
    import cupy

    with target.device:
        return cupy.asarray(source)


def plain(value: Any) -> Any:
    """The same nesting with copies of its arrays."""
    return trees.snapshot(value, lambda leaf: leaf.copy() if foreign.is_array(leaf) else leaf)


def _kind(saved: Any) -> Any:
    if isinstance(saved, dict):
        return next((marker for marker in (ARRAY, STATE) if marker in saved), dict)
    return type(saved)


def _is_loaded_into(here: Any) -> bool:
    """Whether there are arrays or objects in it; otherwise it is a value, which may grow."""
    if foreign.is_array(here) or has_state(here):
        return True
    entries = here.values() if isinstance(here, Mapping) else here
    return isinstance(here, (Mapping, list, tuple)) and any(map(_is_loaded_into, entries))


def _in_words(saved: Any) -> str:
    names = {ARRAY: "an array", STATE: "the state of an object", list: "a list", dict: "a dict"}
    text = names.get(_kind(saved), "a value")
    return f"{text} of {len(saved)}" if isinstance(saved, list) else text
