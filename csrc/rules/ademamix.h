// AdEMAMix, with decoupled decay: Pagliardini et al. 2024.
#pragma once
#include "rule.h"

namespace fusestep {

struct AdEMAMix : RuleDefaults {
    static constexpr const char* kName = "ademamix";

    enum : int { kLr, kBeta1, kBeta2, kBeta3, kAlpha, kEps, kWeightDecay, kColumnCount };
    static constexpr Column kColumns[kColumnCount] = {
        number("lr"),    fraction("beta1"), fraction("beta2"),      fraction("beta3"),
        number("alpha"), positive("eps"),   number("weight_decay"),
    };

    enum : int { kM, kMSlow, kV, kStateCount };
    static constexpr State kStates[kStateCount] = {state("m"), state("m_slow"), state("v")};

    static constexpr unsigned kVariants = 1;

    template <class T>
    struct Scalars {
        T shrink;  // 1 - lr * weight_decay
        T rate1;   // 1 - beta1
        T beta2;
        T rate2;            // 1 - beta2
        T rate3;            // 1 - beta3
        T root_correction;  // 1 / sqrt(1 - beta2^t)
        T eps;
        T step;
        T slow_step;  // the slow average has no bias correction
    };

    static unsigned states_used(const double*) { return first_states(kStateCount); }

    template <unsigned variant>
    static constexpr Access access() {
        return reads_and_writes(first_states(kStateCount));
    }

    template <class T, class Powers>
    static unsigned prepare(const double* h, long long update_number, Powers& powers,
                            double* /*values*/, Scalars<T>& s) {
        s.shrink = static_cast<T>(1.0 - h[kLr] * h[kWeightDecay]);
        s.rate1 = static_cast<T>(1.0 - h[kBeta1]);
        s.beta2 = static_cast<T>(h[kBeta2]);
        s.rate2 = static_cast<T>(1.0 - h[kBeta2]);
        s.rate3 = static_cast<T>(1.0 - h[kBeta3]);
        s.root_correction =
            static_cast<T>(1.0 / square_root(powers.one_minus_power(h[kBeta2], update_number)));
        s.eps = static_cast<T>(h[kEps]);
        s.step = static_cast<T>(h[kLr] / powers.one_minus_power(h[kBeta1], update_number));
        s.slow_step = static_cast<T>(h[kLr] * h[kAlpha]);
        return 0;
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, T g, T& p, T* state) {
        T& m = state[kM];
        T& slow = state[kMSlow];
        T& v = state[kV];
        p = p * s.shrink;
        m = m + s.rate1 * (g - m);
        slow = slow + s.rate3 * (g - slow);
        v = s.beta2 * v + s.rate2 * (g * g);
        const T d = square_root(v) * s.root_correction + s.eps;
        p = p - (s.step * m + s.slow_step * slow) / d;
    }
};

}  // namespace fusestep
