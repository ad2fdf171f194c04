// Adam with Nesterov's look ahead: Dozat 2016, with torch's conventions.
#pragma once
#include "../portable/elementary.h"
#include "rule.h"

namespace fusestep {

struct NAdam : RuleDefaults {
    static constexpr const char* kName = "nadam";

    enum : int {
        kLr,
        kBeta1,
        kBeta2,
        kEps,
        kWeightDecay,
        kMomentumDecay,
        kDecoupled,
        kColumnCount
    };
    static constexpr Column kColumns[kColumnCount] = {
        number("lr"),           fraction("beta1"),        fraction("beta2"), positive("eps"),
        number("weight_decay"), number("momentum_decay"), flag("decoupled"),
    };

    enum : int { kM, kV, kStateCount };
    static constexpr State kStates[kStateCount] = {state("m"), state("v")};

    // of the momenta of all updates so far
    enum : int { kMuProduct, kValueCount };
    static constexpr Value kValues[kValueCount] = {{"mu_product", 1.0, 0.0, 1.0}};

    enum Variant : unsigned { kCoupled = 1 };
    static constexpr unsigned kVariants = 2;

    template <class T>
    struct Scalars {
        T shrink;  // 1 - lr * weight_decay when decoupled, else 1
        T decay;   // weight_decay when coupled
        T rate1;   // 1 - beta1
        T beta2;
        T rate2;            // 1 - beta2
        T root_correction;  // 1 / sqrt(1 - beta2^t)
        T eps;
        T gradient_step;
        T momentum_step;
    };

    static unsigned states_used(const double*) { return first_states(kStateCount); }

    template <unsigned variant>
    static constexpr Access access() {
        return reads_and_writes(first_states(kStateCount));
    }

    static double momentum(const double* h, long long update_number) {
        const double exponent = static_cast<double>(update_number) * h[kMomentumDecay];
        const double warmup = power_of({0.96, 0.0}, {exponent, 0.0}).hi;
        return h[kBeta1] * (1.0 - 0.5 * warmup);
    }

    template <class T, class Powers>
    static unsigned prepare(const double* h, long long update_number, Powers& powers,
                            double* values, Scalars<T>& s) {
        const bool decoupled = h[kDecoupled] != 0.0;
        const double mu = momentum(h, update_number);
        const double next_mu = momentum(h, update_number + 1);
        const double product = values[kMuProduct] * mu;
        values[kMuProduct] = product;
        s.shrink = static_cast<T>(decoupled ? 1.0 - h[kLr] * h[kWeightDecay] : 1.0);
        s.decay = static_cast<T>(h[kWeightDecay]);
        s.rate1 = static_cast<T>(1.0 - h[kBeta1]);
        s.beta2 = static_cast<T>(h[kBeta2]);
        s.rate2 = static_cast<T>(1.0 - h[kBeta2]);
        s.root_correction =
            static_cast<T>(1.0 / square_root(powers.one_minus_power(h[kBeta2], update_number)));
        s.eps = static_cast<T>(h[kEps]);
        s.gradient_step = static_cast<T>(h[kLr] * (1.0 - mu) / (1.0 - product));
        s.momentum_step = static_cast<T>(h[kLr] * next_mu / (1.0 - product * next_mu));
        unsigned variant = 0;
        if (!decoupled && h[kWeightDecay] != 0.0) variant |= kCoupled;
        return variant;
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, T g, T& p, T* state) {
        T& m = state[kM];
        T& v = state[kV];
        if constexpr (variant & kCoupled) {
            g = g + s.decay * p;
        } else {
            p = p * s.shrink;
        }
        m = m + s.rate1 * (g - m);
        v = s.beta2 * v + s.rate2 * (g * g);
        const T d = square_root(v) * s.root_correction + s.eps;
        p = p - (s.gradient_step * g + s.momentum_step * m) / d;
    }
};

}  // namespace fusestep
