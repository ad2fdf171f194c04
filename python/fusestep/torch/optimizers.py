"""The classes, each a row that says what torch and fusestep call the same."""

from __future__ import annotations

import torch

from ..optim import SGD as RuleOfSGD
from ..optim import Adam as RuleOfAdam
from .rows import Row
from .step import NativeStep

_ADAM = Row(
    rule=RuleOfAdam,
    numbers={"lr": "lr", "betas": "betas", "eps": "eps", "weight_decay": "weight_decay"},
    flags={"amsgrad": "amsgrad", "maximize": "maximize"},
    columns={"decoupled_weight_decay": "decoupled"},
    states={"m": "exp_avg", "v": "exp_avg_sq", "v_max": "max_exp_avg_sq"},
)
_SGD = Row(
    rule=RuleOfSGD,
    numbers={name: name for name in ("lr", "momentum", "dampening", "weight_decay")},
    flags={"nesterov": "nesterov", "maximize": "maximize"},
    states={"momentum": "momentum_buffer"},
    counts=False,
)


class SGD(NativeStep, torch.optim.SGD):  # type: ignore[misc]
    """torch.optim.SGD, with its arguments, formula and state.

    Args:
        on_unsupported: what becomes of a parameter that can't be updated natively; see
            `NativeStep`.

    Example:
        >>> import torch
        >>> from fusestep.torch import SGD
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> opt = SGD([w], lr=0.5, momentum=0.9)
        >>> w.sum().backward()
        >>> opt.step()
        >>> w.tolist(), opt.state[w]["momentum_buffer"].tolist()
        ([0.5, 0.5], [1.0, 1.0])
    """

    _row = _SGD


class Adam(NativeStep, torch.optim.Adam):  # type: ignore[misc]
    """torch.optim.Adam, with its arguments, formula and state.

    Args:
        on_unsupported: what becomes of a parameter that can't be updated natively; see
            `NativeStep`.

    Example:
        >>> import torch
        >>> from fusestep.torch import Adam
        >>> w = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
        >>> opt = Adam([w], lr=0.5)
        >>> w.sum().backward()
        >>> opt.step()
        >>> w.detach().numpy().round(6)
        array([0.5, 0.5])
    """

    _row = _ADAM


class AdamW(NativeStep, torch.optim.AdamW):  # type: ignore[misc]
    """torch.optim.AdamW, with its arguments, formula and state.

    Args:
        on_unsupported: what becomes of a parameter that can't be updated natively; see
            `NativeStep`.

    Example:
        >>> import torch
        >>> from fusestep.torch import AdamW
        >>> w = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
        >>> opt = AdamW([w], lr=0.5, weight_decay=0.5)
        >>> scheduler = torch.optim.lr_scheduler.StepLR(opt, step_size=1)
        >>> w.sum().backward()
        >>> opt.step()
        >>> scheduler.step()
        >>> w.detach().numpy().round(6), sorted(opt.state[w]), opt.param_groups[0]["lr"]
        (array([0.25, 0.25]), ['exp_avg', 'exp_avg_sq', 'step'], 0.05)
    """

    _row = _ADAM
