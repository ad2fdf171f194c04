"""What any group does: bytes, arrays and shards between ranks, whatever the engine."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import emulation.nccl
import fusestep as fs
from fusestep import distributed
from fusestep.distributed.gathering import NUMBER
from fusestep.distributed.groups import Threads
from fusestep.distributed.groups.point_to_point import PointToPoint
from fusestep.distributed.tree import pieces
from runs import group_calls, processes
from tables.models import assert_same_bits, plain
from tables.ranks import Case, on_ranks


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_every_rank_gets_what_the_others_gave(world: int) -> None:
    assert on_ranks(world, group_calls.check) == ["as expected"] * world


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_process_of_mpi_gets_what_the_others_gave(world: int) -> None:
    status, said, errors = processes.on_mpi(world, "runs.group_calls")
    assert (status, said) == (0, "as expected\n" * world), errors


def test_every_process_of_torch_gets_what_the_others_gave() -> None:
    for status, said, errors in processes.on_gloo(3, "runs.group_calls"):
        assert (status, said) == (0, "as expected\n"), errors


def watched(group: Any, before: Any) -> Any:
    """The group, which calls something with the messages that move."""
    move = group.begin

    def moved(sends: Any, receives: Any) -> Any:
        before(group, sends, receives)
        return move(sends, receives)

    group.begin = moved
    return group


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("leaves", [8, 12])
@pytest.mark.parametrize("buckets", [1, 2])
def test_a_step_moves_no_byte_more_than_it_must(world: int, leaves: int, buckets: int) -> None:
    elements, moved = 10_000, [[] for _ in range(world)]

    def work(group: Any) -> None:
        watched(group, lambda group, sends, _: moved[group.rank].extend(sends))
        params = {"w": np.ones(elements, np.float32)}
        opt = distributed.Sharded(
            fs.SGD, params, group=group, leaves=leaves, lr=1.0, memory=[1] * world, buckets=buckets
        )
        for _ in range(2):
            moved[group.rank].clear()
            while opt._gradients.missing:
                opt.accumulate({"w": np.ones(elements, np.float32)}, samples=1)
            opt.step()
        shard = opt._end - opt._begin
        count = len(pieces(*opt.share))
        sizes: dict[str, list[int]] = {"header": [], "pieces": [], "shards": []}
        for _, tag, array in moved[group.rank]:
            kind = "header" if tag == 0 else "shards" if tag > NUMBER else "pieces"
            sizes[kind].append(array.nbytes)
        assert sizes["header"] == [4096] * (world - 1)
        assert len(sizes["pieces"]) == count * (world - 1) * buckets
        assert sum(sizes["pieces"]) == count * 4 * (elements - shard)
        assert len(sizes["shards"]) == (world - 1) * buckets
        assert sum(sizes["shards"]) == 4 * shard * (world - 1)

    assert on_ranks(world, work) == [None] * world


@pytest.mark.parametrize("seed", range(12))
def test_when_messages_come_changes_no_bit(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(seed, leaves=11)
    params, *expected, state = case.run(1)
    begin, end, pick = Threads.begin, Threads.end, random.Random(seed)
    waiting: dict[Threads, list[Any]] = {}  # what is under way, of each rank

    def beginning(self: Threads, sends: Any, receives: Any) -> Any:
        pick.shuffle(sends)
        pick.shuffle(receives)
        for sent in sends:
            time.sleep(pick.choice([0, 0, 0.001]))
            begin(self, [sent], [])
        begun = begin(self, [], receives)
        waiting.setdefault(self, []).append(begun)
        return begun

    def ending(self: Threads, begun: Any) -> None:
        end(self, begun)
        waiting[self] = [other for other in waiting[self] if other is not begun]
        for other in waiting[self]:  # which may have begun to come
            for _, _, array in other:
                array.fill(77)

    monkeypatch.setattr(Threads, "begin", beginning)
    monkeypatch.setattr(Threads, "end", ending)
    found, *told, saved = case.run(
        4, shares=[3, 5, 1, 2], memory=[1, 2, 3, 1], buckets=1 + seed % 3
    )
    assert_same_bits(list(found.values()), list(params.values()))
    assert told == expected
    assert plain(saved) == plain(state)


def test_a_group_that_waited_in_vain_refuses_all_later_calls_at_once() -> None:
    group, other, _ = distributed.threads(3, timeout=0.1)
    other.exchange([(0, 5, np.ones(2))], [])
    array, absent = np.zeros(2), np.zeros(2)
    with pytest.raises(distributed.RankTimeout, match=r"rank 0 waited 0\.1 s for rank 2: go on"):
        group.exchange([], [(1, 5, array), (2, 5, absent)])
    for call in (
        lambda: group.gather_bytes(b""),
        lambda: group.exchange([(1, 0, np.ones(2))], []),
        lambda: group.gather_shards(np.zeros(3), [(0, 1), (1, 2), (2, 3)]),
    ):
        begin = time.monotonic()
        with pytest.raises(distributed.RankTimeout, match="rank 0: an earlier exchange"):
            call()
        assert time.monotonic() - begin < 0.1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals for one thread")
def test_an_interrupt_of_a_wait_is_raised_and_the_group_refuses_what_follows() -> None:
    group, _ = distributed.threads(2, timeout=30)
    main = threading.main_thread().ident
    timer = threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        group.gather_bytes(b"")
    assert time.monotonic() - begin < 20
    timer.join()
    with pytest.raises(distributed.RankTimeout, match="an earlier exchange"):
        group.gather_bytes(b"")


def test_large_arraysbegin_in_chunks_that_every_engine_can_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert PointToPoint.CHUNK * np.dtype(np.float64).itemsize < 2**31
    monkeypatch.setattr(PointToPoint, "CHUNK", 10)
    sizes: list[int] = []

    def work(group: Any) -> Any:
        watched(group, lambda _, sends, __: sizes.extend(len(array) for _, _, array in sends))
        memory = np.arange(101.0) * (group.rank + 1)
        group.gather_shards(memory, [(0, 1), (1, 101)])
        return memory

    first, second = on_ranks(2, work)
    assert_same_bits([first], [second])
    assert_same_bits([first], [np.arange(101.0) * np.array([1] + [2] * 100)])
    assert sorted(sizes) == [1] + [10] * 10


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: distributed.threads(0), ValueError, "world must be"),
        (lambda: distributed.threads(2, timeout=0), ValueError, "timeout must be"),
    ],
    ids=["world", "timeout"],
)
def test_groups_that_can_not_be_are_refused(build: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        build()


def test_torch_must_be_connected() -> None:
    pytest.importorskip("torch", reason="needs torch")
    with pytest.raises(RuntimeError, match=r"call torch\.distributed\.init_process_group"):
        distributed.torch()


@pytest.fixture
def over_nccl(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Builds the groups of some ranks, over a stand-in for NCCL and threads."""
    for name, module in emulation.nccl.modules().items():
        monkeypatch.setitem(sys.modules, name, module)

    def build(world: int, timeout: float = 30) -> list[Any]:
        controls = distributed.threads(world, timeout=30)
        told = emulation.nccl.communicators(world)
        return [
            distributed.nccl(communicator, control=control, timeout=timeout)
            for communicator, control in zip(told, controls, strict=True)
        ]

    return build


