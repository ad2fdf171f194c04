"""What remembers a run belongs to one optimizer and one loader, and says when it sees nothing."""

from __future__ import annotations

import copy
import gc
import threading
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import batch_sizes, control
from fusestep.gradients import AdaScale, GradientStatistics
from test_memory import CONTROLS, CURVE, POLICIES, every, learnt


def optimizer(lr: Any, steps: int = 0) -> fs.SGD:
    opt = fs.SGD(np.zeros(1), lr=lr)
    for t in range(steps):
        opt.step(np.ones(1), clock=fs.Clock(samples=t, epoch=0, batch_size=8), loss=1.0 + t)
    return opt


def loader(size: Any, batches: int = 0) -> fs.Loader:
    made = fs.Loader(np.arange(1000), size, order="sequential")
    for _, _ in zip(range(batches), made, strict=False):
        pass
    return made


@every(CONTROLS)
def test_a_control_belongs_to_the_first_optimizer_and_the_first_loader(make: Any) -> None:
    leaf, free = make(), make()
    before = [0.1 * leaf, copy.deepcopy(0.1 * leaf)]
    opt = optimizer(before[0], steps=3)
    given = leaf.state_dict()
    with pytest.raises(fs.StateError, match=rf"{type(leaf).__name__}.*another optimizer.*deepcopy"):
        optimizer(free * leaf)
    sized = loader(batch_sizes.expression(8 + leaf, maximum=64), batches=2)  # of the same run
    with pytest.raises(fs.StateError, match="belongs to another loader"):
        loader(batch_sizes.expression(8 + leaf, maximum=64))
    assert leaf.state_dict() == given
    for unused in (free, before[1], copy.deepcopy(0.1 * leaf)):
        optimizer(unused, steps=1)
    opt.weight_decay = 0.1 * leaf  # the same optimizer again
    assert sized.clock.step == 2


@every(POLICIES)
def test_a_policy_that_remembers_belongs_to_the_first_loader(make: Any) -> None:
    policy = make()
    unused = copy.deepcopy(policy)
    first = loader(policy, batches=2)
    with pytest.raises(fs.StateError, match=r"belongs to another loader.*build a new one"):
        loader(policy)
    del first
    gc.collect()
    with pytest.raises(fs.StateError, match="belongs to another loader"):
        loader(policy)  # whose memory is of a run
    assert [b.size for b in loader(unused)] == [b.size for b in loader(make())]


@pytest.mark.parametrize(
    "policy",
    [
        batch_sizes.polynomial(8, 64, length=20),
        batch_sizes.polynomial(64, 8, length=20, by="step", multiple_of=8),
        batch_sizes.expression(lambda clock: 8 + clock.step),
        batch_sizes.fixed(50),
        batch_sizes.ramp(start=8, end=64, increment=8, over_samples=500),
    ],
    ids=repr,
)
def test_a_policy_of_the_clock_alone_is_the_same_in_every_run(policy: batch_sizes.Policy) -> None:
    runs = [[b.size for b in loader(policy)] for _ in range(3)]
    assert runs[0] == runs[1] == runs[2]
    assert sum(runs[0]) == 1000


@every(POLICIES)
def test_a_policy_whose_clock_goes_back_before_its_last_change_begins_anew(make: Any) -> None:
    policy, fresh = make(), make()
    clocks = [fs.Clock(step=t, samples=16 * t, epoch=t / 8) for t in range(20)]
    expected = [fresh.next_size(clock) for clock in clocks]
    policy.next_size(fs.Clock(step=9, samples=9, epoch=1.0))
    assert [policy.next_size(clock) for clock in clocks] == expected


def test_what_was_refused_or_never_used_is_free() -> None:
    plateau, policy = control.Plateau(), batch_sizes.fixed(8, dwell=1)
    with pytest.raises(ValueError, match="epochs"):
        fs.Loader(np.arange(9), policy, epochs=0)
    with pytest.raises(ValueError, match="clip_norm"):
        fs.SGD(np.zeros(1), lr=plateau, clip_norm=-1.0)
    used = control.Plateau()
    opt = optimizer(used, steps=2)
    with pytest.raises(fs.StateError, match="belongs to another optimizer"):
        fs.SGD(np.zeros(1), lr=plateau, weight_decay=used)
    del opt
    optimizer(plateau)
    gc.collect()
    optimizer(plateau)  # the one before is gone, and has taken no step
    fs.Loader(np.arange(9), policy)
    gc.collect()
    fs.Loader(np.arange(9), policy)


