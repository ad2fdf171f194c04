"""fusestep.torch.Offload: clipping, gradients that are not finite, scalers, and what is refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import schedules
from tables.models import assert_same_bits

torch = pytest.importorskip("torch")
native = pytest.importorskip("fusestep.torch")
Offload = native.Offload

SHAPES = ((300, 100), (700,), (), (5000,))


def parameters(dtype: Any = torch.bfloat16) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in SHAPES]


def arrays(tensors: list[Any]) -> list[Any]:
    return [t.detach().float().numpy().copy() for t in reversed(tensors)]


def backward(params: list[Any], step: int, scale: float = 1.0) -> list[Any]:
    """Makes gradients of random values; as float32 arrays in the order of the masters."""
    generator = torch.Generator().manual_seed(step)
    weights = [torch.randn(p.shape, generator=generator).to(p.dtype) for p in params]
    for p in params:
        p.grad = None
    total = sum((p * w * scale).float().sum() for p, w in zip(params, weights, strict=True))
    total.backward()
    return arrays([p.grad for p in params])


def assert_masters(opt: Any, masters: list[Any]) -> None:
    for group in opt.param_groups:
        for p in group["params"]:
            assert torch.equal(p, opt.state[p]["master"].to(p.dtype))
    held = [leaf.master.numpy() for leaf in opt._masters.leaves]
    assert_same_bits(held, masters)


def test_clipping_has_the_bits_of_the_rule_and_is_that_of_torch() -> None:
    params, others = parameters(), parameters(torch.float64)
    with torch.no_grad():
        for p, q in zip(params, others, strict=True):
            q.copy_(p)
    masters = arrays(params)
    rule = fs.AdamW(masters, lr=0.01, clip_norm=1.0)
    opt = Offload(params, fs.AdamW, lr=0.01, clip_norm=1.0)
    peer = torch.optim.AdamW(others, lr=0.01, weight_decay=0.01)
    for group in opt.param_groups:
        group["weight_decay"] = 0.01
    rule.weight_decay = 0.01
    for step in range(4):
        grads = backward(params, step)
        assert not opt.overlaps
        info = rule.step(grads)
        opt.step()
        assert opt.info is not None
        assert tuple(opt.info) == tuple(info)
        assert_masters(opt, masters)
        for p, q in zip(params, others, strict=True):
            q.grad = p.grad.double()
        norm = torch.nn.utils.clip_grad_norm_(others, 1.0)
        peer.step()
        assert opt.info.grad_norm == pytest.approx(float(norm), rel=1e-12)
        for p, q in zip(params, others, strict=True):
            np.testing.assert_allclose(opt.state[p]["master"], q.detach(), rtol=1e-5, atol=1e-6)


def test_gradients_that_are_not_finite_are_skipped_or_raise() -> None:
    params = parameters()
    masters = arrays(params)
    rule = fs.AdamW(masters, nonfinite="skip")
    opt = Offload(params, fs.AdamW, nonfinite="skip")
    for step in range(4):
        grads = backward(params, step, np.inf if step == 2 else 1.0)
        rule.step(grads)
        opt.step()
        assert opt.info is not None
        assert opt.info.applied == (step != 2)
        assert_masters(opt, masters)
    assert opt.state_dict()["offload"] == {"rule": "AdamW", "attempted": 4, "applied": 3}

    opt = Offload(params, fs.AdamW, nonfinite="raise")
    before = [p.detach().clone() for p in params]
    backward(params, 0, np.nan)
    with pytest.raises(ValueError, match=r"params\['0/3'\]: gradient holds NaN"):
        opt.step()
    assert all(map(torch.equal, params, before))
    masters = arrays(params)
    rule = fs.AdamW(masters)
    rule.step(backward(params, 1))
    opt.step()
    assert_masters(opt, masters)


@pytest.mark.parametrize("unscales", [False, True])
def test_a_scaler_of_gradients_ends_overlap_and_its_skipped_steps_change_nothing(
    unscales: bool,
) -> None:
    params = parameters()
    masters = arrays(params)
    rule = fs.AdamW(masters)
    opt = Offload(params, fs.AdamW)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for step in range(4):
        before = [p.detach().clone() for p in params]
        scale = scaler.get_scale()
        grads = backward(params, step, np.inf if step == 1 else scale)
        scaler.scale(torch.zeros(()))
        if unscales:
            scaler.unscale_(opt)
        scaler.step(opt)
        scaler.update()
        assert not opt.overlaps
        if step == 1:
            assert all(map(torch.equal, params, before))
            assert scaler.get_scale() == scale / 2
        elif unscales:
            rule.step(arrays([p.grad for p in params]))
        else:
            rule.step(grads, grad_scale=scale)
        assert_masters(opt, masters)


def test_groups_are_added_between_steps_and_saved_states_follow_them() -> None:
    params = parameters()
    masters = arrays(params[2:]) + arrays(params[:2])
    rule = fs.AdamW([{"params": masters[:2]}], lr=0.01)
    opt = Offload(params[2:], fs.AdamW, lr=0.01)
    backward(params, 0)
    rule.step([arrays([p.grad for p in params[2:]])])
    opt.step()
    rule.add_group(masters[2:], weight_decay=0.5)
    opt.add_param_group({"params": params[:2], "weight_decay": 0.5})
    with pytest.raises(ValueError, match="some parameters appear in more than one"):
        opt.add_param_group({"params": params[0]})
    with pytest.raises(TypeError, match="parameter 0 of group 2 must be bfloat16"):
        opt.add_param_group({"params": torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))})
    assert len(opt.param_groups) == 2
    others = [torch.nn.Parameter(torch.zeros_like(p)) for p in params]
    fresh = Offload([{"params": others[2:]}, {"params": others[:2]}], fs.AdamW, lr=0.01)
    fresh.load_state_dict(opt.state_dict())
    assert [group["weight_decay"] for group in fresh.param_groups] == [
        group["weight_decay"] for group in opt.param_groups
    ]
    for step in range(1, 4):
        backward(params, step)
        rule.step([arrays([p.grad for p in params[2:]]), arrays([p.grad for p in params[:2]])])
        opt.step()
        backward(others, step)
        fresh.step()
        assert_masters(opt, masters)
        assert all(map(torch.equal, params, others))


W = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
REFUSED: dict[str, tuple[Any, Any, dict[str, Any], type[Exception], str]] = {
    "torch's rule": ([W], torch.optim.AdamW, {}, TypeError, "rule must be a class such as fuse"),
    "no rule": ([W], fs.optim.Optimizer, {}, TypeError, "rule must be a class such as fuse"),
    "schedule-free": ([W], fs.ScheduleFreeAdamW, {}, TypeError, "changes for its evaluation"),
    "ema": ([W], fs.AdamW, {"ema": 0.9}, TypeError, "Offload takes no ema"),
    "agc": ([W], fs.AdamW, {"agc": 0.9}, TypeError, "Offload takes no agc"),
    "copies": ([W], fs.AdamW, {"copies": {}}, TypeError, "Offload takes no copies"),
    "a curve": ([W], fs.AdamW, {"lr": schedules.linear(1.0, 0.0, length=4)}, TypeError, "as_sch"),
    "a range": ([W], fs.AdamW, {"betas": (2.0, 0.9)}, ValueError, "betas"),
    "a name": ([W], fs.AdamW, {"lrr": 0.1}, TypeError, "lrr"),
    "overlap": ([W], fs.AdamW, {"overlap": 1}, TypeError, "overlap"),
    "float64": ([W.detach().double()], fs.AdamW, {}, TypeError, "parameter 0 of group 0 must be"),
    "sparse": ([torch.eye(2).to_sparse()], fs.AdamW, {}, TypeError, "must be a dense tensor"),
    "meta": ([W, torch.ones(2, device="meta")], fs.AdamW, {}, ValueError, "is on meta: all must"),
    "nothing": ([{"params": []}], fs.AdamW, {}, ValueError, "there is no parameter"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_had_is_refused(name: str) -> None:
    params, rule, options, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        Offload(params, rule, **options)


def test_settings_and_states_that_do_not_fit_change_nothing() -> None:
    params = parameters()
    opt = Offload(params, fs.AdamW, lr=0.01)
    backward(params, 0)
    opt.step()
    before, state = [p.detach().clone() for p in params], opt.state_dict()

    opt.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr"):
        backward(params, 1)
    with pytest.raises(ValueError, match="lr"):
        opt.step()
    opt.param_groups[0]["lr"] = 0.01
    kept, opt.param_groups[0]["params"][0] = params[0], torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(fs.StateError, match="parameters of a group were exchanged"):
        opt.step()
    opt.param_groups[0]["params"][0] = kept

    worse: list[tuple[Any, str]] = []
    for change, message in (
        (lambda s: s.pop("offload"), "not one of Offload with fusestep.AdamW"),
        (lambda s: s["offload"].update(rule="SGD"), "not one of Offload"),
        (lambda s: s["state"].pop(1), "parameter 1 of group 0: the state must have a float32 mas"),
        (lambda s: s["state"][0].pop("m"), "m"),
        (lambda s: s["state"][0].update(v=torch.zeros(2)), "v"),
        (lambda s: s["param_groups"][0]["params"].pop(), "other groups of parameters"),
    ):
        worse.append((copy.deepcopy(state), message))
        change(worse[-1][0])
    for bad, message in worse:
        with pytest.raises((fs.StateError, ValueError), match=message):
            opt.load_state_dict(bad)
    for call in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="can't be copied or pickled"):
            call(opt)
    assert all(map(torch.equal, params, before))
    assert repr(opt.state_dict()) == repr(state)


def test_a_sparse_gradient_is_refused() -> None:
    table = torch.nn.Embedding(4, 2, sparse=True)
    opt = Offload(table.parameters(), fs.SGD)
    with pytest.raises(TypeError, match="it must be dense"):
        table(torch.tensor([1])).sum().backward()
    assert (opt.state[table.weight]["master"] == table.weight).all()
