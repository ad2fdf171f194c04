// What happens to a gradient before a rule sees it: divided by the loss scale, multiplied by the
// clipping factor (negative to maximize), clamped to [-limit, limit].
#pragma once
#include "compiler.h"

namespace fusestep {

enum Treatment : int { kAsIs, kScaled, kDivided, kTreatments };

template <class T>
struct GradientScalars {
    T divisor;
    T shift;  // 1, or a power of two that the factor is larger by
    T factor;
    T limit;
};

// A factor below float32's normal numbers would lose digits; the gradient is then brought nearer
// to it first.
template <class T>
FUSESTEP_INLINE void set_factor(GradientScalars<T>& s, double factor) {
    const double size = factor < 0.0 ? -factor : factor;
    const bool small = sizeof(T) == sizeof(float) && size < 0x1p-126;
    s.shift = static_cast<T>(small ? 0x1p-96 : 1.0);
    s.factor = static_cast<T>(small ? factor * 0x1p96 : factor);
}

template <int treatment, class T>
FUSESTEP_INLINE T treat(const GradientScalars<T>& s, T g) {
    if constexpr (treatment == kDivided) g = g / s.divisor;
    if constexpr (treatment != kAsIs) {
        g = g * s.shift;
        g = g * s.factor;
        g = g < -s.limit ? -s.limit : g;
        g = g > s.limit ? s.limit : g;
    }
    return g;
}

}  // namespace fusestep
