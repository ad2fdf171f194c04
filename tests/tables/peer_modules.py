"""Modules of peers, where they can be imported."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import pytest


def imported(name: str) -> Any:
    """The module; skips where it can't be imported, and says why."""
    if name.partition(".")[0] in {"timm", "lightning"} or name == "transformers.trainer":
        _torchvision()
    try:
        return importlib.import_module(name)
    except ImportError as error:
        return pytest.skip(f"{name.partition('.')[0]} can't be imported: {error}")


@functools.cache
def _torchvision() -> object:
    """Lets peers import a torchvision whose native half, which nothing here uses, does not load."""
    torch = imported("torch")
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return None  # which timm says, and others do without
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library  # which undefines them once it is gone
    return None
