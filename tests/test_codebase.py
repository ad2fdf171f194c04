"""The house: who includes and imports whom, and what no part of it may lack."""

from __future__ import annotations

import ast
import doctest
import graphlib
import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import resolve_name
from pathlib import Path

import pytest

import fusestep as fs
from fusestep import _core

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "python" / "fusestep"
CMAKE = (ROOT / "CMakeLists.txt").read_text()

# What each folder of csrc may include, besides its own files.
INCLUDES: dict[str, set[str]] = {
    "portable": set(),
    "rules": {"portable"},
    "expression": {"portable"},
    "kernels": {"portable", "rules"},
    "cuda": {"portable", "rules"},
    "runtime": {"portable", "rules", "expression", "kernels"},
    "data": {"portable", "kernels", "runtime"},
    "bind": {"portable", "rules", "expression", "kernels", "cuda", "runtime", "data"},
}
# What the GPU's compiler reads too, and what is compiled once for each instruction set.
ON_GPUS = {"portable", "rules", "cuda"}
ONCE_PER_ISA = {"kernels.cpp", "table.h", "exactness.h", "evaluate.cpp", "instruction.h"}
# What each room of the package may import, besides itself. Rooms not named here stand above all.
IMPORTS: dict[str, set[str]] = {
    **{room: set() for room in ("_core", "arguments", "clock", "renamed")},
    "rows": {"_core"},
    "foreign": {"rows"},
    "trees": {"foreign"},
    "saved_state": {"_core"},
    "cuda": set(),
    "engines": {"_core", "cuda"},
    "expression": {"_core", "arguments", "clock"},
    "schedules": {"trees", "arguments", "clock", "expression", "control", "saved_state"},
    "memory": {"_core", "expression", "saved_state"},
    "control": {"_core", "arguments", "clock", "expression", "memory", "saved_state"},
    "gradients": {"_core", "arguments", "clock", "expression", "memory", "renamed", "saved_state"},
    "scaling": {"arguments", "expression", "gradients", "renamed"},
    "batch_sizes": {"_core", "arguments", "clock", "control", "expression", "memory", "schedules"}
    | {"saved_state"},
    "data": {"_core", "arguments", "clock", "cuda", "expression", "memory", "batch_sizes"}
    | {"gradients", "saved_state"},
    "optim": {"_core", "foreign", "trees", "arguments", "clock", "engines", "expression", "control"}
    | {"gradients", "memory", "saved_state"},
    "record": {"_core", "arguments", "clock", "expression", "gradients", "saved_state"},
    "checkpoint": {"_core", "foreign", "trees", "arguments", "cuda", "optim", "saved_state"},
    "run": {"_core", "arguments", "checkpoint", "data", "optim", "record", "saved_state", "trees"},
    "distributed": {
        "_core",
        "foreign",
        "trees",
        "arguments",
        "clock",
        "cuda",
        "engines",
        "gradients",
    }
    | {"checkpoint", "memory", "optim", "saved_state"},
    "fusestep": {"_core", "checkpoint", "clock", "control", "engines", "expression", "schedules"}
    | {"batch_sizes", "data", "gradients", "optim", "record", "renamed", "rows", "run"}
    | {"scaling", "threads"},
    "threads": {"_core"},
    "torch": {"_core", "arguments", "engines", "expression", "optim"},
}
NATIVE = sorted(path for path in CSRC.rglob("*") if path.suffix in {".h", ".cpp", ".cu"})
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
# what the examples of a module need, besides NumPy
NEEDS = {
    **{f"fusestep.checkpoint.{name}": "xxhash" for name in ("loading", "rotation", "saving")},
    "fusestep.distributed.saving": "xxhash",
    "fusestep.run.run": "xxhash",
    "fusestep.sklearn": "sklearn",
    **{
        f"fusestep.torch{name}": "torch"
        for name in ("", ".arrivals", ".engine", ".masters", ".offload", ".optimizers")
    },
    **{f"fusestep.torch.{name}": "torch" for name in ("refusals", "rows", "staging", "step")},
    "fusestep.tune.search": "optuna",
}
IMPORTABLE = sorted(name for name in MODULES if not name.endswith("__main__"))


def included(path: Path) -> Iterator[tuple[str, str]]:
    """The kind of bracket and the name of every include in a file."""
    yield from re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)', path.read_text(), re.MULTILINE)


def code(path: Path) -> str:
    """A C++ file without comments and string literals."""
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', " ", path.read_text(), flags=re.DOTALL)


def imported(name: str) -> set[str]:
    """The modules of the package that a module imports when it runs."""
    path, tree = MODULES[name], ast.parse(MODULES[name].read_text())
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending += node.orelse
            continue
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            members = {f"{base}.{alias.name}" for alias in node.names}
            modules = members & {*MODULES, "fusestep._core"}
            found |= modules | ({base} if members - modules else set())
    return {target for target in found if target.partition(".")[0] == "fusestep"}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


