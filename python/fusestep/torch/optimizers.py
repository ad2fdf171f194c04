"""The classes, each with the row of what torch and fusestep call the same.

Each has the arguments, the formula, the defaults and the state of the class of torch.optim with its
name, and ``on_unsupported`` besides; see `fusestep.torch.step.NativeStep`.
"""

from __future__ import annotations

import torch

from .. import optim
from .rows import Row, same
from .step import NativeStep

_AVERAGES = {"m": "exp_avg", "v": "exp_avg_sq"}
_DECOUPLED = {"decoupled_weight_decay": "decoupled"}
_ADAM = Row(
    optim.Adam,
    numbers=same("lr", "betas", "eps", "weight_decay"),
    flags=same("amsgrad", "maximize"),
    columns=_DECOUPLED,
    states={**_AVERAGES, "v_max": "max_exp_avg_sq"},
)


class SGD(NativeStep, torch.optim.SGD):  # type: ignore[misc]
    """torch.optim.SGD, stepping natively.

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

    _row = Row(
        optim.SGD,
        numbers=same("lr", "momentum", "dampening", "weight_decay"),
        flags=same("nesterov", "maximize"),
        states={"momentum": "momentum_buffer"},
        counts=False,
    )


class Adam(NativeStep, torch.optim.Adam):  # type: ignore[misc]
    """torch.optim.Adam, stepping natively."""

    _row = _ADAM


class AdamW(NativeStep, torch.optim.AdamW):  # type: ignore[misc]
    """torch.optim.AdamW, stepping natively.

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


class RAdam(NativeStep, torch.optim.RAdam):  # type: ignore[misc]
    """torch.optim.RAdam, stepping natively."""

    _row = Row(
        optim.RAdam,
        numbers=same("lr", "betas", "eps", "weight_decay"),
        flags=same("maximize"),
        columns=_DECOUPLED,
        states=_AVERAGES,
    )


class NAdam(NativeStep, torch.optim.NAdam):  # type: ignore[misc]
    """torch.optim.NAdam, stepping natively.

    Every update rounds the product of the momenta as torch's state does, to float32, so that a run
    that is resumed has the bits of one that was not.
    """

    _row = Row(
        optim.NAdam,
        numbers=same("lr", "betas", "eps", "weight_decay", "momentum_decay"),
        flags=same("maximize"),
        columns=_DECOUPLED,
        states=_AVERAGES,
        value="mu_product",
    )


class Adamax(NativeStep, torch.optim.Adamax):  # type: ignore[misc]
    """torch.optim.Adamax, stepping natively."""

    _row = Row(
        optim.Adamax,
        numbers=same("lr", "betas", "eps", "weight_decay"),
        flags=same("maximize"),
        states={"m": "exp_avg", "u": "exp_inf"},
    )


class Adagrad(NativeStep, torch.optim.Adagrad):  # type: ignore[misc]
    """torch.optim.Adagrad, stepping natively.

    As there, the sums begin with ``initial_accumulator_value`` when the optimizer is built.
    """

    _row = Row(
        optim.Adagrad,
        numbers=same("lr", "lr_decay", "eps", "weight_decay"),
        flags=same("maximize"),
        states={"sum": "sum"},
    )


class Adadelta(NativeStep, torch.optim.Adadelta):  # type: ignore[misc]
    """torch.optim.Adadelta, stepping natively."""

    _row = Row(
        optim.Adadelta,
        numbers=same("lr", "rho", "eps", "weight_decay"),
        flags=same("maximize"),
        states={"v": "square_avg", "acc_delta": "acc_delta"},
    )


class RMSprop(NativeStep, torch.optim.RMSprop):  # type: ignore[misc]
    """torch.optim.RMSprop, stepping natively."""

    _row = Row(
        optim.RMSprop,
        numbers=same("lr", "alpha", "eps", "weight_decay", "momentum"),
        flags=same("centered", "maximize"),
        states={"v": "square_avg", "momentum": "momentum_buffer", "m": "grad_avg"},
    )


class Rprop(NativeStep, torch.optim.Rprop):  # type: ignore[misc]
    """torch.optim.Rprop, stepping natively."""

    _row = Row(
        optim.Rprop,
        numbers=same("lr", "etas", "step_sizes"),
        flags=same("maximize"),
        states={"previous": "prev", "step_size": "step_size"},
        begins_from_lr=True,
    )
