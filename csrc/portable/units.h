// Adaptive gradient clipping: the units of a parameter, and what their norms make of the gradient.
//
// One dimension of an array of shape (outer, count, inner) enumerates its units. The squares of a
// unit are added as in sums.h, counted from its own beginning.
#pragma once
#include "sums.h"

namespace fusestep {

struct Units {
    unsigned long long outer;
    unsigned long long count;  // 0: the parameter has none, and its gradient is never clipped
    unsigned long long inner;
};

// How many elements each has.
FUSESTEP_INLINE unsigned long long unit_size(const Units& units) {
    return units.outer * units.inner;
}

// Where element k of a unit stands in the array.
FUSESTEP_INLINE unsigned long long place_in(const Units& units, unsigned long long unit,
                                            unsigned long long k) {
    if (units.outer == 1) return unit * units.inner + k;
    if (units.inner == 1) return k * units.count + unit;
    return (k / units.inner * units.count + unit) * units.inner + k % units.inner;
}

// Short numbers are divided sooner.
FUSESTEP_INLINE unsigned long long unit_of(const Units& units, unsigned long long element) {
    if ((element | units.inner | units.count) >> 32 != 0) {
        return element / units.inner % units.count;
    }
    return static_cast<unsigned>(element) / static_cast<unsigned>(units.inner) %
           static_cast<unsigned>(units.count);
}

// Brings the norm of a unit's gradient down to agc times that of its parameters: at most 1; NaN for
// norms that are NaN. A norm counts up to 1e154, where its square leaves double.
FUSESTEP_INLINE double unit_factor(double agc, double eps, double parameter_squares,
                                   double gradient_squares) {
    const double parameter = square_root(parameter_squares);
    const double gradient = square_root(gradient_squares);
    const double limit = agc * (parameter < eps ? eps : parameter);
    return gradient < limit ? 1.0 : limit / (gradient < 1e-6 ? 1e-6 : gradient);
}

}  // namespace fusestep
