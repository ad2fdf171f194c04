"""What is damaged, differs or fails on one rank is so on all, and the checkpoint before stays."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import checkpoint, distributed
from fusestep.checkpoint.reading import SavedFile
from fusestep.checkpoint.saving import laid_out, write_file
from tables.models import Array, assert_same_bits, plain
from tables.ranks import on_ranks, raised

pytest.importorskip("safetensors")
pytest.importorskip("xxhash")


def model() -> dict[str, Array]:
    return {"w": np.ones(5000, np.float32), "b": np.ones(2, np.float32)}


GRADS = {"w": np.full(5000, 0.5, np.float32), "b": np.ones(2, np.float32)}


def built(group: Any, params: Any, **options: Any) -> distributed.Sharded:
    options = {"leaves": 4, "lr": 0.1, "memory": [1] * group.world, **options}
    return distributed.Sharded(fs.AdamW, params, group=group, **options)


def stepped(opt: distributed.Sharded, times: int = 1) -> None:
    for _ in range(times):
        for _ in range(opt.share.begin, opt.share.end):
            opt.accumulate(GRADS, samples=1)
        opt.step()


def saved(folder: Path, world: int, steps: int, **options: Any) -> None:
    def work(group: Any) -> None:
        opt = built(group, model(), **options)
        for step in range(1, steps + 1):
            stepped(opt)
            opt.save(folder, step=step)

    raised(on_ranks(world, work))


def loaded_by(world: int, path: Path, **options: Any) -> list[Any]:
    """The step that every rank loaded, or its error; an error has changed nothing on any."""

    def work(group: Any) -> Any:
        params = model()
        opt = built(group, params)
        stepped(opt)
        before = {path: array.copy() for path, array in params.items()}, plain(opt.state_dict())
        try:
            loaded = opt.load(path, **options)
        except Exception as error:
            assert_same_bits(list(params.values()), list(before[0].values()))
            assert plain(opt.state_dict()) == before[1]
            return error
        return None if loaded is None else loaded.step

    return on_ranks(world, work)


def files(folder: Path, step: int) -> list[Path]:
    return sorted(folder.glob(f"step-{step:09}-*"), key=lambda p: int(p.name.split("-")[2]))


def flip(path: Path) -> None:
    memory = bytearray(path.read_bytes())
    memory[-3] ^= 4
    path.write_bytes(memory)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut off": cut_off,
    "a bit": flip,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("place", [0, 1, 2, "index"])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_damaged_file_is_one_for_all_ranks_which_take_the_one_before(
    world: int, place: Any, damage: str, tmp_path: Path
) -> None:
    saved(tmp_path, 3, 2)
    index = tmp_path / "step-000000002.safetensors"
    DAMAGES[damage](index if place == "index" else files(tmp_path, 2)[place])
    if (place, damage) == ("index", "missing"):
        assert loaded_by(world, tmp_path) == [1] * world
        return
    with pytest.warns(RuntimeWarning, match="went on from .*step-000000001"):
        assert loaded_by(world, tmp_path) == [1] * world
    found = checkpoint.latest(tmp_path)
    assert found is not None
    is_seen = damage == "a bit" and place != "index"  # only reading all of it tells
    assert found.name == f"step-00000000{2 if is_seen else 1}.safetensors"
    if index.is_dir():  # an empty folder of checkpoints
        return
    found = loaded_by(world, index)
    assert {type(error) for error in found} == {checkpoint.CheckpointError}
    assert len({str(error) for error in found}) == 1
    params = model()
    with pytest.raises((checkpoint.CheckpointError, OSError)):
        checkpoint.load(index, params=params, optimizer=fs.AdamW(params, lr=0.1))
    assert_same_bits(list(params.values()), list(model().values()))


def test_files_of_another_save_are_no_part_of_it(tmp_path: Path) -> None:
    saved(tmp_path / "a", 3, 1)
    saved(tmp_path / "b", 3, 1, eps=1e-3)
    for mine, other in zip(files(tmp_path / "a", 1), files(tmp_path / "b", 1), strict=True):
        shutil.copy(other, mine)
    for error in loaded_by(2, tmp_path / "a"):
        assert isinstance(error, checkpoint.CheckpointError)
        assert "is of another save" in str(error)


def shift(ranges: list[Any]) -> None:
    ranges[1]["begin"] += 1


def outside(ranges: list[Any]) -> None:
    ranges[0]["name"] = "../" + ranges[0]["name"]


def swap(ranges: list[Any]) -> None:
    ranges[0]["name"], ranges[1]["name"] = ranges[1]["name"], ranges[0]["name"]


INDICES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a gap": (lambda parts: shift(parts["ranges"]), "not in order"),
    "a range less": (lambda parts: parts["ranges"].pop(), "end at element"),
    "a range twice": (lambda parts: parts["ranges"].append(parts["ranges"][2]), "not in order"),
    "another folder": (lambda parts: outside(parts["ranges"]), "not in order"),
    "files swapped": (lambda parts: swap(parts["ranges"]), "of another save"),
    "no list": (lambda parts: parts.update(ranges={"a": 1}), "must be a list"),
    "no names": (lambda parts: parts.update(ranges=[{"begin": 0}]), "not saved"),
    "no arrays": (
        lambda parts: parts["optimizer"]["fusestep.state"]["parameters"]["w"].update(state=[3]),
        "not the state of one optimizer",
    ),
    "a missing array": (
        lambda parts: parts["optimizer"]["fusestep.state"]["parameters"]["w"]["state"].update(
            m={"fusestep.array": "params/none"}
        ),
        "has not its elements",
    ),
    "an array of a number": (
        lambda parts: parts["optimizer"]["fusestep.state"]["parameters"]["w"]["state"].update(
            m={"fusestep.array": 3}
        ),
        "of no parameter",
    ),
    "an array of another": (
        lambda parts: parts["optimizer"]["fusestep.state"]["parameters"].update(
            u=parts["optimizer"]["fusestep.state"]["parameters"]["w"]
        ),
        "of no parameter",
    ),
}


@pytest.mark.parametrize("name", INDICES)
def test_an_index_that_lists_what_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    """With the right checksum: somebody wrote it."""
    change, message = INDICES[name]
    saved(tmp_path, 3, 1)
    path = tmp_path / "step-000000001.safetensors"
    with SavedFile(path) as index:
        contents = {key: value for key, value in index.contents.items() if key != "fusestep"}
    change(contents["parts"])
    write_file(path, *laid_out(contents, {}), lambda name: False)
    for error in loaded_by(2, path):
        assert isinstance(error, checkpoint.CheckpointError)
        assert message in str(error)
    params = model()
    with pytest.raises(checkpoint.CheckpointError, match=message):
        checkpoint.load(path, params=params, optimizer=fs.AdamW(params, lr=0.1))


def test_a_rank_reads_its_own_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 4, 1)
    verify, read = SavedFile.verify, []
    monkeypatch.setattr(SavedFile, "verify", lambda self: (read.append(self.path), verify(self)))
    assert loaded_by(4, tmp_path) == [1] * 4
    ranges = [path.name for path in read if path.name.count("-") == 3]
    assert sorted(ranges) == [path.name for path in sorted(files(tmp_path, 1))]
    read.clear()
    assert loaded_by(2, tmp_path) == [1] * 2
    assert len({path for path in read if path.name.count("-") == 3}) == 4


SEVERAL = "must have been saved as one, not as a dict"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"params": True}, "optimizer: not saved"),
        ({"optimizer": True}, "params: not saved"),
        ({"params": True, "optimizer": "several"}, SEVERAL),
        ({"params": True, "optimizer": "accumulating"}, "saved with accumulated gradients"),
    ],
)
def test_what_one_process_saved_otherwise_is_refused(
    parts: dict[str, Any], message: str, tmp_path: Path
) -> None:
    params = model()
    opt: Any = fs.AdamW(params, lr=0.1)
    if parts.get("optimizer") == "accumulating":
        opt.accumulate(GRADS, 3)
    there = {"params": params, "optimizer": {"a": opt} if message == SEVERAL else opt}
    path = checkpoint.save(tmp_path / "run.safetensors", **{name: there[name] for name in parts})
    for world in (1, 2):
        for error in loaded_by(world, path):
            assert isinstance(error, fs.StateError)
            assert not isinstance(error, checkpoint.CheckpointError)
            assert message in str(error)


def test_leaves_that_were_accumulated_are_not_saved(tmp_path: Path) -> None:
    def work(group: Any) -> None:
        opt = built(group, model())
        if group.rank == 1:
            opt.accumulate(GRADS, samples=1)
        opt.save(tmp_path, step=1)

    found = on_ranks(2, work)
    assert [type(error) for error in found] == [distributed.RankError, fs.StateError]
    assert "save after step()" in str(found[0])
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_a_new_run_on_every_rank(tmp_path: Path) -> None:
    assert loaded_by(3, tmp_path) == [None] * 3
    assert loaded_by(3, tmp_path / "none") == [None] * 3


def test_what_differs_is_an_error_on_every_rank(tmp_path: Path) -> None:
    saved(tmp_path, 3, 1)

    def work(group: Any) -> Any:
        opt = built(group, {"w": np.ones(4999, np.float32), "c": np.ones(2, np.float32)}, leaves=8)
        opt.load(tmp_path)

    for error in on_ranks(2, work):
        assert isinstance(error, fs.StateError)
        for text in ("leaves: saved 4, present 8; use", "params['w'] shape", 'keep=("leaves",)'):
            assert text in str(error)

    def paths(group: Any) -> Any:
        params = {"w": np.ones(5000, np.float32), "c": np.ones(2, np.float32)}
        built(group, params).load(tmp_path)

    for error in on_ranks(2, paths):
        assert isinstance(error, fs.StateError)
        assert "params['c']: not saved" in str(error)
        assert "params['b']: saved, and not here" in str(error)


def test_other_leaves_where_they_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 3, 2)

    def work(group: Any) -> Any:
        params = {"c": np.zeros(2, np.float32), "w": np.zeros(5000, np.float32)}
        opt = built(group, params, leaves=8, lr=0.5)
        loaded = opt.load(tmp_path, keep=("leaves", "lr"), rename={"b": "c"})
        assert opt.lr == 0.5
        return params, opt.state_dict(), loaded.renamed

    for params, _, renamed in (found := raised(on_ranks(5, work))):
        assert ("params/b", "params/c") in renamed
        assert_same_bits([params["w"], params["c"]], [found[0][0]["w"], found[0][0]["c"]])
    others = model()
    opt = fs.AdamW(others, lr=0.1)
    checkpoint.load(tmp_path / "step-000000002.safetensors", params=others, optimizer=opt)
    assert_same_bits([others["w"], others["b"]], [found[0][0]["w"], found[0][0]["c"]])
    there, here = found[0][1]["parameters"], opt.state_dict()["parameters"]
    assert plain(there["c"]) == plain(here["b"])
    assert plain(there["w"]) == plain(here["w"])


def test_an_error_of_one_rank_is_one_of_all_and_the_one_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full for one rank, or for the index; and bad values of rank 0's."""
    write = os.write

    def work(group: Any) -> Any:
        opt = built(group, model())
        stepped(opt)
        opt.save(tmp_path, step=1)
        stepped(opt)
        opt.save(tmp_path, step=1)
        stepped(opt)
        found = []
        for full, extra in (("-1024-", None), ("step-000000001.", None), ("", object()), ("", 0)):
            names[:] = [full] * bool(full)
            try:
                opt.save(tmp_path, step=-1 if extra == group.rank - 2 else 1, extra=extra)
            except Exception as error:
                found.append(error)
            group.gather_bytes(b"")  # before the next
        names.clear()
        return found

    names: list[str] = []

    def full_disk(descriptor: int, memory: Any) -> int:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if any(name in path for name in names):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, memory)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs to know which file is written")
    monkeypatch.setattr(os, "write", full_disk)
    found = raised(on_ranks(3, work))
    failing = [1, 0, 0, 2]
    types: list[type[Exception]] = [OSError, OSError, fs.StateError, ValueError]
    for k, (rank, kind) in enumerate(zip(failing, types, strict=True)):
        assert type(found[rank][k]) is kind
        for other in {0, 1, 2} - {rank}:
            error = found[other][k]
            assert isinstance(error, distributed.RankError)
            assert re.match(f"nothing was saved: rank {rank}: ", str(error))
    # the one before, of the second save of its step, and the files without an index
    assert len(list(tmp_path.iterdir())) == 4 + 3
    assert loaded_by(2, tmp_path) == [1, 1]
    saved(tmp_path, 2, 2)
    assert len(list(tmp_path.iterdir())) == 3 + 3
    params = model()
    saves = checkpoint.Checkpoints(tmp_path, keep=1)
    saves.save(step=3, params=params, optimizer=fs.AdamW(params, lr=0.1))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000003.safetensors"]
    assert loaded_by(2, tmp_path) == [3, 3]


