"""fusestep.torch.Offload: what happens during backward, and between backward and step."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from tables.models import assert_same_bits

torch = pytest.importorskip("torch")
native = pytest.importorskip("fusestep.torch")
Offload = native.Offload

WIDTH, DEPTH = 520, 4  # a layer is more than a part
SETTINGS = {"lr": 0.01, "weight_decay": 0.1}


class Pair:
    """A model with Offload, and the rule over arrays that has to have the same bits."""

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(0)
        self.layers = [torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(DEPTH)]
        self.model = torch.nn.Sequential(*self.layers).to(torch.bfloat16)
        self.params = list(self.model.parameters())
        of_rule = {k: v for k, v in options.items() if k not in ("overlap", "offload_gradients")}
        self.opt = Offload(self.params, fs.AdamW, **{**SETTINGS, **options})
        self.masters = [p.detach().float().numpy().copy() for p in reversed(self.params)]
        self.rule = fs.AdamW(self.masters, **{**SETTINGS, **of_rule})

    def loss(self, seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(4, WIDTH, generator=generator).to(torch.bfloat16)
        return self.model(inputs).float().pow(2).mean()

    def found(self, seed: int) -> list[Any]:
        """The gradients of a loss, as float32 arrays in the order of the masters."""
        grads = torch.autograd.grad(self.loss(seed), self.params)
        return [g.float().numpy() for g in reversed(grads)]

    def step(self, seed: int) -> None:
        self.opt.zero_grad()
        self.rule.step(self.found(seed))
        self.loss(seed).backward()
        self.opt.step()

    def assert_same(self) -> None:
        for p, master in zip(reversed(self.params), self.masters, strict=True):
            assert_same_bits([self.opt.state[p]["master"].numpy()], [master])
            assert torch.equal(p, torch.from_numpy(master).to(torch.bfloat16))


def overlapping(**options: Any) -> Pair:
    """After a first step, which shows that nothing speaks against overlap."""
    pair = Pair(**options)
    pair.step(0)
    assert pair.opt.overlaps
    return pair


class Failing(torch.autograd.Function):
    """Its backward raises."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        raise RuntimeError("planted")


