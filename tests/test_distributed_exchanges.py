"""What moves in a step, and when: one exchange of a small model, buckets, levels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import distributed
from fusestep.distributed.gathering import NUMBER
from tables.models import Array, assert_same_bits
from tables.ranks import on_ranks, raised

ELEMENTS = 9 * 1024 + 5


class Log:
    """Notes what a group begins and ends, and how many bytes it sends."""

    def __init__(self, group: Any) -> None:
        self.events: list[str] = []
        self.sent: list[tuple[str, int]] = []
        begin, end = group.begin, group.end

        def beginning(sends: Any, receives: Any) -> Any:
            kinds = {self.kind(tag) for _, tag, _ in [*sends, *receives]}
            self.sent += [(self.kind(tag), array.nbytes) for _, tag, array in sends]
            self.events.append(f"begin {' '.join(sorted(kinds))}")
            return begin(sends, receives), f"end {' '.join(sorted(kinds))}"

        def ending(begun: Any) -> None:
            end(begun[0])
            self.events.append(begun[1])

        group.begin, group.end = beginning, ending

    @staticmethod
    def kind(tag: int) -> str:
        return "header" if tag == 0 else "parameters" if tag > NUMBER else "gradients"

    def clear(self) -> None:
        self.events.clear()
        self.sent.clear()


def built(group: Any, **options: Any) -> tuple[distributed.Sharded, Array, Log]:
    w = np.zeros(ELEMENTS, np.float32)
    log = Log(group)
    options = {"rule": fs.AdamW, "leaves": group.world, "lr": 0.1, **options}
    return distributed.Sharded(options.pop("rule"), {"w": w}, group=group, **options), w, log


def stepped(opt: distributed.Sharded, value: float) -> None:
    while opt._gradients.missing:
        opt.accumulate({"w": np.full(ELEMENTS, value, np.float32)}, samples=1)
    opt.step()


@pytest.mark.parametrize("settings", [{}, {"clip_norm": 1.0}, {"nonfinite": "raise"}], ids=str)
def test_a_step_of_a_small_model_is_one_exchange(settings: dict[str, Any]) -> None:
    def work(group: Any) -> Array:
        opt, w, log = built(group, leaves=2 * group.world, **settings)
        stepped(opt, 1.0)  # the first also compares all parameters
        for k in range(3):
            log.clear()
            stepped(opt, 1.0 - k)
            assert log.events == ["begin gradients header", "end gradients header"]
            others = group.world - 1
            messages = [("header", 4096)] * others + [("gradients", 4 * ELEMENTS)] * others
            assert sorted(log.sent) == sorted(messages)
        return w

    found = raised(on_ranks(3, work))
    single = np.zeros(ELEMENTS, np.float32)
    opt = fs.AdamW(single, lr=0.1, **settings)
    for value in (1.0, 1.0, 0.0, -1.0):
        opt.step(np.full(ELEMENTS, value * 6, np.float32), grad_scale=6.0)
    for w in found:
        assert_same_bits([w], [single])


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_a_small_model_is_one_of_all_and_the_next_step_is_right(rank: int) -> None:
    def work(group: Any) -> Array:
        opt, w, _ = built(group, rule=fs.SGD, lr=1.0)
        stepped(opt, 1.0)
        before = w.copy()
        with opt.guard():
            if group.rank == rank:
                raise MemoryError("no room")
            opt.accumulate({"w": np.full(ELEMENTS, 7.0, np.float32)}, samples=1)
        with pytest.raises(MemoryError if group.rank == rank else distributed.RankError):
            opt.step()
        assert_same_bits([w], [before])
        stepped(opt, 1.0)
        return w

    for w in raised(on_ranks(3, work)):
        assert (w == -2.0).all()


def test_leaves_without_samples_of_a_small_model_do_not_count() -> None:
    def work(group: Any) -> Array:
        opt, w, _ = built(group, rule=fs.SGD, lr=1.0)
        stepped(opt, 1.0)
        for empty in range(3):
            if group.rank == empty:
                opt.skip()
            stepped(opt, 1.0 + group.rank)
        return w

    for w in raised(on_ranks(3, work)):
        assert (w == -1.0 - 2.5 - 2.0 - 1.5).all()


@pytest.mark.parametrize("takes_norm", [False, True])
def test_buckets_are_updated_while_others_move(takes_norm: bool) -> None:
    def work(group: Any) -> list[str]:
        settings = {"clip_norm": 1.0} if takes_norm else {}
        opt, _, log = built(group, memory=[1, 1], buckets=3, **settings)
        stepped(opt, 1.0)
        log.clear()
        stepped(opt, 1.0)
        return log.events

    exchanges = ["begin header", "end header"]
    reduced = [
        *["begin gradients", "begin gradients", "end gradients"],
        *["begin gradients", "end gradients", "end gradients"],
    ]
    if takes_norm:
        expected = [*exchanges, *reduced, *exchanges, *["begin parameters"] * 3]
    else:
        expected = [*exchanges, *reduced[:3], "begin parameters"]
        expected += [*reduced[3:5], "begin parameters", reduced[5], "begin parameters"]
    for events in raised(on_ranks(2, work)):
        assert events == [*expected, *["end parameters"] * 3]


@pytest.mark.parametrize("levels", [(4, 4), (2, 2, 4), (8, 2), (16,)])
def test_levels_send_fewer_messages_and_as_many_bytes(levels: tuple[int, ...]) -> None:
    size = 16 * 1024

    def work(group: Any) -> None:
        params = distributed.flatten({"w": np.zeros(size, np.float32)})
        log = Log(group)
        opt = distributed.Sharded(
            fs.SGD, params, group=group, leaves=16, lr=1.0, memory=[1] * 16, levels=levels
        )
        for _ in range(2):
            log.clear()
            opt.accumulate({"w": np.ones(size, np.float32)}, samples=1)
            opt.step()
        for kind in ("gradients", "parameters"):
            sent = [count for name, count in log.sent if name == kind]
            assert len(sent) == sum(factor - 1 for factor in levels)
            assert sum(sent) == 4 * size * 15 // 16
        assert (params["w"] == -2.0).all()

    assert math.prod(levels) == 16
    raised(on_ranks(16, work))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": (2, 3)}, "levels must be whole numbers whose product is 4"),
        ({"levels": ()}, "levels must be whole numbers whose product is 4"),
        ({"levels": (2, 2.0)}, r"levels\[1\] must be a whole number"),
        ({"memory": [1] * 5}, "memory must be 4 numbers of at least 0"),
        ({"levels": (2, 2), "memory": [1] * 3}, "memory must be 4 numbers of at least 0"),
        ({"levels": (2, 2), "leaves": 12}, r"leaves 0 to 6, which ranks 0 to 1 add, are no single"),
        ({"levels": (2, 2), "leaves": 8, "shares": [1, 2, 3, 2]}, "leaves 0 to 3, which"),
    ],
    ids=str,
)
def test_levels_and_memory_that_can_not_be_are_refused(
    options: dict[str, Any], message: str
) -> None:
    group = distributed.threads(4)[0]
    given: dict[str, Any] = {"leaves": 8, "lr": 1.0, "memory": [1] * 4, **options}
    with pytest.raises((TypeError, ValueError), match=message):
        distributed.Sharded(fs.SGD, {"w": np.zeros(9)}, group=group, **given)
