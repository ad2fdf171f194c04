// Rectified Adam: Liu et al. 2020, with torch's conventions.
#pragma once
#include "rule.h"

namespace fusestep {

struct RAdam : RuleDefaults {
    static constexpr const char* kName = "radam";

    enum : int { kLr, kBeta1, kBeta2, kEps, kWeightDecay, kDecoupled, kEpsHat, kColumnCount };
    static constexpr Column kColumns[kColumnCount] = {
        number("lr"),           fraction("beta1"), fraction("beta2"), positive("eps"),
        number("weight_decay"), flag("decoupled"), flag("eps_hat"),
    };

    enum : int { kM, kV, kStateCount };
    static constexpr State kStates[kStateCount] = {state("m"), state("v")};

    enum Variant : unsigned { kCoupled = 1, kRectified = 2 };
    static constexpr unsigned kVariants = 4;

    template <class T>
    struct Scalars {
        T shrink;  // 1 - lr * weight_decay when decoupled, else 1
        T decay;   // weight_decay when coupled
        T rate1;   // 1 - beta1
        T beta2;
        T rate2;            // 1 - beta2
        T root_correction;  // 1 / sqrt(1 - beta2^t), or 1
        T eps;
        T step;
    };

    static unsigned states_used(const double*) { return first_states(kStateCount); }

    template <unsigned variant>
    static constexpr Access access() {
        return reads_and_writes(first_states(kStateCount));
    }

    template <class T, class Powers>
    static unsigned prepare(const double* h, long long update_number, Powers& powers,
                            double* /*values*/, Scalars<T>& s) {
        constexpr double kShortest = 5.0;  // average whose variance is known well enough
        const bool decoupled = h[kDecoupled] != 0.0;
        const bool hat = h[kEpsHat] != 0.0;
        const double c1 = powers.one_minus_power(h[kBeta1], update_number);
        const double c2 = powers.one_minus_power(h[kBeta2], update_number);
        const double root_c2 = square_root(c2);
        const double longest = 2.0 / (1.0 - h[kBeta2]) - 1.0;
        const double t = static_cast<double>(update_number);
        const double length = longest - 2.0 * t * powers.power(h[kBeta2], update_number) / c2;
        double rate = h[kLr];
        unsigned variant = 0;
        if (length > kShortest) {
            variant |= kRectified;
            rate *= square_root((length - 4.0) * (length - 2.0) * longest /
                                ((longest - 4.0) * (longest - 2.0) * length));
            // eps_mode "hat" adds eps to the uncorrected root, so the correction moves into the
            // step
            if (hat) rate *= root_c2;
        }
        s.shrink = static_cast<T>(decoupled ? 1.0 - h[kLr] * h[kWeightDecay] : 1.0);
        s.decay = static_cast<T>(h[kWeightDecay]);
        s.rate1 = static_cast<T>(1.0 - h[kBeta1]);
        s.beta2 = static_cast<T>(h[kBeta2]);
        s.rate2 = static_cast<T>(1.0 - h[kBeta2]);
        s.root_correction = static_cast<T>(hat ? 1.0 : 1.0 / root_c2);
        s.eps = static_cast<T>(h[kEps]);
        s.step = static_cast<T>(rate / c1);
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
        if constexpr (variant & kRectified) {
            const T d = square_root(v) * s.root_correction + s.eps;
            p = p - s.step * m / d;
        } else {
            p = p - s.step * m;
        }
    }
};

}  // namespace fusestep
