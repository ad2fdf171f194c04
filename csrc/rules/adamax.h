// Adamax: Adam with the largest gradient in place of the root: Kingma and Ba 2015, section 7.1.
#pragma once
#include "rule.h"

namespace fusestep {

struct Adamax : RuleDefaults {
    static constexpr const char* kName = "adamax";

    enum : int { kLr, kBeta1, kBeta2, kEps, kWeightDecay, kEpsAfter, kDecoupled, kColumnCount };
    static constexpr Column kColumns[kColumnCount] = {
        number("lr"),           fraction("beta1"), fraction("beta2"), positive("eps"),
        number("weight_decay"), flag("eps_after"), flag("decoupled"),
    };

    enum : int { kM, kU, kStateCount };
    static constexpr State kStates[kStateCount] = {state("m"), state("u")};

    enum Variant : unsigned { kCoupled = 1 };
    static constexpr unsigned kVariants = 2;

    template <class T>
    struct Scalars {
        T shrink;  // 1 - lr * weight_decay when decoupled, else 1
        T decay;   // weight_decay when coupled
        T rate1;   // 1 - beta1
        T beta2;
        T eps_in;   // eps in the maximum, or 0
        T eps_out;  // eps after it, or 0
        T step;     // lr / (1 - beta1^t)
    };

    static unsigned states_used(const double*) { return first_states(kStateCount); }

    template <unsigned variant>
    static constexpr Access access() {
        return reads_and_writes(first_states(kStateCount));
    }

    template <class T, class Powers>
    static unsigned prepare(const double* h, long long update_number, Powers& powers,
                            double* /*values*/, Scalars<T>& s) {
        const bool decoupled = h[kDecoupled] != 0.0, after = h[kEpsAfter] != 0.0;
        s.shrink = static_cast<T>(decoupled ? 1.0 - h[kLr] * h[kWeightDecay] : 1.0);
        s.decay = static_cast<T>(h[kWeightDecay]);
        s.rate1 = static_cast<T>(1.0 - h[kBeta1]);
        s.beta2 = static_cast<T>(h[kBeta2]);
        s.eps_in = static_cast<T>(after ? 0.0 : h[kEps]);
        s.eps_out = static_cast<T>(after ? h[kEps] : 0.0);
        s.step = static_cast<T>(h[kLr] / powers.one_minus_power(h[kBeta1], update_number));
        unsigned variant = 0;
        if (!decoupled && h[kWeightDecay] != 0.0) variant |= kCoupled;
        return variant;
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, T g, T& p, T* state) {
        T& m = state[kM];
        T& u = state[kU];
        if constexpr (variant & kCoupled) {
            g = g + s.decay * p;
        } else {
            p = p * s.shrink;
        }
        m = m + s.rate1 * (g - m);
        u = maximum(s.beta2 * u, (g < T(0) ? -g : g) + s.eps_in);
        p = p - s.step * m / (u + s.eps_out);
    }
};

}  // namespace fusestep
