"""Gradients of other libraries: read where they are, or refused with what to do."""

from __future__ import annotations

import array
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusestep as fs

VALUES = [0.5, -1.0, 2.0]


def of_torch() -> Any:
    return pytest.importorskip("torch").tensor(VALUES)


def of_jax() -> Any:
    return pytest.importorskip("jax").numpy.array(VALUES, "float32")


class WithArray:
    """What has its memory elsewhere, and shows it."""

    def __init__(self, held: Any) -> None:
        self._held = held

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self._held


class Computed:
    """What makes a new array whenever it is asked."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(VALUES, np.float32)


class Exporter:
    """What has DLPack and nothing else."""

    def __init__(self) -> None:
        self._held = np.array(VALUES, np.float32)

    def __dlpack__(self, **options: Any) -> Any:
        return self._held.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._held.__dlpack_device__()


TAKEN: dict[str, Callable[[], Any]] = {
    "torch": of_torch,
    "torch with history": lambda: of_torch().requires_grad_(),
    "jax": of_jax,
    "array": lambda: array.array("f", VALUES),
    "memoryview": lambda: memoryview(np.array(VALUES, np.float32)),
    "with __array__": lambda: WithArray(np.array(VALUES, np.float32)),
    "with __dlpack__": Exporter,
}


@pytest.mark.parametrize("make", TAKEN.values(), ids=TAKEN)
@pytest.mark.parametrize("how", ["step", "bind", "accumulate", "function", "statistics"])
def test_gradients_that_need_no_copy_are_taken(make: Callable[[], Any], how: str) -> None:
    params = {"u": np.zeros(3, np.float32), "v": np.zeros(3, np.float32)}
    grads = {"u": make(), "v": np.ones(3, np.float32)}
    opt = fs.SGD(params, lr=(lambda t: 1.0) if how == "function" else 1.0)
    if how == "bind":
        opt.bind(grads)
        opt.step()
    elif how in ("accumulate", "statistics"):
        opt.accumulate(grads, samples=1)
        opt.accumulate(grads, samples=1)
        learning = fs.gradients.GradientStatistics() if how == "statistics" else None
        opt.step(statistics=learning)
    else:
        opt.step(grads)
    assert (params["u"] == -np.array(VALUES, np.float32)).all()
    assert (params["v"] == -1.0).all()


def test_bound_gradients_of_another_library_are_read_at_every_step() -> None:
    torch = pytest.importorskip("torch")
    w, gradient = np.zeros(3, np.float32), torch.zeros(3)
    opt = fs.SGD(w, lr=1.0)
    opt.bind(gradient)
    gradient += 1.0
    opt.step()
    assert (w == -1.0).all()


def sparse() -> Any:
    return of_torch().to_sparse()


def of_pandas() -> Any:
    return pytest.importorskip("pandas").Series(VALUES).to_frame()


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "list": (lambda: VALUES, r"not list: pass numpy\.asarray\(\.\.\.\)$"),
    "scalar": (lambda: np.float32(1), r"not numpy\.float32: pass numpy\.asarray\(\.\.\.\)$"),
    "number": (lambda: 1.0, r"not float: pass numpy\.asarray\(\.\.\.\)$"),
    "text": (lambda: "0.5", r"not str$"),
    "masked": (lambda: np.ma.masked_array(VALUES, [0, 0, 1]), r"MaskedArray: pass array\.filled"),
    "computed": (Computed, r"Computed: pass numpy\.asarray\(\.\.\.\)$"),
    "generator": (lambda: (v for v in VALUES), r"not generator: pass a list$"),
    "sparse": (sparse, r"not torch\.Tensor: pass tensor\.detach\(\)\.cpu\(\)"),
    "object": (object, r"not object$"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_needs_a_copy_is_refused_with_the_way_to_it(
    make: Callable[[], Any], message: str
) -> None:
    w = np.zeros(3, np.float32)
    opt = fs.SGD({"w": w}, lr=1.0)
    for call in (opt.step, opt.bind, lambda grads: opt.accumulate(grads, 1)):
        with pytest.raises(TypeError, match=rf"^params\['w'\]: gradient must be a .*{message}"):
            call({"w": make()})
    assert opt.steps_attempted == 0
    assert (w == 0).all()


def test_what_is_taken_must_fit_like_any_other_gradient() -> None:
    torch = pytest.importorskip("torch")
    opt = fs.SGD({"w": np.zeros((2, 3), np.float32)})
    for other, error, message in [
        (torch.zeros(3, 2), ValueError, r"gradient has shape \(3, 2\)"),
        (torch.zeros(2, 3, dtype=torch.float64), TypeError, "gradient has dtype float64"),
        (torch.zeros(3, 2).T, ValueError, r"must be C-contiguous"),
        (torch.zeros(2, 6)[:, ::2], ValueError, r"must be C-contiguous"),
        (torch.zeros(2, 3, dtype=torch.bfloat16), TypeError, "bfloat16|not torch"),
        (torch.zeros(2, 3, device="meta"), TypeError, r"not torch\.Tensor: pass tensor"),
    ]:
        with pytest.raises(error, match=message):
            opt.step({"w": other})


PARAMETERS: dict[str, tuple[Callable[[], Any], str]] = {
    "torch": (of_torch, r"torch\.Tensor: pass tensor\.detach\(\)\.numpy\(\), which has the memory"),
    "jax": (of_jax, r"pass numpy\.array\(\.\.\.\), and keep that array"),
    "pandas": (of_pandas, r"DataFrame: pass numpy\.array\(\.\.\.\), and keep that array"),
}


@pytest.mark.parametrize(("make", "message"), PARAMETERS.values(), ids=PARAMETERS)
def test_parameters_of_other_libraries_are_refused_with_what_to_do(
    make: Callable[[], Any], message: str
) -> None:
    with pytest.raises(
        TypeError, match=rf"^params\['w'\]: must be a numpy\.ndarray, not .*{message}"
    ):
        fs.AdamW({"w": make()})


def test_a_dtype_that_says_the_native_byte_order_is_taken() -> None:
    order = {"little": "<", "big": ">"}[sys.byteorder]
    w = np.ones(3, np.dtype(np.float64).newbyteorder(order))
    opt = fs.SGD(w, lr=1.0)
    opt.step(np.ones(3, np.dtype(np.float64).newbyteorder(order)))
    assert w.tolist() == [0.0, 0.0, 0.0]
