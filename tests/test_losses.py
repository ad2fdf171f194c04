"""What a step takes as a loss."""

from __future__ import annotations

import warnings
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import fusestep as fs
from fusestep import control


class Scalar:
    """As a number on a GPU is: it has no ``__float__`` that may be called in silence."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.shape = np.shape(value)

    def item(self) -> Any:
        return np.asarray(self.value).item()


@pytest.mark.parametrize(
    "loss",
    [
        1,
        Fraction(1),
        Decimal(1),
        np.float32(1),
        np.int8(1),
        np.array(1.0),
        np.array([1.0]),
        np.ones((1, 1, 1), np.float16),
        np.ones((2, 1))[1:],
        Scalar(1.0),
        Scalar([[1.0]]),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_a_loss_may_be_any_number_or_an_array_of_one_element(loss: Any) -> None:
    leaf = control.LossGap(reference=0.5)
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        leaf.observe(loss)
    assert leaf.value == 0.5
    w = np.ones(2)
    opt = fs.SGD(w, lr=control.LossGap(reference=0.5))
    opt.step(np.ones(2), loss=loss)
    policy = fs.batch_sizes.loss_ratio(8)
    policy.observe(loss=loss)
    assert policy.state_dict()["loss"] == 1.0


@pytest.mark.parametrize(
    "loss",
    [
        True,
        np.True_,
        "1",
        b"1",
        np.str_("1"),
        1j,
        np.complex64(1),
        [1.0],
        np.ones(2),
        np.ones(0),
        np.ma.masked,
        np.ma.array([1.0], mask=[True]),
        Scalar([1.0, 2.0]),
        Scalar(True),
        {},
        object(),
        10**400,
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_what_is_no_number_is_no_loss_and_nothing_has_changed(loss: Any) -> None:
    w = np.ones(2)
    leaf = control.Plateau()
    opt = fs.SGD(w, lr=leaf)
    policy = fs.batch_sizes.loss_ratio(8)
    for observe in (
        lambda: leaf.observe(loss),
        lambda: opt.step(np.ones(2), loss=loss),
        lambda: policy.observe(loss=loss),
    ):
        with pytest.raises((TypeError, ValueError), match="loss must be a number"):
            observe()
    assert (opt.steps_attempted, leaf.state_dict()["seen"], policy.state_dict()["loss"]) == (
        0,
        0,
        None,
    )
    assert (w == 1.0).all()


def test_a_loss_of_torch_is_taken() -> None:
    torch = pytest.importorskip("torch")
    for loss in (torch.tensor(2.0), torch.ones((1, 1), requires_grad=True) * 2):
        leaf = control.LossGap(reference=0.5)
        leaf.observe(loss)
        assert leaf.value == 0.75
    with pytest.raises(TypeError, match="loss must be a number"):
        leaf.observe(torch.ones(2))
