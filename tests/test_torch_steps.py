"""fusestep.torch: the bits of fusestep, the state of torch, over the memory of tensors."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fusestep as fs

torch = pytest.importorskip("torch")
native = pytest.importorskip("fusestep.torch")

SHAPES = ((3, 4), (5,), (2, 3, 4, 5), (), (0,), (1000,))
# class, settings of torch, fusestep's class, its settings where they are called otherwise
ROWS: dict[str, tuple[str, dict[str, Any], Any, dict[str, Any]]] = {
    "AdamW": ("AdamW", {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1}, fs.AdamW, {}),
    "AdamW amsgrad": ("AdamW", {"amsgrad": True, "maximize": True}, fs.AdamW, {}),
    "Adam": ("Adam", {"lr": 0.01, "eps": 1e-6, "weight_decay": 0.1}, fs.Adam, {}),
    "Adam decoupled": (
        "Adam",
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
        fs.AdamW,
        {"weight_decay": 0.1},
    ),
    "SGD": ("SGD", {"lr": 0.1, "weight_decay": 0.1}, fs.SGD, {}),
    "SGD momentum": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}, fs.SGD, {}),
    "RAdam": ("RAdam", {"lr": 0.01, "betas": (0.8, 0.95)}, fs.RAdam, {}),
    "RAdam decoupled": (
        "RAdam",
        {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True},
        fs.RAdam,
        {},
    ),
    "NAdam": ("NAdam", {"lr": 0.01, "betas": (0.8, 0.95)}, fs.NAdam, {}),
    "NAdam decoupled": (
        "NAdam",
        {"weight_decay": 0.1, "decoupled_weight_decay": True, "momentum_decay": 0.1},
        fs.NAdam,
        {},
    ),
    "Adamax": ("Adamax", {"lr": 0.01, "weight_decay": 0.1}, fs.Adamax, {}),
    "Adagrad": ("Adagrad", {"lr_decay": 0.1, "weight_decay": 0.1}, fs.Adagrad, {}),
    "Adagrad from 0.5": ("Adagrad", {"initial_accumulator_value": 0.5}, fs.Adagrad, {}),
    "Adadelta": ("Adadelta", {"rho": 0.8, "weight_decay": 0.1}, fs.Adadelta, {}),
    "RMSprop": ("RMSprop", {"alpha": 0.9, "weight_decay": 0.1}, fs.RMSprop, {}),
    "RMSprop centered": ("RMSprop", {"momentum": 0.8, "centered": True}, fs.RMSprop, {}),
    "Rprop": ("Rprop", {"etas": (0.4, 1.3), "step_sizes": (1e-5, 1.0)}, fs.Rprop, {}),
    "SGD nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}, fs.SGD, {}),
}
EACH_ROW = pytest.mark.parametrize("row", ROWS)


def parameters(dtype: Any = torch.float32, seed: int = 0) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES
    ]


def set_gradients(params: list[Any], step: int) -> None:
    """New ones, as backward leaves them."""
    generator = torch.Generator().manual_seed(1000 + step)
    for p in params:
        gradient = torch.randn(p.shape, generator=generator).to(p.dtype)
        p.grad = torch.empty_like(p, requires_grad=False).copy_(gradient)


def build(row: str, params: list[Any], module: Any = native, **more: Any) -> Any:
    name, settings, *_ = ROWS[row]
    return getattr(module, name)(params, **settings, **more)


def bits(tensors: Any) -> list[Any]:
    return [np.array(t.detach().contiguous().numpy()) for t in tensors]


def assert_same(given: Any, expected: Any) -> None:
    for one, other in zip(bits(given), bits(expected), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def wide_scalars() -> Iterator[None]:
    """Numbers of the state are of the default dtype, as torch has them."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@EACH_ROW
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("wide_scalars")
def test_parameters_and_state_have_the_bits_of_fusestep(row: str, dtype: Any) -> None:
    _, settings, kind, named = ROWS[row]
    params = parameters(dtype)
    arrays = bits(params)
    opt, expected = build(row, params), kind(arrays, **(named or settings))
    for step in range(7):
        set_gradients(params, step)
        opt.step()
        expected.step([p.grad.numpy() for p in params])
    for p, array, state in zip(params, arrays, expected.state.values(), strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), array)
        for name, theirs in state.items():
            np.testing.assert_array_equal(opt.state[p][opt._row.states[name]].numpy(), theirs)


