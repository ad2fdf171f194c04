// Cautious steps, which leave alone what does not go along with the gradient: Liang et al. 2024,
// with timm's conventions.
#pragma once
#include "rule.h"

namespace fusestep {

template <class T>
FUSESTEP_INLINE bool agree(T direction, T gradient) {
    return direction * gradient > T(0);
}

// How much farther the others go, where so many of a tensor's elements agree.
FUSESTEP_INLINE double cautious_scale(double agreeing, double size) {
    const double fewest = 1e-3 * size;
    return size / (agreeing > fewest ? agreeing : fewest);
}

}  // namespace fusestep