def test_what_is_older_goes_and_what_no_index_lists(tmp_path: Path) -> None:
    tmp_path.joinpath("step-000000002-0-1024.00000000.safetensors").write_bytes(b"left")
    tmp_path.joinpath("step-000000009-0-1024.00000000.safetensors").write_bytes(b"later")
    tmp_path.joinpath("notes.txt").write_text("mine")
    tmp_path.joinpath("step-000000000.safetensors").write_bytes(b"damaged")

    def work(group: Any) -> None:
        opt = built(group, model(), memory=[0, 1, 1, 0][: group.world])
        for step in range(1, 6):
            stepped(opt)
            opt.save(tmp_path, step=step, keep=2)

    raised(on_ranks(4, work))
    names = sorted(path.name for path in tmp_path.iterdir())
    kept = [re.sub(r"\.[0-9a-f]{8}\.", ".", name) for name in names]
    assert kept == [
        "notes.txt",
        "step-000000004-0-2048.safetensors",
        "step-000000004-2048-5002.safetensors",
        "step-000000004.safetensors",
        "step-000000005-0-2048.safetensors",
        "step-000000005-2048-5002.safetensors",
        "step-000000005.safetensors",
        "step-000000009-0-1024.safetensors",
    ]
    assert loaded_by(3, tmp_path) == [5, 5, 5]
