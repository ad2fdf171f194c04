"""The kernels of the GPU compile without one, and to what the promise of equal bits allows."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import re

import pytest

from fusestep import _core
from fusestep.cuda.compiling import OPTIONS
from tables.device_model import CSRC, STEP, STRUCTS, TREATMENTS, VARIANTS

pytestmark = pytest.mark.unsanitized  # a sanitizer's dlopen does not find what NVRTC loads itself

# a product and a sum rounded once, a fast division or root, subnormal numbers lost
INEXACT = re.compile(r"\bfma\.|\bmad\.(?:rn\.|rz\.)?f|\.approx|\bdiv\.full|\.ftz")
ALL_CASES = ",".join(map(str, range(2 * len(TREATMENTS) * VARIANTS)))
# the oldest and the newest that NVRTC 12 and 13 both know
ARCHITECTURES = ("compute_75", "compute_90")
INCLUDE = f"-I{CSRC / 'cuda'}"
PACKAGES = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12")


@functools.cache
def nvrtc() -> ctypes.CDLL:
    for package in PACKAGES:
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if re.fullmatch(r"libnvrtc\.so\.\d+|nvrtc64_\d+_0\.dll", file.name):
                return ctypes.CDLL(str(file.locate()))
    pytest.skip(f"needs NVRTC: pip install {PACKAGES[-1]}")


def ptx(code: str, *options: str) -> str:
    """What NVRTC makes of a source; its log if that fails."""
    library, program = nvrtc(), ctypes.c_void_p()

    def text(name: str) -> str:
        size = ctypes.c_size_t()
        assert getattr(library, f"nvrtcGet{name}Size")(program, ctypes.byref(size)) == 0
        buffer = ctypes.create_string_buffer(size.value)
        assert getattr(library, f"nvrtcGet{name}")(program, buffer) == 0
        return buffer.value.decode()

    source, name = code.encode(), b"kernels.cu"
    created = library.nvrtcCreateProgram(ctypes.byref(program), source, name, 0, None, None)
    assert created == 0
    given = [option.encode() for option in (INCLUDE, *OPTIONS, *options)]
    compiled = library.nvrtcCompileProgram(
        program, len(given), (ctypes.c_char_p * len(given))(*given)
    )
    assert compiled == 0, text("ProgramLog")
    result = text("PTX")
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return result


@pytest.mark.parametrize(
    ("rule", "architecture"),
    [(rule, "compute_75") for rule in STRUCTS] + [("adam", "compute_90"), ("lamb", "compute_90")],
)
def test_every_case_of_a_rule_compiles_to_exact_instructions(rule: str, architecture: str) -> None:
    options = [f"-DFUSESTEP_RULE={STRUCTS[rule]}", f"-DFUSESTEP_CASES={ALL_CASES}"]
    made = ptx(STEP, *options, f"--gpu-architecture={architecture}")
    kernels = set(re.findall(r"\.entry (\w+)", made))
    assert kernels == {"fusestep_update", "fusestep_sum", "fusestep_conclude"}
    assert INEXACT.findall(made) == []
    assert {"div.rn.f32", "div.rn.f64", "sqrt.rn.f64"} <= set(re.findall(r"\w+\.rn\.f\d+", made))
    for access in ("ld", "st"):
        assert re.search(rf"\b{access}(\.global)?\.v4\.\w32", made), "16 bytes at once"
        assert re.search(rf"\b{access}(\.global)?\.v2\.\w64", made)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("rule", [name for name, rule in _core.rules().items() if rule.sums])
def test_sums_over_tensors_compile_to_exact_instructions(rule: str, architecture: str) -> None:
    options = [f"-DFUSESTEP_RULE={STRUCTS[rule]}", f"-DFUSESTEP_CASES={ALL_CASES}"]
    code = (CSRC / "cuda" / "collect.cu").read_text()
    made = ptx(code, *options, f"--gpu-architecture={architecture}")
    assert set(re.findall(r"\.entry (\w+)", made)) == {"fusestep_collect", "fusestep_combine"}
    assert INEXACT.findall(made) == []
    assert "add.rn.f64" in made or "add.f64" in made


@pytest.mark.parametrize("architecture", ["compute_75"])
@pytest.mark.parametrize("rule", ["sgd", "lamb"])
def test_clipping_unit_by_unit_compiles_to_exact_instructions(rule: str, architecture: str) -> None:
    codes = [(CSRC / "cuda" / "units.cu").read_text(), STEP]
    first = 4 * len(TREATMENTS) * VARIANTS
    cases = ",".join(map(str, range(first, first + 2 * len(TREATMENTS) * VARIANTS)))
    options = [f"-DFUSESTEP_RULE={STRUCTS[rule]}", f"-DFUSESTEP_CASES={cases}"]
    if _core.rules()[rule].sums:
        codes.append((CSRC / "cuda" / "collect.cu").read_text())
    for code in codes:
        made = ptx(code, *options, f"--gpu-architecture={architecture}")
        assert INEXACT.findall(made) == []


def test_the_gathering_of_rows_compiles_to_exact_instructions() -> None:
    code = (CSRC / "cuda" / "gather.cu").read_text()
    assert INEXACT.findall(ptx(code, "--gpu-architecture=compute_75")) == []


def test_whatever_is_portable_compiles_for_a_gpu() -> None:
    headers = sorted(path.name for path in (CSRC / "portable").glob("*.h"))
    code = "".join(f'#include "../portable/{name}"\n' for name in headers)
    code += """
extern "C" __global__ void kernel(double* x, long long n) {
    fusestep::Powers powers;
    const fusestep::DoubleDouble y = fusestep::exponential({x[0], x[1]});
    x[0] = powers.one_minus_power(y.hi, n) + fusestep::random_number(n, 1) + y.lo;
}
"""
    made = ptx(code, "--gpu-architecture=compute_75")
    assert "fma.rn.f64" in made, "twice double's precision asks for it by name"
    assert INEXACT.findall(made.replace("fma.rn.f64", "")) == []


@pytest.mark.parametrize(
    ("option", "instruction"),
    [("--fmad=true", "fma."), ("--prec-div=false", "div.full"), ("--ftz=true", ".ftz")],
)
def test_what_would_change_bits_is_seen_in_what_is_compiled(option: str, instruction: str) -> None:
    options = ["-DFUSESTEP_RULE=Adam", "-DFUSESTEP_CASES=32", "--gpu-architecture=compute_90"]
    options.append(option)
    assert instruction in INEXACT.findall(ptx(STEP, *options))
