"""fusestep.torch under what torch's own tests of optimizers use: its database of arguments, and,
where FUSESTEP_TORCH_TESTS names them, those tests themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
native = pytest.importorskip("fusestep.torch")
pytest.importorskip("expecttest", reason="torch's database of optimizers needs it")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    database: Any = pytest.importorskip("torch.testing._internal.common_optimizers")

INFOS = {info.name: info for info in database.optim_db if info.name in native.__all__}
CASES = {
    f"{name}: {case.desc}": (name, case.kwargs)
    for name, info in INFOS.items()
    for case in info.optim_inputs_func(device="cpu")
}
# the file of torch's repository with TestOptimRenewed, test/test_optim.py
SUITE = os.environ.get("FUSESTEP_TORCH_TESTS", "")


def test_the_database_has_every_class() -> None:
    assert INFOS.keys() == {*native.__all__} - {"Offload"}  # which torch has not


@pytest.mark.parametrize("case", CASES)
def test_torchs_arguments_give_torchs_steps(case: str) -> None:
    name, settings = CASES[case]
    models = []
    for module in (native, torch.optim):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(2, 4, 3), torch.nn.Sigmoid(), torch.nn.Flatten(), torch.nn.Linear(36, 2)
        ).to(torch.float64)
        opt = getattr(module, name)(model.parameters(), **settings)
        inputs = torch.rand(3, 2, 5, 5, dtype=torch.float64)
        for step in range(7):
            opt.zero_grad()
            if step in (3, 4):
                model[0].requires_grad_(False)
            model(inputs).pow(2).sum().backward()
            model[0].requires_grad_()
            opt.step()
        models.append(([*model.parameters()], opt))
    (params, opt), (others, expected) = models
    torch.testing.assert_close(params, others)
    for p, q in zip(params, others, strict=True):
        assert list(opt.state[p]) == list(expected.state[q])
        for key, value in expected.state[q].items():
            torch.testing.assert_close(opt.state[p][key], value)


@pytest.mark.parametrize("name", INFOS)
def test_torch_refuses_what_it_refuses(name: str) -> None:
    info = INFOS[name]
    cases = info.optim_error_inputs_func(device="cpu", dtype=torch.float32)
    assert cases
    for case in cases:
        if case.error_on is not database.OptimizerErrorEnum.CONSTRUCTION_ERROR:
            continue
        given = case.optimizer_error_input
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises((case.error_type, UserWarning), match=case.error_regex):
                getattr(native, name)(given.params, **given.kwargs)


@pytest.mark.unsanitized
@pytest.mark.skipif(not SUITE, reason="FUSESTEP_TORCH_TESTS names no test_optim.py of torch")
def test_what_torch_passes_of_its_own_tests_is_passed() -> None:
    runner = Path(__file__).parent / "runs" / "torch_suite.py"
    outcomes = {}
    for whose in ("torch", "fusestep"):
        command = [sys.executable, str(runner), whose, SUITE]
        done = subprocess.run(command, capture_output=True, text=True)
        outcomes[whose] = json.loads(done.stdout.splitlines()[-1])
    assert len(outcomes["torch"]["passed"]) > 100
    assert {*outcomes["torch"]["passed"]} - {*outcomes["fusestep"]["passed"]} == set()
