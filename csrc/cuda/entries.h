// What a step has for a leaf, whatever its rule.
#pragma once
#include "launch.h"

namespace fusestep {
namespace device {
namespace {

using Index = unsigned long long;

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