def test_statistics_belong_to_the_first_optimizer_that_they_learn_from() -> None:
    statistics = GradientStatistics()
    opts = [fs.SGD(np.zeros(2), lr=0.1) for _ in range(2)]
    for opt in opts:
        for _ in range(2):
            opt.accumulate(np.ones(2), 4)
    with pytest.raises(TypeError, match="clock"):
        opts[1].step(statistics=statistics, clock=3)  # type: ignore[arg-type]
    opts[0].step(statistics=statistics)
    before = statistics.state_dict()
    with pytest.raises(fs.StateError, match="belongs to another optimizer"):
        opts[1].step(statistics=statistics)
    assert (statistics.state_dict(), opts[1].steps_applied, opts[1].accumulated) == (before, 0, 8.0)
    opts[1].step(statistics=copy.deepcopy(statistics))


def test_statistics_that_a_policy_reads_belong_to_its_loader_too() -> None:
    statistics = GradientStatistics()
    first = loader(batch_sizes.noise_scale(statistics, start=8, maximum=64))
    opt = fs.SGD(np.zeros(2), lr=0.1)
    for _ in range(2):
        opt.accumulate(np.ones(2), 4)
    opt.step(statistics=statistics)
    del first, opt
    gc.collect()
    with pytest.raises(fs.StateError, match=r"GradientStatistics.*belongs to another loader"):
        loader(batch_sizes.norm_test(statistics, theta=0.5, start=8, maximum=64))


def test_adascale_belongs_to_the_first_optimizer_whose_rate_follows_it() -> None:
    scale = AdaScale(learnt(), base_batch=8)
    lr = fs.scaling.adascale(0.1, scale)
    optimizer(lr, steps=1)
    scale.advance(16)
    gc.collect()
    with pytest.raises(fs.StateError, match="belongs to another optimizer"):
        optimizer(lr)


def test_two_optimizers_may_read_what_one_loader_moves() -> None:
    policy = batch_sizes.increase_instead_of_decay(CURVE, 8, maximum=16)
    batches = iter(fs.Loader(np.arange(99), policy))
    pair = [fs.SGD(np.zeros(1), lr=policy.lr * policy.overflow) for _ in range(2)]
    for part in (next(batches), next(batches)):
        infos = [opt.step(np.ones(1), clock=part.clock) for opt in pair]
        assert infos[0].lr == infos[1].lr == policy.lr() * policy.overflow()


def test_of_many_threads_one_has_it() -> None:
    for _ in range(20):
        plateau, had = control.Plateau(), []
        ready = threading.Barrier(4)

        def claim(plateau: Any = plateau, had: list[Any] = had, ready: Any = ready) -> None:
            ready.wait()
            try:
                had.append(optimizer(plateau))
            except fs.StateError as error:
                had.append(error)

        threads = [threading.Thread(target=claim) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(isinstance(one, fs.SGD) for one in had) == 1


def test_a_control_that_never_sees_a_loss_says_so_once() -> None:
    opt = optimizer(plateau := control.Plateau())
    for epoch in (3.0, 3.5, 3.999):
        opt.step(np.ones(1), clock=fs.Clock(epoch=epoch))
    with pytest.warns(
        UserWarning, match=r"Plateau\(\) has seen no loss after 3 updates.*loss=loss"
    ):
        opt.step(np.ones(1), clock=fs.Clock(epoch=4.0))
    opt.step(np.ones(1), clock=fs.Clock(epoch=9.0))
    opt.state_dict()
    assert plateau.value == 1.0

    opt = optimizer(control.Plateau())
    opt.state_dict()  # before any step
    for _ in range(1000):
        opt.step(np.ones(1))
    with pytest.warns(UserWarning, match="has seen no loss after 1000 updates"):
        opt.step(np.ones(1))

    opt = optimizer(control.Plateau())
    opt.step(np.ones(1))
    with pytest.warns(UserWarning, match="has seen no loss after 1 updates"):
        opt.state_dict()

    sizes = batch_sizes.expression(8 * control.Plateau())
    with pytest.warns(UserWarning, match="has seen no loss"):
        list(fs.Loader(np.arange(80), sizes, epochs=3))


def test_a_control_that_sees_a_loss_now_and_then_says_nothing() -> None:
    opt = optimizer(control.Plateau())
    for step in range(60):
        loss = 1.0 if step % 10 == 9 else None  # at the end of an epoch
        opt.step(np.ones(1), clock=fs.Clock(epoch=step / 10), loss=loss)
    opt.state_dict()
