"""Runs the tests of optimizers in torch's repository, with torch's classes or with ours.

Arguments: "torch" or "fusestep", and the path of its test/test_optim.py. Prints the names of those
that passed, as JSON in the last line.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import unittest


class Outcomes(unittest.TextTestResult):
    """Which tests passed."""

    passed: list[str]

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self.passed = [*getattr(self, "passed", []), test.id().partition(".")[2]]


def main() -> None:
    whose, path = sys.argv[1:]
    sys.argv = sys.argv[:1]
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from torch.testing._internal.common_optimizers import optim_db

    import fusestep.torch as native

    for info in optim_db:
        if whose == "fusestep" and info.name in native.__all__:
            info.optim_cls = getattr(native, info.name)
    # torch's decorators look at the names of classes that the module makes when it is imported
    spec = importlib.util.spec_from_file_location("test_optim", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["test_optim"] = module
    spec.loader.exec_module(module)
    names = [f"_{name}_" for name in native.__all__]
    suite = unittest.TestSuite(
        test
        for group in unittest.defaultTestLoader.loadTestsFromModule(module)
        for test in group
        if "CPU" in type(test).__name__ and any(name in test.id() + "_" for name in names)
    )
    result = unittest.TextTestRunner(resultclass=Outcomes, verbosity=2).run(suite)
    print(json.dumps({"passed": getattr(result, "passed", []), "run": result.testsRun}))


if __name__ == "__main__":
    main()