def test_gpus_exchange_what_threads_do(over_nccl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PointToPoint, "CHUNK", 1000)
    groups = over_nccl(3)

    def work(control: Any) -> Any:
        group = groups[control.rank]
        return group_calls.check(
            SimpleNamespace(
                rank=group.rank,
                world=group.world,
                gather_bytes=lambda mine, sends=(), receives=(): group.gather_bytes(
                    mine, on_gpu([*sends]), on_gpu([*receives])
                ),
                exchange=lambda sends, receives: group.exchange(on_gpu(sends), on_gpu(receives)),
                start=lambda sends, receives: group.start(on_gpu(sends), on_gpu(receives)),
                gather_shards=lambda memory, ranges: group.gather_shards(on_gpu(memory), ranges),
            )
        )

    assert on_ranks(3, work) == ["as expected"] * 3


def on_gpu(arrays: Any) -> Any:
    """The same memory, of an array or those in messages, as arrays that NCCL takes."""
    if isinstance(arrays, list):
        return [(rank, number, on_gpu(array)) for rank, number, array in arrays]
    return arrays.view(emulation.nccl.Array)


def test_what_does_not_come_over_nccl_is_aborted(over_nccl: Any) -> None:
    array = np.zeros(3).view(emulation.nccl.Array)
    group, _ = over_nccl(2, timeout=0.1)
    with pytest.raises(distributed.RankTimeout, match=r"rank 0 waited 0\.1 s for rank 1"):
        group.exchange([], [(1, 0, array)])
    assert group._communicator.aborted
    group, _ = over_nccl(2)
    group._communicator.failure = RuntimeError("NCCL_ERROR_REMOTE_ERROR")
    with pytest.raises(distributed.RankTimeout, match="rank 0 lost another: NCCL_ERROR_REMOTE"):
        group.exchange([], [(1, 0, array)])
    assert group._communicator.aborted
    with pytest.raises(distributed.RankTimeout, match="an earlier exchange"):
        group.exchange([], [(1, 0, array)])
