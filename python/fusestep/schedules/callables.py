"""Schedules for libraries that ask for a function of the step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..clock import Unit
from ..expression import Expression
from ..expression.nodes import expression as as_expression
from ..expression.nodes import time


def as_lambda(expression: Expression | float, by: Unit = "step") -> Callable[..., Any]:
    """A function of the step (or of the epoch) alone, as other libraries take schedules.

    It gives a float for a number, and an array for an array. Inside a function that jax traces (as
    optax' schedules are under ``jax.jit``) the native evaluation is called back from the program,
    and gives float32, or float64 where jax is told to use it.

    Args:
        expression: what reads no other input of the clock than ``by``.
        by: what the function's argument is: "step", "samples" or "epoch".

    ::

        lr = fs.schedules.warmup_cosine(peak=1e-3, warmup=500, total=10_000)
        torch.optim.lr_scheduler.LambdaLR(torch_optimizer, fs.schedules.as_lambda(lr))
            # multiplies: give the torch optimizer lr=1.0
        keras.callbacks.LearningRateScheduler(fs.schedules.as_lambda(lr.by("epoch"), by="epoch"))
        optax.adamw(learning_rate=fs.schedules.as_lambda(lr))

    Example:
        >>> import fusestep as fs
        >>> f = fs.schedules.as_lambda(fs.schedules.linear(start=1.0, end=0.0, length=10))
        >>> f(5)
        0.5
    """
    curve = as_expression(expression)
    time(by)  # raises where it is no unit of time

    def value(t: Any) -> Any:
        jax: Any = sys.modules.get("jax")
        if jax is None or not isinstance(t, jax.core.Tracer):
            return curve(**{by: t})
        result = jax.ShapeDtypeStruct(t.shape, jax.numpy.result_type(float))
        return jax.pure_callback(
            lambda t: np.asarray(curve(**{by: np.asarray(t)}), result.dtype), result, t
        )

    return value


def as_scheduler(
    optimizer: Any,
    expression: Expression | float | Sequence[Expression | float],
    by: Unit = "step",
    *,
    last_epoch: int = -1,
) -> Any:
    """A scheduler of torch that gives an optimizer of torch the learning rates of a curve.

    After ``n`` calls of its ``step()`` each group's ``lr`` is the curve's value at ``n``, whatever
    it was before. It is a ``LambdaLR``, with ``state_dict()`` and all else of that; the curve is
    not saved.

    Args:
        optimizer: one of torch.optim or of `fusestep.torch`, or what derives from those.
        expression: for all groups, or a list with one for each. They read no other input of the
            clock than ``by``.
        by: what calls of ``step()`` count: "step", "samples" or "epoch".
        last_epoch: as in torch, for an optimizer that was loaded.

    Raises:
        ImportError: there is no torch.

    Example::

        opt = fusestep.torch.AdamW(model.parameters())
        curve = fs.schedules.warmup_cosine(peak=1e-3, warmup=500, total=10_000)
        scheduler = fs.schedules.as_scheduler(opt, curve)
        for batch in batches:
            opt.zero_grad()
            loss_of(model, batch).backward()
            opt.step()
            scheduler.step()
    """
    try:
        from torch.optim.lr_scheduler import LambdaLR
    except ImportError as error:
        raise ImportError('as_scheduler needs torch: pip install "fusestep[torch]"') from error

    curves: Any = (
        [as_lambda(curve, by) for curve in expression]
        if isinstance(expression, Sequence)
        else as_lambda(expression, by)
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = 1.0  # what LambdaLR multiplies by
    return LambdaLR(optimizer, curves, last_epoch)
