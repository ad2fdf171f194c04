// The average of a parameter over its updates: which of them it takes in, and how.
#pragma once
#include "compiler.h"

namespace fusestep {

// How far update number n (1 for the first) takes the average to the parameter: 0 leaves it alone,
// and the first that counts takes it there. Every so many updates count.
FUSESTEP_INLINE double average_rate(double decay, double every, long long n) {
    const long long period = static_cast<long long>(every);
    if (n % period != 0) return 0.0;
    return n == period ? 1.0 : 1.0 - decay;
}

// A rate that T rounds to 1 makes the average the parameter itself, which this does to rounding
// only.
template <class T>
FUSESTEP_INLINE T averaged(T average, T parameter, T rate) {
    return average + rate * (parameter - average);
}

}  // namespace fusestep
