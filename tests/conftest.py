from __future__ import annotations

from collections.abc import Iterator

import pytest

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