def fail_in_the_middle(pair: Pair, seed: int) -> None:
    """A backward that reaches the last two layers."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(4, WIDTH, generator=generator).to(torch.bfloat16)
    below = pair.layers[1](pair.layers[0](inputs))
    loss = pair.layers[3](pair.layers[2](Failing.apply(below))).float().pow(2).mean()
    with pytest.raises(RuntimeError, match="planted"):
        loss.backward()


def test_masters_are_updated_while_backward_goes_on_and_parameters_in_step() -> None:
    pair = overlapping()
    pair.opt.zero_grad()
    events: list[str] = []
    done = threading.Event()
    masters = pair.opt._masters
    update = masters._update

    def updating(end: int) -> None:
        update(end)
        events.append(f"{end // WIDTH**2} updated")
        done.set()

    masters._update = updating

    def below(module: Any, grad_output: Any) -> None:
        assert done.wait(60), "backward waits here until the worker has updated something"
        events.append("backward goes on")

    before = [p.detach().clone() for p in pair.params]
    pair.rule.step(pair.found(1))
    pair.layers[1].register_full_backward_pre_hook(below)
    pair.loss(1).backward()
    events.append("backward has ended")
    assert all(map(torch.equal, pair.params, before))
    pair.opt.step()
    pair.assert_same()
    assert events.index("0 updated") < events.index("backward goes on")
    assert events.index("backward goes on") < events.index("backward has ended")
    assert sum(event.endswith("updated") for event in events) > 1


def test_several_backwards_add_up_and_the_last_one_overlaps() -> None:
    pair = overlapping()
    for step in range(1, 4):
        pair.opt.zero_grad()
        with pair.opt.accumulate():
            pair.loss(10 * step).backward()
            pair.loss(10 * step + 1).backward()
        assert not pair.opt._masters.is_begun
        pair.loss(10 * step + 2).backward()
        assert pair.opt._masters.is_begun
        pair.rule.step([p.grad.float().numpy().copy() for p in reversed(pair.params)])
        pair.opt.step()
        pair.assert_same()


def test_freed_gradients_add_up_in_float32() -> None:
    pair = overlapping(offload_gradients=True)
    for step in range(1, 4):
        pair.opt.zero_grad()
        several = [pair.found(10 * step + k) for k in range(3)]
        with pair.opt.accumulate():
            pair.loss(10 * step).backward()
            pair.loss(10 * step + 1).backward()
        assert all(p.grad is None for p in pair.params)
        pair.loss(10 * step + 2).backward()
        pair.opt.step()
        pair.rule.step([(a + b) + c for a, b, c in zip(*several, strict=True)])
        pair.assert_same()
        assert pair.opt.overlaps


def test_two_backwards_unannounced_are_summed_or_refused() -> None:
    pair = Pair()
    pair.loss(0).backward()
    pair.loss(1).backward()
    pair.rule.step([p.grad.float().numpy().copy() for p in reversed(pair.params)])
    pair.opt.step()
    pair.assert_same()
    assert not pair.opt.overlaps

    pair = overlapping()
    pair.opt.zero_grad()
    pair.rule.step(pair.found(1))
    pair.loss(1).backward()
    with pytest.raises(fs.StateError, match="a second backward before step"):
        pair.loss(2).backward()
    with pytest.raises(fs.StateError, match=r"zero_grad\(\) would drop"):
        pair.opt.zero_grad()
    with pytest.raises(fs.StateError, match="a gradient was changed after"):
        pair.opt.step()
    pair.assert_same()


def test_gradients_of_a_whole_backward_may_be_dropped_without_overlap() -> None:
    pair = Pair(overlap=False)
    for step in range(3):
        pair.opt.zero_grad()
        pair.loss(100 + step).backward()
        pair.step(step)
        pair.assert_same()


@pytest.mark.parametrize("frees", [False, True])
def test_a_backward_that_raises_is_gone_on_with(frees: bool) -> None:
    pair = overlapping(offload_gradients=frees)
    before = [p.detach().clone() for p in pair.params]
    pair.opt.zero_grad()
    pair.rule.step(pair.found(1))
    fail_in_the_middle(pair, 1)
    assert pair.opt._masters.handed > 0
    assert all(map(torch.equal, pair.params, before))
    pair.opt.zero_grad()
    pair.loss(1).backward()  # the same batch once more
    pair.opt.step()
    pair.assert_same()
    pair.step(2)
    pair.assert_same()


def test_after_a_backward_that_raised_another_batch_leaves_out_what_is_updated() -> None:
    pair = overlapping()
    pair.opt.zero_grad()
    failed, good = pair.found(1), pair.found(2)
    fail_in_the_middle(pair, 1)
    handed = pair.opt._masters.handed
    first = [handed > leaf.begin for leaf in pair.opt._masters.leaves]
    assert first == [True, True, False, False]
    pair.opt.zero_grad()
    pair.loss(2).backward()
    pair.opt.step()
    pair.rule.step([f if early else g for f, g, early in zip(failed, good, first, strict=True)])
    pair.assert_same()


def test_a_step_after_a_backward_that_raised_updates_what_it_reached() -> None:
    pair = overlapping()
    pair.opt.zero_grad()
    failed = pair.found(1)
    fail_in_the_middle(pair, 1)
    pair.opt.step()
    pair.rule.step([*failed[:2], None, None])
    pair.assert_same()
    pair.step(2)
    pair.assert_same()


def test_a_loaded_state_ends_what_a_backward_has_begun() -> None:
    pair = overlapping()
    state, values = pair.opt.state_dict(), [p.detach().clone() for p in pair.params]
    pair.opt.zero_grad()
    fail_in_the_middle(pair, 1)
    with pytest.raises(fs.StateError, match="backward has begun an update"):
        pair.opt.state_dict()
    pair.opt.load_state_dict(state)
    assert all(map(torch.equal, pair.params, values))
    pair.step(2)
    pair.assert_same()


def clip(pair: Pair) -> None:
    torch.nn.utils.clip_grad_norm_(pair.params, 0.01)


def clip_data(pair: Pair) -> None:
    for p in pair.params:
        p.grad.data.mul_(0.5)


def set_lr(pair: Pair) -> None:
    pair.opt.param_groups[0]["lr"] = 0.5


def write_a_parameter(pair: Pair) -> None:
    with torch.no_grad():
        pair.params[0][0, 0] += 8.0


CHANGES = {
    "a gradient": clip,
    "its data": clip_data,
    "a setting": set_lr,
    "a parameter": write_a_parameter,
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_first_step_that_finds_a_change_after_backward_ends_overlap(what: str) -> None:
    pair = Pair()
    for step in range(3):
        pair.opt.zero_grad()
        pair.loss(step).backward()
        CHANGES[what](pair)
        pair.rule.lr = pair.opt.param_groups[0]["lr"]
        if what == "a parameter":
            pair.masters[-1][0, 0] = pair.params[0][0, 0].item()
        pair.rule.step([p.grad.float().numpy() for p in reversed(pair.params)])
        pair.opt.step()
        pair.assert_same()
        assert not pair.opt.overlaps


@pytest.mark.parametrize("what", sorted({*CHANGES} - {"its data"}))
def test_a_later_change_after_backward_is_told_once_the_step_is_taken(what: str) -> None:
    pair = overlapping()
    pair.opt.zero_grad()
    pair.rule.step(pair.found(1))
    pair.loss(1).backward()
    CHANGES[what](pair)
    with pytest.raises(fs.StateError, match=f"{what} was changed after the backward"):
        pair.opt.step()
    pair.assert_same()
    assert not pair.opt.overlaps
    pair.rule.lr = pair.opt.param_groups[0]["lr"]
    pair.step(2)
    pair.assert_same()


def test_parameters_that_others_write_are_followed_and_keep_bits_where_they_do_not() -> None:
    pair = overlapping()
    with torch.no_grad():
        pair.params[0].clamp_(-0.02, 0.02)
        pair.params[1].data = torch.full_like(pair.params[1], 0.25)
    clamped = torch.from_numpy(pair.masters[-1]).to(torch.bfloat16).abs() > 0.02
    assert 0 < clamped.sum() < clamped.numel()
    there = pair.params[0].detach().float().numpy()
    pair.masters[-1][clamped.numpy()] = there[clamped.numpy()]
    pair.masters[-2][:] = 0.25
    pair.step(1)
    pair.assert_same()


def test_a_closure_computes_gradients_inside_a_step_and_hooks_are_called() -> None:
    pair = overlapping()
    called: list[str] = []
    pair.opt.register_step_pre_hook(lambda *_: called.append("pre"))
    pair.opt.register_step_post_hook(lambda *_: called.append("post"))

    def closure() -> Any:
        called.append("closure")
        pair.opt.zero_grad()
        loss = pair.loss(1)
        loss.backward()
        return loss

    pair.rule.step(pair.found(1))
    assert pair.opt.step(closure) > 0
    assert called == ["pre", "closure", "post"]
    pair.assert_same()


def test_gradients_set_by_hand_and_parameters_that_begin_to_require_one_are_served() -> None:
    pair = Pair()
    pair.params[0].requires_grad_(False)
    pair.opt = Offload(pair.params, fs.AdamW, **SETTINGS)
    for step in range(4):
        pair.opt.zero_grad()
        if step == 2:
            pair.params[0].requires_grad_(True)
        if step == 1:
            for p in pair.params[1:]:
                p.grad = torch.full_like(p, 0.5)
        else:
            pair.loss(step).backward()
        found = [None if p.grad is None else p.grad.float().numpy() for p in reversed(pair.params)]
        assert (found[-1] is None) == (step < 2)
        pair.rule.step(found)
        pair.opt.step()
        pair.assert_same()


def test_backward_keeps_no_masters_alive() -> None:
    pair = overlapping()
    gone = weakref.ref(pair.opt._masters)
    del pair.opt
    gc.collect()
    assert gone() is None
    pair.loss(1).backward()
    assert pair.params[0].grad.isfinite().all()


def test_what_a_backward_that_raised_has_brought_is_waited_for_again() -> None:
    a, b = (torch.nn.Parameter(torch.ones(8, dtype=torch.bfloat16)) for _ in range(2))
    masters = [np.ones(8, np.float32), np.ones(8, np.float32)]
    opt, rule = Offload([a, b], fs.SGD, lr=0.5), fs.SGD(masters, lr=0.5)
    (a.sum() + b.sum()).backward()
    opt.step()
    rule.step([np.ones(8, np.float32)] * 2)
    a.grad = b.grad = None
    first = Failing.apply(b).sum()
    with pytest.raises(RuntimeError, match="planted"):
        (first + a.sum()).backward()  # from the end: a, then the failure
    assert a.grad is not None
    assert b.grad is None
    a.grad = None
    first = (a * 3).sum()
    (first + (b * 3).sum()).backward()  # b, then a
    opt.step()
    rule.step([np.full(8, 3, np.float32)] * 2)
    for p, master in zip((b, a), masters, strict=True):
        assert_same_bits([opt.state[p]["master"].numpy()], [master])
