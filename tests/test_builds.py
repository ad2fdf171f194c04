"""A build whose compiler was told to be loose with arithmetic is refused, and would tell itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHECK = ROOT / "cmake" / "ExactArithmetic.cmake"

LOOSE = [
    "-ffast-math",
    "-Ofast",
    "-funsafe-math-optimizations",
    "-fassociative-math",
    "-freciprocal-math",
    "-ffinite-math-only",
    "-ffp-contract=fast",
    "-ffp-model=fast",
    "-fp-model=fast=2",
    "-fno-signed-zeros",
    "/fp:fast",
]
STRICT = ["-O3 -march=native -fno-math-errno", "-fno-fast-math", "-ffp-contract=off", "/fp:precise"]


def configured(tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """What the check of the build says to these variables."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("needs CMake")
    script = tmp_path / "check.cmake"
    script.write_text(
        f'set(CMAKE_BUILD_TYPE Release)\ninclude("{CHECK.as_posix()}")\n'
        "fusestep_refuse_inexact_flags()\n"
    )
    given = [f"-D{name}={value}" for name, value in variables.items()]
    return subprocess.run([cmake, *given, "-P", str(script)], capture_output=True, text=True)


@pytest.mark.parametrize("flag", LOOSE)
def test_a_flag_that_lets_bits_change_is_refused_by_name(flag: str, tmp_path: Path) -> None:
    done = configured(tmp_path, CMAKE_CXX_FLAGS=f"-O2 {flag} -g")
    message = " ".join(done.stderr.split())
    assert done.returncode != 0
    assert f"and {flag} lets" in message
    assert "Remove it from the flags" in message


@pytest.mark.parametrize(
    "place", ["CXX_FLAGS", "CXX_FLAGS_RELEASE", "MODULE_LINKER_FLAGS", "CXX_COMPILER_ARG1"]
)
def test_all_places_that_flags_come_from_are_looked_at(place: str, tmp_path: Path) -> None:
    assert configured(tmp_path, **{f"CMAKE_{place}": " -ffast-math"}).returncode != 0


@pytest.mark.parametrize("flags", STRICT)
def test_flags_that_leave_bits_alone_are_taken(flags: str, tmp_path: Path) -> None:
    done = configured(tmp_path, CMAKE_CXX_FLAGS=flags)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_build_looks_at_its_flags_before_it_adds_its_own() -> None:
    text = (ROOT / "CMakeLists.txt").read_text()
    assert 0 < text.index("fusestep_refuse_inexact_flags()") < text.index("add_compile_options")


PROBE = """
#include <limits>
#include "exactness.h"
using namespace fusestep;
template <class T>
bool probe() {
    static const Operands<T> given = operands(std::numeric_limits<T>::quiet_NaN());
    bool (*volatile exact)(const Operands<T>&) = is_exact<T>;
    return exact(given);
}
int main() { return (probe<float>() ? 0 : 1) + (probe<double>() ? 0 : 2); }
"""


@pytest.mark.unsanitized
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("-O3 -fno-math-errno -ffp-contract=off", 0),
        ("-O3 -ffast-math", 3),
        ("-O2 -ffinite-math-only", 3),
        ("-O3 -fassociative-math -fno-signed-zeros -fno-trapping-math", 3),
        ("-O3 -freciprocal-math", 3),
        ("-O3 -ffp-contract=fast -mfma", 3),
    ],
)
def test_kernels_built_loosely_say_so_when_they_are_asked(
    flags: str, expected: int, tmp_path: Path
) -> None:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None or "g++" not in compiler or os.uname().machine != "x86_64":
        pytest.skip("needs GCC for x86-64")
    source, program = tmp_path / "probe.cpp", tmp_path / "probe"
    source.write_text(PROBE)
    command = [compiler, "-std=c++17", *flags.split(), f"-I{ROOT / 'csrc' / 'kernels'}"]
    subprocess.run([*command, str(source), "-o", str(program)], check=True)
    assert subprocess.run([program]).returncode == expected


@pytest.mark.unsanitized
def test_the_sources_themselves_refuse_fast_arithmetic(tmp_path: Path) -> None:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None or "g++" not in compiler:
        pytest.skip("needs GCC")
    source = ROOT / "csrc" / "kernels" / "kernels.cpp"
    command = [compiler, "-std=c++17", "-fsyntax-only", "-DFUSESTEP_ISA=baseline", str(source)]
    done = subprocess.run([*command, "-ffast-math"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "compile it without loose floating point" in done.stderr