@pytest.mark.parametrize("path", NATIVE, ids=lambda path: str(path.relative_to(CSRC)))
def test_native_files_include_only_what_stands_below_them(path: Path) -> None:
    folder = path.relative_to(CSRC).parts[0]
    assert folder in INCLUDES, "say in INCLUDES what this new folder may include"
    for bracket, name in included(path):
        if bracket == '"':
            target = (path.parent / name).resolve().relative_to(CSRC)
            assert (CSRC / target).is_file(), name
            assert target.parts[0] in INCLUDES[folder] | {folder}, name
        elif folder in ON_GPUS:
            assert path.name == "compiler.h", "NVRTC has no standard headers"
        elif path.name in ONCE_PER_ISA:
            assert name == "stddef.h", "inline code of a header may come out for one processor only"
        elif folder != "bind":
            assert not name.startswith(("pybind11", "Python.h", "numpy")), name


def test_the_system_headers_that_rules_see_are_read_by_one_compiler_only() -> None:
    text = (CSRC / "portable" / "compiler.h").read_text()
    only = r"^#elif defined\(_MSC_VER\)\n#include <math\.h>[^\n]*\n#include <string\.h>\n#define"
    assert re.search(only, text, re.MULTILINE)
    assert text.count("#include") == 2


def test_native_files_include_each_other_without_circles() -> None:
    graph = {
        path: {(path.parent / name).resolve() for bracket, name in included(path) if bracket == '"'}
        for path in NATIVE
    }
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_what_is_compiled_for_each_processor_neither_throws_nor_allocates_nor_uses_std() -> None:
    forbidden = r"\b(throw|try|catch|new|delete|malloc|free|std::\w+)\b"
    paths = [p for p in NATIVE if p.parent.name in ON_GPUS or p.name in ONCE_PER_ISA]
    assert {path.name for path in paths} > ONCE_PER_ISA
    for path in paths:
        assert re.findall(forbidden, code(path)) == [], path.name


def test_exceptions_are_thrown_in_bind_only() -> None:
    for path in (path for path in NATIVE if not path.is_relative_to(CSRC / "bind")):
        assert re.findall(r"\bthrow\b", code(path)) == [], path.name


@pytest.mark.parametrize("module", sorted(MODULES))
def test_python_modules_import_only_what_stands_below_them(module: str) -> None:
    if room(module) not in IMPORTS:
        return
    allowed = IMPORTS[room(module)] | {room(module)}
    assert {target for target in imported(module) if room(target) not in allowed} == set()


def test_python_modules_import_each_other_without_circles() -> None:
    graph = {module: imported(module) - {module} for module in MODULES}
    assert "fusestep._core" in graph["fusestep.engines.cpu"]
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_nothing_allows_the_compiler_to_change_results() -> None:
    loose = (
        r"(?i)fast-?math|-Ofast|fp:fast|contract[=( ]*(?:fast|on)\b|-funsafe|-fassociative"
        r"|-freciprocal|-ffinite|\bdaz\b|\bftz\b|float_control|optimize\("
    )
    for path in [*NATIVE, ROOT / "pyproject.toml", ROOT / "CMakeLists.txt"]:
        text = re.sub("#.*" if path.suffix in {".toml", ".txt"} else "//.*", "", path.read_text())
        assert re.findall(loose, text) == [], path.name
    assert "-ffp-contract=off" in CMAKE
    assert "/fp:precise" in CMAKE


@pytest.mark.parametrize("rule", _core.rules())
def test_every_rule_has_an_optimizer_a_row_of_tests_and_a_place_in_the_readme(rule: str) -> None:
    from tables import registry

    classes = [name for name in fs.__all__ if getattr(getattr(fs, name), "_rule", None) == rule]
    assert classes, "no optimizer of the package uses this rule"
    assert rule in {row.rule for row in registry.ROWS}, "tests/tables/registry.py has no row"
    for page in ("README.md", "docs/rules.md"):
        text = (ROOT / page).read_text()
        for name in classes:
            assert f"`fs.{name}`" in text, f"{page} has no row for {name}"


@pytest.mark.parametrize("name", fs.__all__)
def test_every_public_name_has_a_docstring(name: str) -> None:
    # its own: a class would show that of its base; and a native function brings its signature
    lines = (getattr(fs, name).__doc__ or "").splitlines()
    assert [line for line in lines if line and not line.startswith(f"{name}(")]


@pytest.mark.parametrize("module", IMPORTABLE)
def test_the_examples_in_docstrings_print_what_they_say(module: str) -> None:
    if module in NEEDS:
        pytest.importorskip(NEEDS[module])
    assert doctest.testmod(importlib.import_module(module)).failed == 0


@pytest.mark.parametrize("name", sorted({*fs.optim.__all__} & {*fs.__all__} - {"Optimizer"}))
def test_every_optimizer_has_an_example(name: str) -> None:
    assert ">>>" in (getattr(fs, name).__doc__ or "")