@EACH_ROW
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_those_of_torch(row: str, dtype: Any) -> None:
    params, others = parameters(dtype), parameters(dtype)
    opt, expected = build(row, params), build(row, others, torch.optim)
    for step in range(10):
        for some in (params, others):
            set_gradients(some, step)
        opt.step()
        expected.step()
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q)
        assert list(opt.state[p]) == list(expected.state[q])
        for key, value in expected.state[q].items():
            torch.testing.assert_close(opt.state[p][key], value)
            assert opt.state[p][key].stride() == value.stride()


def test_a_gradient_that_is_missing_leaves_parameter_and_state_as_they_are() -> None:
    params, others = parameters(), parameters()
    opt, expected = build("AdamW", params), build("AdamW", others, torch.optim)
    for step in range(6):
        for some in (params, others):
            set_gradients(some, step)
            for i, p in enumerate(some):
                if (step + i) % 3 == 0 or i == 2:
                    p.grad = None
        opt.step()
        expected.step()
    torch.testing.assert_close(params, others)
    assert params[2] not in opt.state
    counts = [float(opt.state[p]["step"]) for p in params if p in opt.state]
    assert counts == [float(expected.state[q]["step"]) for q in others if q in expected.state]


def test_no_gradient_at_all_changes_nothing() -> None:
    params = parameters()
    before = bits(params)
    opt = build("AdamW", params)
    opt.step()
    assert_same(params, [torch.from_numpy(a) for a in before])
    assert not opt.state


@pytest.mark.parametrize("row", ["AdamW", "SGD momentum"])
def test_permuted_axes_are_updated_where_they_lie(row: str) -> None:
    def permuted() -> list[Any]:
        last = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
        flat = torch.randn(6, 7, generator=torch.Generator().manual_seed(1))
        one = torch.randn(8, 1, 3, 3, generator=torch.Generator().manual_seed(2))
        return [
            torch.nn.Parameter(last.to(memory_format=torch.channels_last)),
            torch.nn.Parameter(flat.T),
            torch.nn.Parameter(one.to(memory_format=torch.channels_last)),
        ]

    params = permuted()
    plain = [torch.nn.Parameter(p.detach().contiguous()) for p in params]
    opt, expected = build(row, params), build(row, plain)
    addresses = [p.data_ptr() for p in params]
    for step in range(3):
        set_gradients(plain, step)
        for p, q in zip(params, plain, strict=True):
            # the order of the parameter, then another one
            p.grad = q.grad.clone() if step == 2 else torch.empty_like(p).copy_(q.grad)
        opt.step()
        expected.step()
        assert opt._engine._strangers == []
    assert_same(params, plain)
    assert [p.data_ptr() for p in params] == addresses
    for p in params:
        for value in opt.state[p].values():
            assert value.shape == () or value.stride() == p.stride()


def test_a_gradient_with_gaps_is_copied_first() -> None:
    w, v = (torch.nn.Parameter(torch.ones(3, 4)) for _ in range(2))
    opt, expected = native.SGD([w], lr=0.5), torch.optim.SGD([v], lr=0.5)
    for p in (w, v):
        p.grad = torch.ones(1).expand(3, 4)
    opt.step()
    expected.step()
    assert_same([w], [v])
    w.grad = torch.arange(24.0).reshape(3, 8)[:, ::2]
    v.grad = w.grad.contiguous()
    opt.step()
    expected.step()
    assert_same([w], [v])


def test_the_imaginary_part_of_a_conjugate_has_its_sign() -> None:
    w = torch.nn.Parameter(torch.zeros(1))
    w.grad = torch.complex(torch.ones(1), torch.full((1,), 2.0)).conj().imag
    assert w.grad.is_neg()
    opt = native.SGD([w], lr=1.0)
    opt.step()
    assert w.tolist() == [2.0]
    v = np.zeros(1, np.float32)
    with pytest.raises((TypeError, ValueError)):
        fs.SGD(v, lr=1.0).step(w.grad)


