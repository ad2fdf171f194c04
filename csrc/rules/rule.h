// The contract of an update rule.
//
// Rules are compiled by the C++ compiler for the CPU and by NVRTC for the GPU, so they use no
// standard library (see ../portable/compiler.h). A rule is a struct, most often with the
// RuleDefaults below. It has tables, each with an enum of its places:
//
// - kName;
// - kColumns, kColumnCount: its hyper-parameters; kLr is the place of the learning rate;
// - kStates, kStateCount: the arrays that it keeps for each parameter;
// - kValues, kValueCount: numbers that an update of a parameter hands to the next one;
// - kSumCount: the most sums over a whole tensor that a variant of its update needs;
// - kVariants: how many compile-time variants its update has.
//
// Once per step, on the host, in double:
//
// - states_used(hyper): which states these hyper-parameters ask for, state k as bit k;
// - prepare(hyper, n, powers, values, scalars): fills Scalars<T>, whose members are numbers of type
//   T alone, for update number n (1 for the first), and returns the variant. `powers` is a
//   source of 1 - beta^n. `values` are those that the parameter's last update has left, or the
//   initial ones; prepare leaves its own there.
// - rest(variant, scalars): what such an update leaves as it is where the gradient is +0.
//
// For each element, on CPU and GPU:
//
// - access<variant>(): what of an element's memory update reads and writes;
// - update<variant>(scalars, g, p, state): the parameter and its state, given the gradient.
//
// A variant with sums goes twice over each tensor. The rule then has also
//
// - sums<variant>(): how many;
// - collect<variant>(scalars, g, p, state, terms) and collect_access<variant>(): the first pass. It
//   may change the state, but not the parameter, and gives this element's term of each sum, in
//   double. Terms are added in the order of ../portable/sums.h, counted from the tensor's own
//   beginning;
// - Factors<T> and conclude(variant, scalars, sums, size): what the sums make for all of the
//   tensor's `size` elements;
// - update<variant>(scalars, factors, g, p, state): the second pass.
//
// The other variants have update without factors, as rules without sums do.
#pragma once
#include "../portable/compiler.h"
#include "../portable/gradient.h"

namespace fusestep {

// One hyper-parameter. A flag is 0 or 1, or one of a few choices, and fixed when the optimizer is
// built.
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
constexpr Column between_zero_and_one(const char* name) {
    return {name, kAboveZero, 1.0, true, false};
}
// One of so many, numbered from 0.
constexpr Column choice(const char* name, int choices) {
    return {name, 0.0, choices - 1.0, false, true};
}
constexpr Column flag(const char* name) { return {name, 0.0, 1.0, false, true}; }

// What an array of state holds before the first update. What a hyper-parameter says is added by
// the first update instead, which has its scheduled value.
struct Initial {
    double number;
    bool is_parameter;  // the parameter's own elements
};

constexpr Initial filled(double number) { return {number, false}; }
constexpr Initial from_parameter() { return {0.0, true}; }

enum class StateType : int { kParameters, kDouble };

// What each element of an array of state belongs to: an element of the parameter, all of them, or
// all with the same place along the other axes than the last (a row) or the last but one (a
// column). Where there are fewer than two axes each element is a row, and all are one column.
enum class Extent : int { kElement, kTensor, kRow, kColumn };

// One array of state, of a name, that every parameter has which uses it.
struct State {
    const char* name;
    Initial initial;
    StateType type;
    Extent extent;
};

constexpr State state(const char* name, Initial initial = filled(0.0),
                      StateType type = StateType::kParameters, Extent extent = Extent::kElement) {
    return {name, initial, type, extent};
}

// One number that an update hands to the next, within bounds.
struct Value {
    const char* name;
    double initial;
    double lower;
    double upper;
};

// What a pass does besides reading the parameter; state k is bit k.
struct Access {
    unsigned reads;
    unsigned writes;
    bool gradient;  // whether it reads it
};

constexpr unsigned first_states(int count) { return (1u << count) - 1; }
constexpr Access reads_and_writes(unsigned states) { return {states, states, true}; }

// Which elements an update with a gradient of +0 leaves as they are, bit for bit, with their state:
// none, those whose state is +0 throughout, or all whose state is no NaN.
enum class Rest : int { kNone, kWithoutState, kAll };

// Of rules that do without.
struct RuleDefaults {
    template <class Scalars>
    static Rest rest(unsigned /*variant*/, const Scalars&) {
        return Rest::kNone;
    }

    static constexpr int kValueCount = 0;
    static constexpr const Value* kValues = nullptr;
    static constexpr int kSumCount = 0;

    template <unsigned variant>
    static constexpr int sums() {
        return 0;
    }

    template <class T>
    struct Factors {};
};

}  // namespace fusestep
