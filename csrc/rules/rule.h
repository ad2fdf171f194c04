// The contract of an update rule.
//
// Rules are compiled by the C++ compiler for the CPU and by NVRTC for the GPU, so they use no
// standard library (see ../portable/compiler.h). A rule is a struct with
//
// - kName, kStates, kColumns: its name, its state arrays and its hyper-parameters;
// - kVariants: how many compile-time variants its update has;
// - Scalars<T>: what the update of one element needs, in the compute type T;
// - prepare: once per step, on the host, in double: hyper-parameters -> Scalars, variant. It is
//   given a source of 1 - beta^n, and fills Scalars with numbers of type T alone;
// - states_used: how many state arrays the given hyper-parameters ask for;
// - states_touched<variant>: how many of them that variant reads and writes;
// - update<variant>: one element: parameter and state, given the gradient.
#pragma once
#include "../portable/compiler.h"
#include "../portable/gradient.h"

namespace fusestep {

constexpr int kMaxStates = 3;
constexpr int kMaxVariants = 16;
constexpr int kScalarBytes = 64;  // the largest Rule::Scalars<T> fits

// One hyper-parameter. A flag is 0 or 1 and fixed when the optimizer is built.
struct Column {
    const char* name;
    double lower;
    double upper;
    bool upper_open;
    bool flag;
};

constexpr Column number(const char* name, double lower = 0.0, double upper = kUnbounded) {
    return {name, lower, upper, false, false};
}
constexpr Column positive(const char* name) { return number(name, kAboveZero); }
constexpr Column fraction(const char* name) { return {name, 0.0, 1.0, true, false}; }
constexpr Column flag(const char* name) { return {name, 0.0, 1.0, false, true}; }

}  // namespace fusestep
