"""Checkpoints of several processes: every rank writes and reads its own range of the state."""

from __future__ import annotations

import json
import os
import re
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .. import _core, foreign
from ..arguments import check_whole
from ..checkpoint.background import writer
from ..checkpoint.flattening import STATE, Flattened
from ..checkpoint.form import CheckpointError, name_of, needed
from ..checkpoint.loading import Loaded, load_from
from ..checkpoint.ranges import SavedRanges, cut_arrays
from ..checkpoint.reading import RANGES, SavedFile
from ..checkpoint.rotation import is_name, saved_in, step_of
from ..checkpoint.saving import check_objects, laid_out, listed, refuse_averages, write_file
from ..checkpoint.writing import sync_folder
from ..saved_state import differences, same, short
from .groups import Group, RankError
from .layout import Layout

if TYPE_CHECKING:
    from ..optim import Optimizer
    from .gathering import Gathering
    from .leaves import LeafGradients
    from .shards import Shards

_VERSION = str(_core.build_info()["version"])
_RANGE = re.compile(r"step-(\d{9,})-\d+-\d+\.([0-9a-f]{8})\.safetensors")


class SavedInFolders:
    """What a `Sharded` does with the files of a folder that all ranks see."""

    leaves: int
    _begin: int
    _end: int
    _gradients: LeafGradients
    _group: Group
    _identity: bytes
    _is_checked: bool
    _layout: Layout
    _own: Optimizer
    _views: dict[str, Any]
    _gathering: Gathering
    _shards: Shards

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        step: int,
        loader: Any = None,
        extra: Any = None,
        keep: int | None = 3,
    ) -> Path:
        """Saves what a run needs to go on with any number of ranks. All ranks call it.

        Every rank writes the range of parameters and state that it updates, in a file of its own;
        then rank 0 writes their index, ``step-000000300.safetensors``, and deletes what is older.
        Whatever happens, the checkpoint before is there or the new one. Nothing is gathered.

        Args:
            folder: that all ranks see; made if it is not there.
            step: how far the run is: a whole number, at least 0.
            loader, extra: as for `fusestep.checkpoint.save`; rank 0 saves its own.
            keep: how many of the newest checkpoints are kept, at least 1; None keeps all.

        Returns:
            The path of the index, which `fusestep.checkpoint.load` reads into an optimizer of one
            process, too.

        Raises:
            TypeError, ValueError, StateError: what can't be saved. Nothing was written.
            OSError: this rank's file could not be written.
            RankError: another rank failed; every rank raises.
            ImportError: safetensors or xxhash is missing.

        Example:
            >>> import tempfile, numpy as np, fusestep as fs
            >>> from fusestep import distributed
            >>> params = {"w": np.zeros(2)}
            >>> group = distributed.alone()
            >>> opt = distributed.Sharded(fs.SGD, params, group=group, leaves=1, lr=1.0)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     path = opt.save(folder, step=7)
            ...     params["w"] += 1
            ...     loaded = opt.load(folder)
            >>> path.name, loaded.step, params["w"]
            ('step-000000007.safetensors', 7, array([0., 0.]))
        """
        folder, group = Path(folder), self._group
        with ExitStack() as held:
            with _Agreement(group, "saved") as agree:
                path = folder / f"step-{check_whole('step', step, 0):09}.safetensors"
                if keep is not None:
                    check_whole("keep", keep, 1)
                parts = {"loader": loader, "extra": extra} if group.rank == 0 else {}
                index, arrays, others = self._collected(held, step, parts)
                if group.rank == 0 and not folder.is_dir():
                    folder.mkdir(parents=True, exist_ok=True)
                    sync_folder(folder.parent)
                at = [_VERSION, step, self._own.steps_attempted, self._identity.hex()]
                told = agree([secrets.token_hex(4), at])
            unlike = [rank for rank, (_, one) in enumerate(told) if one != told[0][1]]
            if unlike:
                raise RankError(
                    f"nothing was saved: rank {unlike} is at another step, or of another model, "
                    "settings or version than rank 0"
                )
            token = told[0][0]  # a save of a step that was saved leaves the files of before alone
            begin, end = self._shards.saved[group.rank]
            own = folder / f"{path.stem}-{begin}-{end}.{token}{path.suffix}"
            with _Agreement(group, "saved") as agree:
                begin, end, digest = self._written(own, token, index, arrays)
                try:
                    told = agree([own.name, begin, end, digest])
                except RankError:
                    own.unlink(missing_ok=True)  # the disk of another rank may be full
                    raise
            index["parts"][RANGES] = [
                dict(zip(("name", "begin", "end", "xxh3_128"), one, strict=True))
                for one in sorted(told, key=lambda one: one[1:3])
                if one[1] < one[2]
            ]
            with _Agreement(group, "saved") as agree:
                if group.rank == 0:
                    write_file(path, *laid_out(index, others), _is_ours)
                agree()
        if group.rank == 0:
            _delete_older(folder, step, token, keep)
        return path

    def _collected(
        self, held: ExitStack, step: int, parts: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """The contents of the index; the arrays of this rank's range; those of the index."""
        for module in ("safetensors", "xxhash"):
            needed(module)
        if self._gradients.records:
            raise _core.StateError("leaves have been accumulated: save after step()")
        refuse_averages(self._own)
        check_objects("loader", parts.get("loader"))
        layout = self._layout
        with differences("a checkpoint") as found:
            shard = Flattened(found, held)
            saved = {"optimizer": shard.of(self._own, "optimizer")}
            names = dict(cut_arrays(saved))
            for path, view in self._views.items():
                names[shard.add(name_of(path), view)] = path
            rest = Flattened(found, held)
            saved |= {k: rest.of(part, k) for k, part in parts.items() if part is not None}
        index = {
            "step": step,
            "params": listed(layout.paths, layout.arrays),
            "begin": 0,
            "end": 0,
            "parts": {**saved, "leaves": self.leaves},
        }
        whole = dict(zip(layout.paths, layout.arrays, strict=True))
        arrays, others = {}, rest.arrays
        for name, path in names.items():
            part, shape = shard.arrays[name], whole[path].shape
            is_whole = part.size == whole[path].size
            if is_whole or part.size > 0:
                arrays[name] = part.reshape(shape) if is_whole else part
            if whole[path].size == 0:
                others[name] = arrays[name]
        return index, arrays, others

    def _written(
        self, path: Path, token: str, index: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> tuple[int, int, str]:
        """Writes this rank's range, unless it is empty: where it begins and ends, its checksum."""
        (begin, end), digest = self._shards.saved[self._group.rank], ""

        def is_abandoned(name: str) -> bool:  # other ranks write now, too
            return _is_ours(name) and token not in name

        if begin < end:
            contents = {**index, "begin": begin, "end": end, "parts": {}}
            digest = write_file(path, *laid_out(contents, arrays), is_abandoned)
        return begin, end, digest

    def load(
        self,
        folder: str | os.PathLike[str],
        *,
        loader: Any = None,
        extra: Any = None,
        strict: bool = True,
        keep: Sequence[str] = (),
        rename: Mapping[str, str] | None = None,
    ) -> Loaded | None:
        """Goes on from the newest checkpoint of a folder, or on no rank at all. All ranks call it.

        Any number of ranks may have saved it, or an optimizer of one process. A rank reads the
        files that have something of its range alone, and verifies them; then the ranks give each
        other their parameters. Where the newest is damaged or can't be read on any rank, a warning
        names it, and all take the one before.

        Args:
            folder: that all ranks see, or the path of one checkpoint.
            loader, extra, strict, rename: as for `fusestep.checkpoint.load`, the same on every
                rank.
            keep: settings whose present values stay. With "leaves" among them the checkpoint may
                have been saved with other leaves: later steps have other bits then.

        Returns:
            As `fusestep.checkpoint.load`; None where the folder has no checkpoint.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged.
            StateError: names every difference between the checkpoint and what is here.
            RankError: another rank failed.

        In each case nothing has changed on any rank. This takes memory for a copy of this rank's
        state.
        """
        errors: list[str] = []
        for path in self._candidates(Path(folder)):
            agreement = _Agreement(self._group, "loaded")
            try:
                with agreement as agree:
                    loaded = self._load(path, agree, loader, extra, strict, keep, rename or {})
            except Exception:
                if not agreement.damages:
                    raise
                errors += agreement.damages
                continue
            for text in errors:
                warnings.warn(f"{text}; went on from {path}", RuntimeWarning, stacklevel=2)
            self._gathering.run()
            self._gradients.forget()
            self._is_checked = False
            return loaded
        if errors:
            raise CheckpointError("\n  ".join(["no checkpoint is whole:", *errors]))
        return None

    def _candidates(self, folder: Path) -> list[Path]:
        """What rank 0 sees in a folder, from the newest on."""
        with _Agreement(self._group, "loaded") as agree:
            names = None
            if self._group.rank == 0 and not folder.is_file():
                names = [path.name for path in saved_in(folder)]
            told = agree(names)[0]
        return [folder] if told is None else [folder / name for name in told]

    def _load(
        self,
        path: Path,
        agree: Callable[[], object],
        loader: Any,
        extra: Any,
        strict: bool,
        keep: Sequence[str],
        rename: Mapping[str, str],
    ) -> Loaded:
        writer.finish()
        check_objects("loader", loader)
        layout = self._layout
        spans = dict(zip(layout.paths, layout.spans(self._begin, self._end), strict=True))
        with SavedFile(path) as index:
            index.verify()
            old = {rename.get(one, one): one for one in self._compared(index, keep, rename)}
            mine = {old[new]: span for new, span in spans.items() if new in old}
            with SavedRanges(index, mine) as file:
                return load_from(
                    file,
                    self._views,
                    {"loader": loader, "extra": extra, "optimizer": self._own},
                    strict=strict,
                    keep=[name for name in keep if name != "leaves"],
                    rename=rename,
                    agree=agree if self._group.world > 1 else None,
                )

    def _compared(
        self, index: SavedFile, keep: Sequence[str], rename: Mapping[str, str]
    ) -> list[str]:
        """The paths of the saved parameters; StateError where whole ones or leaves differ."""
        saved = index.contents["params"] or []
        here = {one["path"]: one for one in listed(self._layout.paths, self._layout.arrays)}
        with differences(f"what {str(index.path)!r} is loaded into") as found:
            leaves = index.contents["parts"].get("leaves", self.leaves)
            if leaves != self.leaves and "leaves" not in keep:
                found.append(
                    f"leaves: saved {short(leaves)}, present {self.leaves}; use as many, on at "
                    'most as many ranks, or keep=("leaves",): then later steps have other bits'
                )
            optimizer = index.contents["parts"].get("optimizer", {STATE: {}})
            state = optimizer.get(STATE) if isinstance(optimizer, dict) else None
            if not isinstance(state, dict):
                found.append("optimizer: must have been saved as one, not as a dict of several")
            elif isinstance(sums := state.get("accumulated"), dict) and sums.get("micro_batches"):
                found.append("optimizer: saved with accumulated gradients: save it after step()")
            for one in saved:
                path = rename.get(one["path"], one["path"])
                present = here.get(path, one)
                for name in ("shape", "dtype"):
                    where = f"{foreign.where('params', path)} {name}"
                    same(present[name])(one[name], where, found)
        return [one["path"] for one in saved]


class _Agreement:
    """One exchange, in which every rank says whether it can go on, and gives a value.

    What is called in a with statement raises RankError if another rank has failed, in its own with
    statement. ``damages`` are the errors of files, the same on every rank.
    """

    def __init__(self, group: Group, what: str) -> None:
        self._group, self._what, self._has_told = group, what, False
        self.damages: list[str] = []

    def __enter__(self) -> _Agreement:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and not self._has_told:
            is_damage = isinstance(error, (CheckpointError, OSError))
            text = str(error) if is_damage else f"{type(error).__name__}: {error}"
            self._exchanged([is_damage, text[:2000]])

    def __call__(self, value: Any = None) -> list[Any]:
        """The values of all ranks, which are JSON."""
        heard = self._exchanged(value={"value": value})
        failed = [(r, one[1]) for r, one in enumerate(heard) if isinstance(one, list)]
        if failed:
            texts = "; ".join(f"rank {rank}: {text}" for rank, text in failed)
            raise RankError(f"nothing was {self._what}: {texts}")
        return [one["value"] for one in heard]

    def _exchanged(self, value: Any) -> list[Any]:
        self._has_told = True
        told = self._group.gather_bytes(json.dumps(value).encode())
        heard = [json.loads(one) for one in told]
        texts = [one[1] for one in heard if isinstance(one, list) and one[0]]
        self.damages = list(dict.fromkeys(texts))
        return heard


def _is_ours(name: str) -> bool:
    return is_name(name) or _RANGE.fullmatch(name) is not None


def _delete_older(folder: Path, step: int, token: str, keep: int | None) -> None:
    """Deletes checkpoints before those kept, and files up to this step that have no index."""
    older = [path for path in saved_in(folder) if step_of(path) < step]
    kept = {step_of(path) for path in (older if keep is None else older[: keep - 1])}
    with suppress(OSError):  # what somebody reads now goes after the next save
        for path in older:
            if step_of(path) not in kept:
                path.unlink()
        for path in folder.iterdir():
            match = _RANGE.fullmatch(path.name)
            if match is None or int(match[1]) > step or int(match[1]) in kept:
                continue
            if int(match[1]) < step or match[2] != token:
                path.unlink()
