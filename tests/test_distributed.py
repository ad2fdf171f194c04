"""Several processes have the bits of one: ranks are threads of this process."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import _core, distributed, gradients, schedules
from fusestep.distributed import norm
from fusestep.distributed.tree import ADD, Node, Sums, additions, pieces
from tables.models import Array, assert_same_bits, plain

SIZES = (1, 3, 15, 16, 17, 1000, 1023, 1024, 1025, 5000)


def on_ranks(
    world: int, work: Callable[[distributed.Group], Any], timeout: float = 30
) -> list[Any]:
    """What some work returns, or raises, on every rank of a group."""
    found: list[Any] = [None] * world

    def run(group: Any) -> None:
        try:
            found[group.rank] = work(group)
        except Exception as error:
            found[group.rank] = error

    ranks = distributed.threads(world, timeout=timeout) if world > 1 else [distributed.alone()]
    threads = [threading.Thread(target=run, args=(group,)) for group in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def level_by_level(values: list[Array | None]) -> Array | None:
    """The sum over the tree, as NumPy adds it."""
    while len(values) > 1:
        pairs = [values[i : i + 2] for i in range(0, len(values), 2)]
        values = []
        for pair in pairs:
            there = [value for value in pair if value is not None]
            values.append(there[0] + there[1] if len(there) == 2 else (there or [None])[0])
    return values[0]


@pytest.mark.parametrize("leaves", [*range(1, 34), 48, 63, 64, 65, 100])
def test_the_tree_is_the_same_however_leaves_are_shared(leaves: int) -> None:
    pick = random.Random(leaves)
    values = [np.float32(10.0 ** pick.randint(-3, 3) * pick.random()) for _ in range(leaves)]
    absent = {leaf for leaf in range(1, leaves) if pick.random() < 0.2}
    expected = level_by_level([None if i in absent else v for i, v in enumerate(values)])
    for world in {1, 2, 3, min(7, leaves), leaves}:
        bounds = sorted([0, leaves, *(pick.randint(0, leaves) for _ in range(world - 1))])
        nodes, sums = [], []
        for begin, end in pairwise(bounds):
            buffers: list[Any] = []
            adder = Sums(begin, end, leaves, *memory_of(buffers))
            for leaf in range(begin, end):
                if leaf in absent:
                    adder.put(None)
                    continue
                sibling = adder.sibling()
                buffer = adder.take() if sibling is None else sibling
                before = np.float32(0) if sibling is None else buffers[buffer]
                buffers[buffer] = values[leaf] if sibling is None else before + values[leaf]
                adder.put(buffer)
            found = adder.finish()
            wanted = pieces(begin, end, leaves)
            assert len(found) == len(wanted)
            for node, buffer in zip(wanted, found, strict=True):
                first, last = node.span(leaves)
                assert (buffer is None) == (set(range(first, last)) <= absent)
                if buffer is not None:
                    nodes.append(node)
                    sums.append(buffers[buffer])
            assert len(buffers) <= max(1, 2 * (end - begin).bit_length())
        stack: list[Any] = []
        for step in additions(nodes, leaves):
            stack.append(stack.pop(-2) + stack.pop() if step == ADD else sums[step])
        assert stack == [expected]


def memory_of(buffers: list[Any]) -> tuple[Callable[[], int], Callable[[int, int], None]]:
    def new() -> int:
        buffers.append(None)
        return len(buffers) - 1

    def add(source: int, target: int) -> None:
        buffers[target] = buffers[target] + buffers[source]

    return new, add


def test_a_rank_sends_one_piece_where_its_leaves_are_a_power_of_two() -> None:
    assert pieces(8, 16, 64) == [Node(3, 1)]
    assert pieces(0, 64, 64) == [Node(6, 0)]
    assert len(pieces(21, 42, 64)) == 5


@pytest.mark.parametrize("elements", [1, 1023, 1024, 1025, 5000, 2**20, 2**20 + 1, 2**21 + 5000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_norm_of_shards_has_the_bits_of_one_process(elements: int, dtype: type) -> None:
    rng = np.random.default_rng(elements)
    gradient = (rng.standard_normal(elements) * 10.0 ** rng.integers(-3, 4, elements)).astype(dtype)
    opt = fs.SGD(np.zeros(elements, dtype), lr=0.0, clip_norm=1.0)
    expected = opt.step(gradient).grad_norm
    blocks = -(-elements // _core.BLOCK)
    for world in (1, 2, 3, 5):
        cuts = np.sort(rng.integers(0, blocks + 1, world - 1)) * _core.BLOCK
        bounds = [0, *(min(int(cut), elements) for cut in cuts), elements]
        told = [
            norm.message(_core.block_sums(gradient[a:b]), a // _core.BLOCK)
            for a, b in pairwise(bounds)
        ]
        assert np.sqrt(norm.total(told, bounds, elements)) == expected
        assert sum(map(len, told)) <= 8 * (2 * 1024 * world + blocks // 1024)


class Case:
    """A run of a few steps, with gradients of every leaf."""

    RULES = (
        (fs.AdamW, {"lr": 1e-2, "weight_decay": 0.1}),
        (fs.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        (fs.Adam, {"lr": schedules.cosine(1e-2, length=5), "amsgrad": True}),
        (fs.AdamW, {"lr": 1e-2, "groups": [{"match": "0", "weight_decay": 0.0, "lr": 1e-3}]}),
        (fs.Lion, {"lr": 1e-3}),
        (fs.NAdam, {"lr": 1e-3, "ema": 0.9}),
    )

    def __init__(self, seed: int, leaves: int | None = None, steps: int = 3) -> None:
        rng, pick = np.random.default_rng(seed), random.Random(seed)
        sizes = [pick.choice([*SIZES, pick.randint(1, 3000), 0]) for _ in range(pick.randint(1, 5))]
        sizes += [pick.choice(SIZES)]
        if seed % 10 == 0:
            sizes += [(1 << 20) + 7, 333]
        self.dtype = pick.choice([np.float32, np.float64])
        self.leaves = leaves or pick.randint(1, 17)
        self.rule, settings = pick.choice(self.RULES)
        limits = {"clip_norm": pick.choice([None, 0.1, 1e3]), "nonfinite": pick.choice(NONFINITE)}
        self.settings: dict[str, Any] = {**settings, **limits}
        self.params = [rng.standard_normal(size).astype(self.dtype) for size in sizes]
        self.steps = [
            [self._leaf(rng, pick, sizes, leaf) for leaf in range(self.leaves)]
            for _ in range(steps)
        ]
        if pick.random() < 0.3:
            self.steps[1][-1][0][-1] = np.full(sizes[-1], np.inf, self.dtype)

    def _leaf(
        self, rng: Any, pick: Any, sizes: list[int], leaf: int
    ) -> tuple[list[Any], int, float]:
        grads: list[Any] = []
        for size in sizes:
            gradient = (rng.standard_normal(size) * 10.0 ** rng.integers(-2, 3)).astype(self.dtype)
            gradient[::7] = -0.0
            grads.append(None if pick.random() < 0.1 else gradient)
        return grads, pick.randint(0 if leaf else 1, 40), pick.random()

    def tree(self) -> dict[str, Array]:
        return {str(k): array.copy() for k, array in enumerate(self.params)}

    def build(self, params: Any, group: Any, **options: Any) -> distributed.Sharded:
        options = {"leaves": self.leaves, **options, **self.settings}
        return distributed.Sharded(self.rule, params, group=group, **options)

    def accumulate(self, opt: distributed.Sharded, step: int) -> None:
        for leaf in range(opt.share.begin, opt.share.end):
            grads, samples, loss = self.steps[step][leaf]
            if samples:
                opt.accumulate({str(k): g for k, g in enumerate(grads)}, samples, loss=loss)
            else:
                opt.skip()

    def run(self, world: int, **options: Any) -> tuple[Any, ...]:
        def work(group: Any) -> Any:
            params, told = self.tree(), []
            opt = self.build(params, group, **options)
            statistics = gradients.GradientStatistics()
            for step in range(len(self.steps)):
                self.accumulate(opt, step)
                info = opt.step(statistics=statistics if step else None)
                told.append((info.lr, info.grad_norm, info.applied, opt.loss))
            opt.verify()
            state = opt.state_dict()
            assert (state is None) == (group.rank > 0)
            return params, repr(told), plain(statistics.state_dict()), state

        found = on_ranks(world, work)
        for error in found:
            if isinstance(error, Exception):
                raise error
        for params, *rest in found[1:]:
            assert_same_bits(list(params.values()), list(found[0][0].values()))
            assert rest[:2] == list(found[0][1:3])
        return found[0]


NONFINITE = ("propagate", "skip")


@pytest.mark.parametrize("seed", range(25))
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
            memory=memory if any(memory) else None,
        )
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
        params = distributed.flatten(model())
        opt = distributed.Sharded(fs.Adam, params, group=group, leaves=2, lr=0.1)
        assert opt._layout.memory() is not None
        while opt._gradients.missing:
            opt.accumulate(GRADS, samples=1)
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
        ({"agc": 0.1}, "agc of SGD sums over single arrays"),
        ({"rule": fs.LAMB}, "LAMB sums over single arrays"),
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
