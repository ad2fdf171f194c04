"""Several processes have the bits of one: ranks are threads of this process."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import distributed
from tables.models import Array, assert_same_bits, plain
from tables.ranks import Case, level_by_level, on_ranks, raised


@pytest.mark.parametrize("seed", range(40))
def test_any_number_of_ranks_has_the_bits_of_one(seed: int) -> None:
    case, pick = Case(seed), random.Random(seed)
    params, *expected, state = case.run(1)
    for _ in range(2):
        world = pick.randint(1, min(case.leaves, 6))
        cuts = sorted(pick.choices(range(case.leaves + 1), k=world - 1))
        bounds = [0, *cuts, case.leaves]
        shares = [b - a for a, b in pairwise(bounds)]
        memory = [pick.choice([0, 1, 1, 2, 5]) for _ in range(world)]
        found, *told, saved = case.run(
            world,
            shares=pick.choice([None, shares]),
            memory=pick.choice([None, memory, [1] * world]) if any(memory) else None,
            buckets=pick.choice([None, 1, 2, 5]),
        )
        assert_same_bits(list(found.values()), list(params.values()))
        assert told == expected
        assert plain(saved) == plain(state)


@pytest.mark.parametrize("levels", [(4,), (2, 2), (2, 4), (4, 2), (2, 2, 2), (4, 3), (2, 2, 3)])
@pytest.mark.parametrize("seed", range(6))
def test_the_bits_are_the_same_on_several_levels(levels: tuple[int, ...], seed: int) -> None:
    world, pick = math.prod(levels), random.Random(seed)
    case = Case(seed, leaves=world * pick.choice([1, 2, 4]))
    params, *expected, state = case.run(1)
    memory = pick.choice([[1] * world, [rank % 3 for rank in range(world)]])
    found, *told, saved = case.run(world, memory=memory, levels=levels)
    assert_same_bits(list(found.values()), list(params.values()))
    assert told == expected
    assert plain(saved) == plain(state)


@pytest.mark.parametrize("seed", range(6))
def test_an_ordinary_optimizer_has_the_bits_where_it_is_fed_with_the_sums_of_the_tree(
    seed: int,
) -> None:
    case = Case(seed)
    params, _, _, state = case.run(3, leaves=case.leaves) if case.leaves >= 3 else case.run(1)
    others = case.tree()
    opt = case.rule(others, **case.settings)
    for step in case.steps:
        grads = {}
        for k, param in enumerate(case.params):
            terms: list[Any] = []
            for leaf, samples, _ in step:
                weighted = case.dtype(samples) * (
                    np.zeros_like(param) if leaf[k] is None else leaf[k]
                )
                terms.append(weighted if samples else None)
            there = any(leaf[k] is not None for leaf, samples, _ in step if samples)
            grads[str(k)] = level_by_level(terms) if there else None
        opt.step(grads, grad_scale=float(sum(samples for _, samples, _ in step)))
    assert_same_bits(list(others.values()), list(params.values()))
    assert plain(opt.state_dict()) == plain(state)


@pytest.mark.parametrize("first", [-0.0, None])
@pytest.mark.parametrize("second", [-0.0, None])
def test_a_gradient_that_a_leaf_lacks_is_zero(first: float | None, second: float | None) -> None:
    def work(group: Any) -> Array:
        w = np.zeros(3)
        params = {"w": w, "b": np.zeros(2)}
        opt = distributed.Sharded(fs.SGD, params, group=group, leaves=4, lr=1.0, momentum=0.5)
        for leaf in range(opt.share.begin, opt.share.end):
            value = first if leaf % 2 == 0 else second
            grads = {"w": None if value is None else np.full(3, value), "b": np.ones(2)}
            opt.accumulate(grads, 1)
        opt.step()
        state = opt.state["w"]
        return np.signbit(state["momentum"]) if state else np.zeros(3, bool)

    sign = first is not None and second is not None  # -0.0 + 0.0 is 0.0
    for world in (1, 2, 4):
        for found in raised(on_ranks(world, work)):
            assert (found == sign).all()


def test_a_run_goes_on_with_any_number_of_ranks() -> None:
    case = Case(3, leaves=16, steps=4)
    params, *_, state = case.run(1)
    tree, saved = case.tree(), None
    for step, world in enumerate([3, 2, 4, 1]):

        def work(group: Any, step: int = step, tree: Any = tree, saved: Any = saved) -> Any:
            mine = {path: array.copy() for path, array in tree.items()}
            opt = case.build(mine, group)
            if saved is not None:
                opt.load_state_dict(saved)
            case.accumulate(opt, step)
            opt.step()
            return mine, opt.state_dict()

        found = on_ranks(world, work)
        tree, saved = found[0]
    assert_same_bits(list(tree.values()), list(params.values()))
    assert plain(saved) == plain(state)
    plain_optimizer = case.rule(case.tree(), **case.settings)
    plain_optimizer.load_state_dict(saved)


def model() -> dict[str, Array]:
    return {"w": np.ones(3000), "b": np.ones(2)}


GRADS = {"w": np.full(3000, 0.5), "b": np.ones(2)}


def fail(text: str) -> Callable[[distributed.Sharded], None]:
    def work(opt: distributed.Sharded) -> None:
        raise MemoryError(text)

    return work


def wrong_shape(opt: distributed.Sharded) -> None:
    opt.accumulate({"w": np.ones(2), "b": np.ones(2)}, samples=1)


def too_few(opt: distributed.Sharded) -> None:
    pass


@pytest.mark.parametrize(
    ("fault", "own", "message"),
    [
        (fail("no room"), MemoryError, "rank 1: MemoryError: no room"),
        (wrong_shape, ValueError, r"rank 1: ValueError: params\['w'\]: gradient has shape"),
        (too_few, fs.StateError, "rank 1: StateError: 2 leaves of this rank have not been"),
    ],
    ids=["exception", "shape", "too few"],
)
def test_an_error_of_one_rank_is_one_of_all_and_the_run_goes_on(
    fault: Any, own: type, message: str
) -> None:
    def work(group: Any) -> Any:
        params = model()
        opt = distributed.Sharded(fs.SGD, params, group=group, leaves=6, lr=1.0)
        errors = []
        for attempt in range(2):
            with opt.guard():
                if attempt == 0 and group.rank == 1:
                    fault(opt)
                else:
                    for _ in range(2):
                        opt.accumulate(GRADS, samples=1, loss=1.0)
            try:
                opt.step()
            except Exception as error:
                errors.append(error)
                assert all((array == 1.0).all() for array in params.values())
        return errors, params

    for rank, (errors, params) in enumerate(on_ranks(3, work)):
        assert len(errors) == 1
        assert type(errors[0]) is (own if rank == 1 else distributed.RankError)
        if rank != 1:
            assert re.search(message, str(errors[0]))
        assert (params["w"] == 0.5).all()


@pytest.mark.parametrize(
    "other",
    [
        {"lr": 0.5},
        {"leaves": 4},
        {"params": {"w": np.ones(3000), "b": np.zeros(2)}},
        {"params": {"b": np.ones(2), "w": np.ones(3000)}},
        {"rule": fs.Adam},
    ],
    ids=["settings", "leaves", "values", "order", "rule"],
)
def test_ranks_that_differ_are_refused_at_the_first_step(other: dict[str, Any]) -> None:
    def work(group: Any) -> Any:
        own = {"rule": fs.SGD, "params": model(), "lr": 1.0, "leaves": 2}
        own |= other if group.rank == 1 else {}
        rule, params = own.pop("rule"), own.pop("params")
        opt = distributed.Sharded(rule, params, group=group, **own)
        grads = {name: np.ones_like(array) for name, array in params.items()}
        while opt._gradients.missing:
            opt.accumulate(grads, samples=1)
        opt.step()

    for error in on_ranks(2, work):
        assert isinstance(error, distributed.RankError), error
        assert "rank 1: is at step 0 of another model, settings or run than rank 0" in str(error)


def test_nan_on_one_rank_is_one_decision_of_all() -> None:
    def work(group: Any) -> Any:
        params = model()
        opt = distributed.Sharded(
            fs.SGD, params, group=group, leaves=2, lr=1.0, nonfinite="raise", memory=[1, 3]
        )
        bad = {"w": GRADS["w"].copy(), "b": GRADS["b"]}
        bad["w"][2999] = np.nan if group.rank == 0 else 0.0
        opt.accumulate(bad, samples=1)
        try:
            opt.step()
        finally:
            assert (params["w"] == 1.0).all()

    for error in on_ranks(2, work):
        assert isinstance(error, ValueError)
        assert str(error).startswith("params['w']: the gradient holds NaN or infinity")


def test_a_rank_that_does_not_come_is_named() -> None:
    def work(group: Any) -> None:
        if group.rank == 1:
            return
        opt = distributed.Sharded(fs.SGD, model(), group=group, leaves=2, lr=1.0)
        opt.accumulate(GRADS, samples=1)
        opt.step()

    error, _ = on_ranks(2, work, timeout=0.2)
    assert isinstance(error, distributed.RankTimeout)
    assert "rank 0 waited 0.2 s for rank 1" in str(error)


def test_batches_of_a_loader_are_cut_into_leaves_and_no_sample_is_lost() -> None:
    x = np.arange(100.0)
    size = fs.batch_sizes.polynomial(start=3, end=20, length=12)

    def loss_and_grads(batch: Any) -> tuple[float, Any]:
        return float(batch.data.mean()), {"w": np.full(1, batch.data.mean())}

    def work(group: Any) -> Any:
        params = {"w": np.zeros(1)}
        opt = distributed.Sharded(fs.SGD, params, group=group, leaves=8, lr=1.0)
        losses, sizes = [], []
        for batch in fs.Loader(x, size, seed=1, epochs=2, shard=opt.share):
            _, loss = distributed.step(opt, loss_and_grads, batch)
            losses.append(loss)
            sizes.append(batch.size)
        return params["w"], losses, sizes

    expected, losses, sizes = on_ranks(1, work)[0]
    total = sum(loss * count for loss, count in zip(losses, sizes, strict=True))
    assert total == pytest.approx(2 * x.sum(), rel=1e-12)
    for world in (2, 3, 5, 8):
        for found in on_ranks(world, work):
            assert_same_bits([found[0]], [expected])
            assert found[1:] == (losses, sizes)


def test_parameters_in_one_piece_of_memory_are_exchanged_in_place() -> None:
    def work(group: Any) -> Any:
        params = distributed.flatten({"none": np.ones(0), **model(), "nothing": np.ones((0, 3))})
        opt = distributed.Sharded(fs.Adam, params, group=group, leaves=2, lr=0.1)
        assert opt._layout.memory() is not None
        grads = {**GRADS, "none": np.ones(0), "nothing": np.ones((0, 3))}
        while opt._gradients.missing:
            opt.accumulate(grads, samples=1)
        opt.step()
        return params

    expected = on_ranks(1, work)[0]
    for params in on_ranks(2, work):
        assert_same_bits(list(params.values()), list(expected.values()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leaves": 0}, "leaves must be"),
        ({"leaves": 5000}, "leaves must be"),
        ({"shares": [1]}, "shares must be 1 numbers, one for each rank, whose sum is 2"),
        ({"memory": [0]}, "memory must be 1 numbers of at least 0, not all 0"),
        ({"buckets": 0}, "buckets must be"),
        ({"levels": [2]}, "levels must be whole numbers whose product is 1"),
        ({"params": {"w": np.ones(2), "b": np.ones(2, np.float32)}}, "must have one dtype"),
        ({"rate": 1.0}, "rate"),
    ],
    ids=str,
)
def test_what_can_not_be_is_refused(options: dict[str, Any], message: str) -> None:
    given = {"rule": fs.SGD, "params": model(), "leaves": 2, "lr": 1.0, **options}
    with pytest.raises((TypeError, ValueError), match=message):
        distributed.Sharded(
            given.pop("rule"), given.pop("params"), group=distributed.alone(), **given
        )


def test_settings_and_counts_are_those_of_the_rule() -> None:
    opt = distributed.Sharded(fs.AdamW, model(), group=distributed.alone(), leaves=1, lr=0.5)
    opt.lr = 0.25
    assert opt.lr == 0.25
    assert opt.steps_applied == 0
    opt.accumulate(GRADS, samples=2)
    with pytest.raises(fs.StateError, match="all 1 leaves of this rank are here"):
        opt.accumulate(GRADS, samples=2)
    assert opt.step().lr == 0.25
    assert opt.steps_applied == 1
    with pytest.raises(AttributeError, match="no attribute 'rate'"):
        print(opt.rate)


def test_gradients_that_differ_are_named_with_what_computed_them() -> None:
    def work(group: Any, fault: Any) -> Any:
        params = model()
        opt = distributed.Sharded(fs.SGD, params, group=group, leaves=3, lr=1.0)

        def loss_and_grads(x: Array) -> tuple[float, Any]:
            grads = {"w": np.full(3000, x.sum()), "b": np.ones(2)}
            if group.rank == 1:
                fault(grads)
            return 0.0, grads

        return distributed.check_gradients(opt, loss_and_grads, np.ones(3))

    def differ(grads: Any) -> None:
        grads["w"][7] = np.nextafter(3.0, 4.0)

    def fail(grads: Any) -> None:
        raise MemoryError("no room")

    assert on_ranks(3, lambda group: work(group, lambda grads: None)) == [None] * 3
    for error in on_ranks(3, lambda group: work(group, differ)):
        assert isinstance(error, distributed.RankError)
        assert re.search(
            r"rank 1 \(.*\) has other gradients than rank 0 \(.*\) of params\['w'\]$", str(error)
        )
    first, second, _ = on_ranks(3, lambda group: work(group, fail))
    assert str(first) == "rank 1: MemoryError: no room"
    assert isinstance(second, MemoryError)


@pytest.mark.parametrize(
    ("seconds", "unit", "expected"),
    [
        ([1.0, 1.0], 1, [8, 8]),
        ([1.0, 3.0], 1, [12, 4]),
        ([1.0, 3.0], 8, [16, 0]),
        ([2.0, 1.0, 1.0], 2, [4, 6, 6]),
    ],
    ids=str,
)
def test_leaves_are_shared_so_that_the_slowest_ends_first(
    seconds: list[float], unit: int, expected: list[int]
) -> None:
    def work(group: Any) -> Any:
        return distributed.balanced(group, 16, seconds[group.rank], unit=unit)

    assert on_ranks(len(seconds), work) == [expected] * len(seconds)
    with pytest.raises(ValueError, match="unit must divide leaves, which are 16, not 3"):
        distributed.balanced(distributed.alone(), 16, 1.0, unit=3)
