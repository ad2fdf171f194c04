// What update.cu and collect.cu share: the rule that they are compiled for, its cases, and what a
// leaf is updated with.
//
// FUSESTEP_RULE is the rule, FUSESTEP_CASES the list of the values of Entry::kernel_case that are
// compiled in.
#pragma once
#include "entries.h"

namespace fusestep {
namespace device {
namespace {

using Rule = FUSESTEP_RULE;

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
    static constexpr bool outputs = kernel_case / kMaxVariants / kTreatments / 2 % 2 != 0;
    static constexpr bool units = kernel_case / kMaxVariants / kTreatments / 4 != 0;
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

template <class T>
__device__ __forceinline__ const typename Rule::template Scalars<T>& scalars_of(
    const Entry& entry) {
    using Scalars = typename Rule::template Scalars<T>;
    static_assert(sizeof(Scalars) <= kScalarBytes, "the scalars of a rule fit an entry");
    return *reinterpret_cast<const Scalars*>(entry.scalars);
}

// This element's factor of the leaf's unit.
template <class Compiled>
__device__ __forceinline__ typename Compiled::Type unit_factor_of(const Leaf& leaf, Index element) {
    using T = typename Compiled::Type;
    return static_cast<const T*>(leaf.unit_factors)[unit_of(leaf.units, element)];
}

}  // namespace
}  // namespace device
}  // namespace fusestep
