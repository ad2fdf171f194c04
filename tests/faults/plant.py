"""Plants faults one by one and tells which of them the tests notice. Run by hand:

    python tests/faults/plant.py                 all rows of the tables beside this file
    python tests/faults/plant.py bind checked    those whose name or file holds one of these words

A fault is a small change of one file, and the tests that should fail under it. It is planted in a
copy of the tree, built there (C++ with what an earlier build left; ccache where there is one) and
installed into a folder of its own, so nothing here changes. Needs what building without isolation
needs (see CONTRIBUTING.md), and Python 3.11.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import tomllib

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


class Fault(NamedTuple):
    """What is changed, and who should notice; ``equivalent`` says why nobody can."""

    name: str
    file: str
    before: str
    after: str
    tests: list[str]
    equivalent: str = ""


def listed(words: list[str]) -> list[Fault]:
    tables = [tomllib.loads(p.read_text("utf-8")) for p in sorted(HERE.glob("*.toml"))]
    faults = [Fault(**row) for table in tables for row in table["fault"]]
    return [f for f in faults if not words or any(w in f.name or w in f.file for w in words)]


class Field:
    """A copy of the tree, and what is installed from it."""

    def __init__(self, folder: Path) -> None:
        self.tree, self.installed = folder / "tree", folder / "installed"
        names = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split("\0")
        for name in filter(None, names):
            if (ROOT / name).exists():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.tree / name)

    def install(self) -> bool:
        """Whether it builds."""
        shutil.rmtree(self.installed, ignore_errors=True)
        launcher = ["-Ccmake.define.CMAKE_CXX_COMPILER_LAUNCHER=ccache"]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        command += ["--no-build-isolation", "--disable-pip-version-check", "-Cbuild-dir=build"]
        command += launcher if shutil.which("ccache") else []
        command += ["--target", str(self.installed), "."]
        return subprocess.run(command, cwd=self.tree, capture_output=True).returncode == 0

    def change(self, file: str, before: str, after: str) -> None:
        path = self.tree / file
        text = path.read_text("utf-8")
        if text.count(before) != 1:
            raise SystemExit(f"{file}: stands {text.count(before)} times, not once: {before!r}")
        path.write_text(text.replace(before, after), "utf-8")
        if file.startswith("python/"):
            shutil.copy2(path, self.installed / file.removeprefix("python/"))

    def fails(self, tests: list[str]) -> bool:
        path = os.pathsep.join(filter(None, (str(self.installed), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path}
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        done = subprocess.run(command, cwd=self.tree, env=environment, capture_output=True)
        if done.returncode not in (0, 1) and done.returncode > 0:  # a signal is a failure, too
            raise SystemExit(done.stdout.decode()[-2000:] + done.stderr.decode()[-2000:])
        return done.returncode != 0


def noticed(field: Field, fault: Fault) -> bool:
    native = not fault.file.startswith("python/")
    field.change(fault.file, fault.before, fault.after)
    try:
        if native and not field.install():
            raise SystemExit(f"{fault.name}: does not build")
        return field.fails(fault.tests)
    finally:
        shutil.copy2(ROOT / fault.file, field.tree / fault.file)
        os.utime(field.tree / fault.file)  # so that it is built again
        if not native:
            installed = field.installed / fault.file.removeprefix("python/")
            shutil.copy2(ROOT / fault.file, installed)


def main(words: list[str]) -> int:
    # Python first: it needs no build of its own
    faults = sorted(listed(words), key=lambda fault: not fault.file.startswith("python/"))
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        field = Field(Path(folder))
        if not field.install():
            raise SystemExit("the tree as it stands does not build")
        if field.fails(sorted({test for fault in faults for test in fault.tests})):
            raise SystemExit("the tests fail without any fault")
        for fault in faults:
            if fault.equivalent:
                print(f"equivalent  {fault.name}: {fault.equivalent}", flush=True)
                continue
            killed = noticed(field, fault)
            print(f"{'noticed ' if killed else 'SURVIVED'}    {fault.name}", flush=True)
            survivors += [] if killed else [fault.name]
    counted = [fault for fault in faults if not fault.equivalent]
    print(f"{len(counted) - len(survivors)} of {len(counted)} noticed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
