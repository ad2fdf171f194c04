"""fusestep.torch.Offload on a GPU, with a stand-in for its streams.

What is given to a stream, among it what fills gradients, runs as late as CUDA may run it, when
somebody waits for it, or at once, while the worker is slow. So a missing wait shows in the bits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from tables.models import assert_same_bits

torch = pytest.importorskip("torch")
native = pytest.importorskip("fusestep.torch")
Offload = native.Offload

SHAPES = ((600, 500), (700,), (), (0,), (500, 600))
LOCK = threading.RLock()


class Stream:
    """Work in order, done at once or when waited for."""

    is_late = True

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.done = 0

    def run(self, until: int) -> None:
        with LOCK:
            while self.done < until:
                self.done += 1
                self.work[self.done - 1]()

    def add(self, work: Callable[[], None]) -> None:
        self.work.append(work)
        if not self.is_late:
            self.run(len(self.work))

    def wait_stream(self, other: Stream) -> None:
        until = len(other.work)
        self.add(lambda: other.run(until))


class Event:
    def record(self, stream: Stream) -> None:
        self.stream, self.until = stream, len(stream.work)

    def synchronize(self) -> None:
        if not Stream.is_late:
            time.sleep(0.02)
        self.stream.run(self.until)


class Cuda:
    """What of torch.cuda is used."""

    Stream, Event = Stream, Event

    def __init__(self) -> None:
        self.main = self.active = Stream()
        self.recorded = 0

    def current_stream(self) -> Stream:
        return self.active

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        self.active = stream
        yield
        self.active = self.main


@pytest.fixture(params=["late", "at once"])
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Cuda:
    monkeypatch.setattr(Stream, "is_late", request.param == "late")
    module = Cuda()
    copy = torch.Tensor.copy_

    def later(target: Any, source: Any, non_blocking: bool = False) -> Any:
        if not non_blocking:
            return copy(target, source)

        def work() -> None:
            with torch.no_grad():
                copy(target, source)

        module.active.add(work)
        return target

    def record_stream(tensor: Any, stream: Any) -> None:
        assert stream is not module.main
        module.recorded += 1

    monkeypatch.setattr(torch.Tensor, "copy_", later)
    monkeypatch.setattr(torch.Tensor, "record_stream", record_stream)
    return module


def filled_by_a_stream(params: list[Any], cuda: Cuda) -> dict[int, list[Any]]:
    """Gradients hold their values once the stream has run; these by the number of a parameter."""
    made: dict[int, list[Any]] = {i: [] for i in range(len(params))}

    def telling(i: int) -> Callable[[Any], None]:
        def fill(p: Any) -> None:
            gradient, values = p.grad.data, p.grad.detach().clone()
            made[i].append(values.float().numpy())
            gradient.fill_(np.nan)
            cuda.main.add(partial(torch.Tensor.copy_, gradient, values))

        return fill

    for i, p in enumerate(params):
        p.register_post_accumulate_grad_hook(telling(i))  # before those of the optimizer
    return made


def on_device(opt: Any, cuda: Cuda) -> Any:
    from fusestep.torch.staging import CudaStaging

    opt._masters.staging = CudaStaging(opt._masters._submit, cuda, pin=False)
    return opt


def backward(params: list[Any], cuda: Cuda, step: int, without: int = -1) -> None:
    cuda.main.run(len(cuda.main.work))  # what a forward would come behind
    generator = torch.Generator().manual_seed(step)
    total = torch.zeros(())
    for i, p in enumerate(params):
        weights = torch.randn(p.shape, generator=generator).to(p.dtype)
        if i != without:
            total = total + (p * weights).float().sum()
    total.backward()


def parameters(dtype: Any) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in SHAPES]


def assert_same(opt: Any, cuda: Cuda, masters: list[Any]) -> None:
    cuda.main.run(len(cuda.main.work))
    held = opt._masters.leaves
    assert_same_bits([leaf.master.numpy() for leaf in held], masters)
    for leaf in held:
        assert torch.equal(leaf.parameter, leaf.master.to(leaf.parameter.dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}, {"overlap": False}], ids=str)
def test_whenever_streams_run_masters_have_the_bits_of_the_rule(
    cuda: Cuda, options: Any, dtype: Any
) -> None:
    params = parameters(dtype)
    masters = [p.detach().float().numpy().copy() for p in reversed(params)]
    clipping = {name: v for name, v in options.items() if name != "overlap"}
    rule, made = fs.AdamW(masters, lr=0.1, **clipping), filled_by_a_stream(params, cuda)
    opt = on_device(Offload(params, fs.AdamW, lr=0.1, **options), cuda)
    for step in range(5):
        opt.zero_grad()
        backward(params, cuda, step, without=2 if step in (1, 2) else -1)
        opt.step()
        rule.step([found.pop() if found else None for found in reversed(made.values())])
        assert opt.overlaps == (not options)
        if step % 2:
            assert_same(opt, cuda, masters)
    assert_same(opt, cuda, masters)
    assert cuda.recorded == 5 * len(SHAPES) - 2


def test_freed_gradients_are_brought_and_added_before_their_memory_is_used_again(
    cuda: Cuda,
) -> None:
    params = parameters(torch.bfloat16)
    masters = [p.detach().float().numpy().copy() for p in reversed(params)]
    rule, made = fs.AdamW(masters, lr=0.1), filled_by_a_stream(params, cuda)
    opt = on_device(Offload(params, fs.AdamW, lr=0.1, offload_gradients=True), cuda)
    for _ in range(4):
        with opt.accumulate():
            backward(params, cuda, 0)
        backward(params, cuda, 1)
        assert all(p.grad is None for p in params)
        opt.step()
        rule.step([np.asarray(found[-2] + found[-1]) for found in reversed(made.values())])
        assert_same(opt, cuda, masters)
    assert opt.overlaps


def test_a_loaded_state_goes_to_masters_and_parameters(cuda: Cuda) -> None:
    params = parameters(torch.bfloat16)
    opt = on_device(Offload(params, fs.AdamW, lr=0.1), cuda)
    backward(params, cuda, 0)
    opt.step()
    state = opt.state_dict()
    opt.zero_grad()
    backward(params, cuda, 1)
    opt.step()
    cuda.main.run(len(cuda.main.work))
    opt.load_state_dict(state)
    assert_same(opt, cuda, [state["state"][i]["master"].numpy() for i in reversed(range(5))])
