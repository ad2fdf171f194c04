#!/usr/bin/env bash
# Builds the machine without Python and works it under a sanitizer:
#     tests/sanitize/run_native.sh thread [folder for objects]
# The instruction sets and their flags are those of CMakeLists.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

sanitizer=$1
objects=${2:-build/sanitize-$sanitizer}
compile=("${CXX:-c++}" -std=c++17 -O2 -g -fno-omit-frame-pointer -fno-math-errno -ffp-contract=off
    "-fsanitize=$sanitizer")

isas=(baseline)
case $(uname -m) in
    x86_64 | amd64)
        compile+=(-DFUSESTEP_X86_KERNELS)
        mapfile -t isas < <(sed -n '/\/arch/d; s/^ *add_kernels(\(.*\))$/\1/p' CMakeLists.txt)
        ;;
esac

mkdir -p "$objects"
built=()
for isa in "${isas[@]}"; do
    read -r name flags <<<"$isa"
    for source in csrc/kernels/kernels.cpp csrc/expression/evaluate.cpp; do
        object=$objects/$(basename "$source" .cpp)_$name.o
        # shellcheck disable=SC2086
        "${compile[@]}" $flags "-DFUSESTEP_ISA=$name" -c "$source" -o "$object"
        built+=("$object")
    done
done
"${compile[@]}" -pthread tests/sanitize/pool_test.cpp csrc/runtime/*.cpp csrc/expression/program.cpp \
    "${built[@]}" -o "$objects/pool_test"

# the thread sanitizer of older compilers cannot start where addresses are highly random
fixed=()
if setarch "$(uname -m)" -R true 2>/dev/null; then fixed=(setarch "$(uname -m)" -R); fi
TSAN_OPTIONS=halt_on_error=1 "${fixed[@]}" "$objects/pool_test"
