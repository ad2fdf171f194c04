from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import emulation.cuda
import emulation.cupy
import emulation.nvrtc
import fusestep as fs
from fusestep import _core

try:
    import hypothesis
except ImportError:  # test_minimal needs only pytest and numpy
    pass
else:
    hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=200)
    hypothesis.settings.load_profile("ci")


def pytest_report_header() -> str:
    return f"fusestep: {fs.build_info()}"


@pytest.fixture(autouse=True)
def machine_as_found() -> Iterator[None]:
    """Whatever a test forces, the next one finds the instruction set and threads of the start."""
    isa, threads = fs.build_info()["isa_active"], fs.get_num_threads()
    yield
    _core.use_isa(isa)
    fs.set_num_threads(threads)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> emulation.cuda.Driver:
    """CuPy without a GPU, in place of any other; its driver counts launches and the like."""
    if emulation.nvrtc.compiler() is None:
        pytest.skip("needs a C++ compiler for the kernels")
    driver, modules = emulation.cupy.modules()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return driver


GPUS = ["emulated", pytest.param("real", marks=pytest.mark.gpu)]


@pytest.fixture(params=GPUS)
def cupy(request: pytest.FixtureRequest) -> Any:
    """CuPy: without a GPU in any case, and with one where there is one."""
    return module_of(request)


@pytest.fixture(params=["numpy", *GPUS])
def xp(request: pytest.FixtureRequest) -> Any:
    """NumPy, and CuPy likewise: for what is the same wherever the arrays are."""
    return np if request.param == "numpy" else module_of(request)


def module_of(request: pytest.FixtureRequest) -> Any:
    if request.param == "emulated":
        request.getfixturevalue("emulated")
        return sys.modules["cupy"]
    real = pytest.importorskip("cupy", reason="needs CuPy")
    if not real.is_available():
        pytest.skip("needs a GPU")
    return real
