// What update.cu and collect.cu share: the rule that they are compiled for, its cases, and what a
// leaf is updated with.
//
// FUSESTEP_RULE is the rule, FUSESTEP_CASES the list of the values of Entry::kernel_case that are
// compiled in.
#pragma once
#include "launch.h"

namespace fusestep {
namespace device {
namespace {

using Rule = FUSESTEP_RULE;
using Index = unsigned long long;

template <int type>
struct ElementOf {
    using Type = float;
};
template <>
struct ElementOf<1> {
    using Type = double;
};

template <unsigned kernel_case>
struct Case {
    static constexpr unsigned variant = kernel_case % kMaxVariants;
    static constexpr int treatment = kernel_case / kMaxVariants % kTreatments;
    using Type = typename ElementOf<kernel_case / kMaxVariants / kTreatments % 2>::Type;
    static constexpr bool outputs = kernel_case / kMaxVariants / kTreatments >= 2;
};

template <unsigned... cases>
struct Cases {
    // Calls visit(Case<kernel_case>()). What is not compiled in is left alone.
    template <class Visit>
    static __device__ __forceinline__ void visit(unsigned kernel_case, Visit visit) {
        static_cast<void>(((kernel_case == cases && (visit(Case<cases>()), true)) || ...));
    }
};

// Outside of device functions, where the constexpr functions of a rule may be called.
template <unsigned variant>
struct Summed {
    static constexpr int count = Rule::template sums<variant>();
};

__device__ constexpr bool has(unsigned states, int k) { return (states >> k & 1) != 0; }

// The entry that a leaf follows in this step.
__device__ __forceinline__ const Entry& entry_for(const UpdateLaunch& a, Index leaf) {
    const Index row = a.outcome == nullptr ? 0 : a.outcome->row;
    const unsigned which = a.entry_of == nullptr ? 0 : a.entry_of[leaf];
    return a.table == nullptr ? a.entry[which] : a.table[row * a.entries + which];
}

__device__ __forceinline__ bool applies(const UpdateLaunch& a) {
    return a.outcome == nullptr || a.outcome->applies;
}

template <class T>
__device__ __forceinline__ const typename Rule::template Scalars<T>& scalars_of(
    const Entry& entry) {
    using Scalars = typename Rule::template Scalars<T>;
    static_assert(sizeof(Scalars) <= kScalarBytes, "the scalars of a rule fit an entry");
    return *reinterpret_cast<const Scalars*>(entry.scalars);
}

template <class T>
__device__ __forceinline__ GradientScalars<T> gradient_scalars_of(const UpdateLaunch& a,
                                                                  const Entry& entry) {
    GradientScalars<T> scalars;
    scalars.divisor = static_cast<T>(entry.divisor);
    scalars.limit = static_cast<T>(entry.limit);
    set_factor(scalars, entry.sign * (a.outcome == nullptr ? 1.0 : a.outcome->factor));
    return scalars;
}

}  // namespace
}  // namespace device
}  // namespace fusestep
