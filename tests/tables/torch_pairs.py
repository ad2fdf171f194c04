"""The same parameters under an optimizer of fusestep.torch and under torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
native = pytest.importorskip("fusestep.torch")


class Pair:
    """The same parameters under an optimizer of ours and one of torch."""

    def __init__(self, name: str = "AdamW", dtype: Any = torch.float32, **settings: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        values = [torch.randn(4, 3, generator=generator).to(dtype) for _ in range(3)]
        self.sides = []
        for module in (native, torch.optim):
            params = [torch.nn.Parameter(value.clone()) for value in values]
            self.sides.append((getattr(module, name)(params, **settings), params))
        self.steps = 0

    def both(self, change: Callable[[Any, list[Any]], Any]) -> None:
        for opt, params in self.sides:
            change(opt, params)

    def step(self, count: int = 2) -> None:
        for _ in range(count):
            generator = torch.Generator().manual_seed(self.steps)
            gradients = [torch.randn(4, 3, generator=generator) for _ in range(3)]
            for opt, params in self.sides:
                for p, gradient in zip(params, gradients, strict=True):
                    p.grad = gradient.to(p.dtype)
                opt.step()
            self.steps += 1

    def check(self) -> None:
        (opt, params), (expected, others) = self.sides
        torch.testing.assert_close(params, others)
        assert opt.state.keys() == set(params) & opt.state.keys()
        for p, q in zip(params, others, strict=True):
            assert list(opt.state[p]) == list(expected.state[q])
            for key, value in expected.state[q].items():
                torch.testing.assert_close(opt.state[p][key], value)

    @property
    def strangers(self) -> list[str]:
        return [reason for _, reason in self.sides[0][0]._engine._strangers]