def test_every_module_is_installed() -> None:
    installed = Path(fs.__file__).parent
    found = {path.relative_to(installed) for path in installed.rglob("*.py")}
    assert found == {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")}


def test_the_version_is_the_same_everywhere() -> None:
    declared = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared is not None
    found = [fs.__version__, _core.build_info()["version"], version("fusestep")]
    assert found == [declared[1]] * 3


def sources(*suffixes: str) -> list[Path]:
    folders = ["python", "tests", "bench", "csrc", ".ci", "examples"]
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [path for path in found if not suffixes or path.suffix in suffixes]


def test_no_python_module_is_longer_than_400_lines() -> None:
    lines = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in sources(".py")}
    assert len(lines) > 10
    assert {name: count for name, count in lines.items() if count > 400} == {}


def test_only_tests_lie_among_the_tests() -> None:
    others = {path.name for path in (ROOT / "tests").glob("*.py")} - {"conftest.py"}
    assert {name for name in others if not name.startswith("test_")} == set()


def test_nothing_is_left_for_later() -> None:
    words = ["TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK"]
    later = re.compile(rf"\b(?:{'|'.join(words)})\b")
    written = sources(".py", ".pyi", ".h", ".cpp", ".cu", ".c", ".sh", "")
    for path in [*written, *ROOT.glob("*.md"), ROOT / "pyproject.toml", ROOT / "CMakeLists.txt"]:
        assert later.findall(path.read_text()) == [], path


def test_every_planted_fault_finds_its_place_and_its_tests() -> None:
    toml = pytest.importorskip("tomllib")  # of Python 3.11
    rows = [
        row
        for path in sorted((ROOT / "tests" / "faults").glob("*.toml"))
        for row in toml.loads(path.read_text())["fault"]
    ]
    assert len({row["name"] for row in rows}) == len(rows) > 100
    for row in rows:
        assert (ROOT / row["file"]).read_text().count(row["before"]) == 1, row["name"]
        assert all((ROOT / test.partition("::")[0]).is_file() for test in row["tests"]), row["name"]


def instruction_sets() -> dict[str, list[str]]:
    """The instruction sets of this processor family and their flags, as CMakeLists.txt has them."""
    rows = re.findall(r"^ *add_kernels\((\w+)([^)]*)\)", CMAKE, re.MULTILINE)
    flags = {isa: options.split() for isa, options in rows if "/arch" not in options}
    on_x86 = platform.machine().lower() in {"x86_64", "amd64"}
    return flags if on_x86 else {"baseline": flags["baseline"]}


def test_all_instruction_sets_of_the_build_are_compiled() -> None:
    assert list(instruction_sets()) == _core.build_info()["isa_compiled"]


@pytest.mark.unsanitized
@pytest.mark.parametrize("name", ["kernels", "evaluate"])
@pytest.mark.parametrize("isa", instruction_sets())
def test_the_object_of_an_instruction_set_exports_one_constant_alone(
    isa: str, name: str, tmp_path: Path
) -> None:
    compiler, nm = shutil.which(os.environ.get("CXX", "c++")), shutil.which("nm")
    if compiler is None or nm is None:
        pytest.skip("needs a C++ compiler and nm")
    common = re.search(r"add_compile_options\((-f[^$)]*)\)", CMAKE)
    assert common is not None
    options = [*common[1].split(), *instruction_sets()[isa], f"-DFUSESTEP_ISA={isa}"]
    options += ["-std=c++17", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden"]
    (source,), target = CSRC.glob(f"*/{name}.cpp"), tmp_path / "object.o"
    subprocess.run([compiler, *options, "-c", str(source), "-o", str(target)], check=True)
    listed = subprocess.run([nm, "-g", target], check=True, capture_output=True, text=True).stdout
    symbols = [(line.split()[-2], line.split()[-1]) for line in listed.splitlines() if line]
    needed = {name for kind, name in symbols if kind in "Uwv"} - {"_GLOBAL_OFFSET_TABLE_"}
    exported = [(kind, name) for kind, name in symbols if kind not in "Uwv"]
    # without the instruction, C's own fma gives the same bits
    allowed = {"fma", "_fma"} if (isa, name) == ("baseline", "evaluate") else set()
    assert needed <= allowed, "the object needs something that is compiled elsewhere"
    assert len(exported) == 1, "the linker may merge symbols that several objects export"
    assert exported[0][0] in "DRSB"  # a weak or common symbol has other letters
    assert f"{name}_{isa}" in exported[0][1]


IMPORT = """
import os, threading
import numpy as np
def threads():
    native = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else None
    return threading.active_count(), native
before = threads()
import fusestep as fs
assert threads() == before, (before, threads())
for dtype, tiny in ((np.float32, 1e-45), (np.float64, 5e-324)):
    w = np.full(1_000_000, tiny, dtype)
    fs.SGD(w, lr=0.0).step(np.zeros_like(w))
    assert (w * dtype(1) != 0).all()
assert 5e-324 * 1.0 != 0.0
"""


@pytest.mark.unsanitized
def test_importing_starts_no_thread_prints_nothing_and_keeps_subnormal_numbers() -> None:
    command = [sys.executable, "-W", "error", "-c", IMPORT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