@EACH_ROW
def test_checkpoints_go_to_torch_and_back(row: str) -> None:
    params, others = parameters(), parameters()
    opt, expected = build(row, params), build(row, others, torch.optim)

    def steps(first: int) -> None:
        for step in range(first, first + 3):
            for some in (params, others):
                set_gradients(some, step)
            opt.step()
            expected.step()

    steps(0)
    mine, theirs = opt.state_dict(), expected.state_dict()
    assert mine.keys() == theirs.keys()
    assert mine["param_groups"] == theirs["param_groups"]
    assert list(mine["state"]) == list(theirs["state"])
    crossed = build(row, others), build(row, params, torch.optim)
    crossed[0].load_state_dict(copy.deepcopy(theirs))
    crossed[1].load_state_dict(copy.deepcopy(mine))
    expected, opt = crossed
    steps(3)
    torch.testing.assert_close(params, others)


@EACH_ROW
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "weights_only", "state_dict"])
def test_a_copy_goes_on_with_the_same_bits(row: str, way: str) -> None:
    params = parameters()
    opt = build(row, params)
    for step in range(3):
        set_gradients(params, step)
        opt.step()
    if way == "deepcopy":
        other = copy.deepcopy(opt)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(opt))
    else:
        others = [torch.nn.Parameter(p.detach().clone()) for p in params]
        other = build(row, others)
        saved = opt.state_dict()
        if way == "weights_only":
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
        other.load_state_dict(copy.deepcopy(saved))
    others = other.param_groups[0]["params"]
    for step in range(3, 6):
        for some, one in ((params, opt), (others, other)):
            set_gradients(some, step)
            one.step()
    assert_same(params, others)
    assert other.on_unsupported == opt.on_unsupported


def test_closures_hooks_and_added_groups_work_as_in_torch() -> None:
    called: list[str] = []
    params, others = parameters(), parameters()
    opt = build("AdamW", params[:2])
    opt.register_step_pre_hook(lambda *_: called.append("before"))
    opt.register_step_post_hook(lambda *_: called.append("after"))

    def closure() -> Any:
        called.append("closure")
        assert torch.is_grad_enabled()
        opt.zero_grad()
        loss = sum((p**2).sum() for p in params)
        loss.backward()
        return loss

    with torch.no_grad():
        assert float(opt.step(closure)) > 0
    assert called == ["before", "closure", "after"]
    opt.add_param_group({"params": params[2:], "lr": 0.5, "weight_decay": 0.0})
    expected = torch.optim.AdamW(others[:2], **ROWS["AdamW"][1])
    for step in range(2):
        if step:
            set_gradients(params, step)
            opt.step()
        else:
            expected.zero_grad()
            sum((p**2).sum() for p in others).backward()
        if step:
            set_gradients(others, step)
        expected.step()
        if not step:
            expected.add_param_group({"params": others[2:], "lr": 0.5, "weight_decay": 0.0})
    torch.testing.assert_close(params, others)


def test_a_scaler_of_gradients_scales_and_skips() -> None:
    params, others = parameters(), parameters()
    rows = [(params, build("AdamW", params)), (others, build("AdamW", others, torch.optim))]
    for some, opt in rows:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        for step in range(5):
            set_gradients(some, step)
            gradients = [p.grad for p in some]
            opt.zero_grad()
            if step == 2:
                gradients[0][0, 0] = float("inf")
            loss = sum((p * g).sum() for p, g in zip(some, gradients, strict=True))
            scaler.scale(loss).backward()
            if step == 3:
                scaler.unscale_(opt)
            scaler.step(opt)
            scaler.update()
    torch.testing.assert_close(params, others)
    assert float(rows[0][1].state[params[0]]["step"]) == 4.0


def test_without_torch_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['torch'] = None; import fusestep; import fusestep.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'needs torch: pip install "fusestep[torch]"' in done.stderr
