"""What can't be updated natively, and why: each function gives the reason, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

DTYPES = (torch.float32, torch.float64)
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def of_group(group: Mapping[str, Any]) -> str:
    """What a group asks for that only torch's own step does."""
    asked = [name for name in ("differentiable", "capturable") if group.get(name)]
    return f"{asked[0]}=True is torch's own" if asked else ""


def of_parameter(p: Any) -> str:
    """What keeps its memory from being updated."""
    if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        return f"torch {torch.__version__} does not tell native code where tensors are; 2.10 does"
    if type(p) not in _PLAIN:
        return f"it is a {type(p).__name__}"
    if p.layout is not torch.strided or p.device.type != "cpu":
        return f"it is {str(p.layout).removeprefix('torch.')} on {p.device}"
    if p.dtype not in DTYPES:
        return f"its dtype is {str(p.dtype).removeprefix('torch.')}, not float32 or float64"
    if p.is_inference():
        return "it is a tensor of inference mode"
    if p.is_neg() or not _is_dense(p):
        return "its elements are not dense in memory"
    return ""


def of_state(key: str, tensor: Any, p: Any) -> str:
    """What keeps a tensor from being an array of state of a parameter."""
    if type(tensor) not in _PLAIN or tensor.layout is not torch.strided:
        return f"{key!r} of its state is a {type(tensor).__name__}, not a plain tensor"
    if tensor.dtype != p.dtype or tensor.device != p.device or tensor.shape != p.shape:
        return f"{key!r} of its state has another dtype, device or shape"
    return ""


def of_scalar(key: str, tensor: Any) -> str:
    """What keeps it from being a number of the state."""
    if type(tensor) not in _PLAIN:
        return f"the {key} of its state is {tensor!r}, not a tensor"
    if tensor.device.type != "cpu" or tensor.dtype not in DTYPES or tensor.numel() != 1:
        return f"the {key} of its state is no float tensor of one element on the CPU"
    number = tensor.item()
    is_good = 0 <= number <= 1 if key != "step" else 0 <= number < 2**53 and number == int(number)
    return "" if is_good else f"its state has {key} {number}"


def of_gradient(gradient: Any, p: Any) -> str:
    """What keeps even a copy of it from being taken."""
    if type(gradient) not in _PLAIN or gradient.layout is not torch.strided:
        return f"its gradient is a {type(gradient).__name__} of {gradient.layout}"
    if gradient.dtype != p.dtype or gradient.device != p.device or gradient.shape != p.shape:
        return "its gradient has another dtype, device or shape"
    return ""


def lie_alike(tensor: Any, p: Any) -> bool:
    """Whether two tensors of one shape have their elements in the same order."""
    rows = zip(tensor.stride(), p.stride(), p.shape, strict=True)
    return not tensor.is_neg() and all(one == two for one, two, extent in rows if extent > 1)


def _is_dense(p: Any) -> bool:
    """Whether the elements lie side by side, each once, in some order of the axes."""
    run = 1
    for stride, extent in sorted(zip(p.stride(), p.shape, strict=True)):
        if extent > 1:
            if stride != run:
                return False
            run *= extent
    return True
