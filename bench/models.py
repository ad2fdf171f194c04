"""The models that are stepped: real parameter shapes, with random values."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """Shapes under a name for the command line and a title for people."""

    name: str
    title: str
    shapes: tuple[Shape, ...]

    @property
    def arrays(self) -> int:
        return len(self.shapes)

    @property
    def parameters(self) -> int:
        return sum(prod(shape) for shape in self.shapes)


@dataclass(frozen=True)
class Problem:
    """A model's first parameters, which nobody writes, and gradients that all contestants share.

    ``converted`` keeps the gradients as another library's arrays, for all its contestants.
    """

    model: Model
    converted: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def parameters(self) -> list[Array]:
        return self._normal(seed=1, scale=0.05)

    @cached_property
    def gradients(self) -> list[Array]:
        return self._normal(seed=2, scale=0.01)

    def fresh_parameters(self) -> list[Array]:
        return [parameter.copy() for parameter in self.parameters]

    def _normal(self, *, seed: int, scale: float) -> list[Array]:
        random = np.random.default_rng(seed)
        arrays = [random.standard_normal(shape, dtype=np.float32) for shape in self.model.shapes]
        for array in arrays:
            array *= scale
        return arrays


def _mlp(*widths: int) -> tuple[Shape, ...]:
    layers = pairwise(widths)
    return tuple(shape for inputs, outputs in layers for shape in ((inputs, outputs), (outputs,)))


def _resnet50() -> tuple[Shape, ...]:
    shapes: list[Shape] = []

    def convolution(outputs: int, inputs: int, size: int) -> None:
        shapes.extend([(outputs, inputs, size, size), (outputs,), (outputs,)])  # with its norm

    convolution(64, 3, 7)
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            convolution(width, inputs, 1)
            convolution(width, width, 3)
            convolution(4 * width, width, 1)
            if block == 0:
                convolution(4 * width, inputs, 1)  # the shortcut
            inputs = 4 * width
    return (*shapes, (1000, inputs), (1000,))


def _gpt2_small() -> tuple[Shape, ...]:
    width = 768
    norm: tuple[Shape, ...] = ((width,), (width,))
    attention = ((width, 3 * width), (3 * width,), (width, width), (width,))
    feed_forward = ((width, 4 * width), (4 * width,), (4 * width, width), (width,))
    block = (*norm, *attention, *norm, *feed_forward)
    return ((50257, width), (1024, width), *block * 12, *norm)


MODELS = (
    Model("1e3", "1 array of 1e3", ((1_000,),)),
    Model("1e5", "1 array of 1e5", ((100_000,),)),
    Model("1e6", "1 array of 1e6", ((1_000_000,),)),
    Model("1e7", "1 array of 1e7", ((10_000_000,),)),
    Model("5e7", "1 array of 5e7", ((50_000_000,),)),
    Model("mlp", "MLP 784-128-128-10", _mlp(784, 128, 128, 10)),
    Model("resnet50", "ResNet-50", _resnet50()),
    Model("gpt2", "GPT-2 small", _gpt2_small()),
    Model("1000x100", "1000 arrays of 100", ((100,),) * 1000),
)

QUICK = (
    *(model for model in MODELS if model.name in ("1e3", "1e5", "mlp")),
    Model("100x100", "100 arrays of 100", ((100,),) * 100),
)
