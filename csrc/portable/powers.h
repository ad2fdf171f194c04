// base^n and, as bias corrections need it, 1 - base^n: base^n rounded once from its exact value.
#pragma once
#include "elementary.h"

namespace fusestep {

// Powers are computed in twice double's precision, with an error of some n * 2^-104, and from
// kBySquaring on of 2^-64: what is given is the double nearest to base^n but where base^n is as
// near as that to the middle between two doubles. It depends on base and n alone; what is
// remembered only saves time when n rises by 1 from call to call.
class Powers {
 public:
    // For base in [0, 1) and n >= 1.
    double one_minus_power(double base, long long n) {
        // base^n < exp(-38) < 2^-54
        if (static_cast<double>(n) * (1.0 - base) > 38.0) return 1.0;
        return 1.0 - power(base, n);
    }

    // For the same; not so precise below 1e-290.
    double power(double base, long long n) { return raised(base, n).hi; }

 private:
    static constexpr long long kBySquaring = 1LL << 36;
    static constexpr long long kSteps = 16;  // powers that share a factor

    // base^(kSteps * multiple), and base^step.
    struct Known {
        double base = -1.0;
        long long multiple = 0;
        long long step = 0;
        DoubleDouble factor = {1.0, 0.0};
        DoubleDouble rest = {1.0, 0.0};
    };

    DoubleDouble raised(double base, long long n) {
        // two bases that differ most often have places of their own
        Known& known = known_[(to_bits(base) >> 40) % kPlaces];
        if (known.base != base || known.multiple != n / kSteps || known.step > n % kSteps) {
            known = {base, n / kSteps, 0, large_power(base, n - n % kSteps), {1.0, 0.0}};
        }
        for (; known.step < n % kSteps; ++known.step) {
            known.rest = multiply_finite(known.rest, {base, 0.0});
        }
        return multiply_finite(known.factor, known.rest);
    }

    static DoubleDouble large_power(double base, long long n) {
        if (n >= kBySquaring) {
            return power_of({base, 0.0}, exact_sum(static_cast<double>(n & ~0xfffffLL),
                                                   static_cast<double>(n & 0xfffffLL)));
        }
        DoubleDouble result = {1.0, 0.0}, square = {base, 0.0};
        for (; n > 0; n >>= 1) {
            if (n & 1) result = multiply_finite(result, square);
            square = multiply_finite(square, square);
        }
        return result;
    }

    static constexpr unsigned kPlaces = 8;
    Known known_[kPlaces];
};

}  // namespace fusestep
