// Lion: steps of one size along the sign of an average: Chen et al. 2023.
#pragma once
#include "rule.h"

namespace fusestep {

struct Lion : RuleDefaults {
    static constexpr const char* kName = "lion";

    enum : int { kLr, kBeta1, kBeta2, kWeightDecay, kColumnCount };
    static constexpr Column kColumns[kColumnCount] = {
        number("lr"),
        fraction("beta1"),
        fraction("beta2"),
        number("weight_decay"),
    };

    enum : int { kM, kStateCount };
    static constexpr State kStates[kStateCount] = {state("m")};

    static constexpr unsigned kVariants = 1;

    template <class T>
    struct Scalars {
        T shrink;  // 1 - lr * weight_decay
        T rate1;   // 1 - beta1
        T rate2;   // 1 - beta2
        T lr;
    };

    static unsigned states_used(const double*) { return first_states(kStateCount); }

    template <unsigned variant>
    static constexpr Access access() {
        return reads_and_writes(first_states(kStateCount));
    }

    template <class T, class Powers>
    static unsigned prepare(const double* h, long long /*update_number*/, Powers&,
                            double* /*values*/, Scalars<T>& s) {
        s.shrink = static_cast<T>(1.0 - h[kLr] * h[kWeightDecay]);
        s.rate1 = static_cast<T>(1.0 - h[kBeta1]);
        s.rate2 = static_cast<T>(1.0 - h[kBeta2]);
        s.lr = static_cast<T>(h[kLr]);
        return 0;
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, T g, T& p, T* state) {
        T& m = state[kM];
        p = p * s.shrink;
        p = p - s.lr * sign(m + s.rate1 * (g - m));
        m = m + s.rate2 * (g - m);
    }
};

}  // namespace fusestep
