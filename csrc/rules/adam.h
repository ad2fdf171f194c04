// The Adam family. Adam: Kingma and Ba 2015; decoupled decay: Loshchilov and Hutter 2019;
// AMSGrad: Reddi et al. 2018; AdaBelief: Zhuang et al. 2020.
#pragma once
#include "rule.h"

namespace fusestep {

template <bool belief>
struct AdamFamily : RuleDefaults {
    static constexpr const char* kName = belief ? "adabelief" : "adam";

    enum : int { kM, kV, kVMax, kStateCount };
    static constexpr State kStates[kStateCount] = {state("m"), state("v"), state("v_max")};

    enum : int {
        kLr,
        kBeta1,
        kBeta2,
        kEps,
        kEpsRoot,
        kWeightDecay,
        kDecoupled,
        kAmsgrad,
        kBiasCorrection,
        kEpsHat,
        kColumnCount
    };
    static constexpr Column kColumns[kColumnCount] = {
        number("lr"),      fraction("beta1"),  fraction("beta2"),
        positive("eps"),   number("eps_root"), number("weight_decay"),
        flag("decoupled"), flag("amsgrad"),    flag("bias_correction"),
        flag("eps_hat"),
    };

    enum Variant : unsigned { kCoupled = 1, kWithMaximum = 2 };
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
        T eps_root;
        T step;
    };

    static unsigned states_used(const double* h) {
        return first_states(h[kAmsgrad] != 0.0 ? 3 : 2);
    }

    template <unsigned variant>
    static constexpr Access access() {
        return reads_and_writes(first_states((variant & kWithMaximum) ? 3 : 2));
    }

    template <class T, class Powers>
    static unsigned prepare(const double* h, long long update_number, Powers& powers,
                            double* /*values*/, Scalars<T>& s) {
        const bool decoupled = h[kDecoupled] != 0.0;
        double c1 = 1.0, root_c2 = 1.0;
        if (h[kBiasCorrection] != 0.0) {
            c1 = powers.one_minus_power(h[kBeta1], update_number);
            root_c2 = square_root(powers.one_minus_power(h[kBeta2], update_number));
        }
        // eps_mode "hat" adds eps to the uncorrected root, so the correction moves into the step
        const bool hat = h[kEpsHat] != 0.0;
        const bool coupled = !decoupled && h[kWeightDecay] != 0.0;
        s.shrink = static_cast<T>(decoupled ? 1.0 - h[kLr] * h[kWeightDecay] : 1.0);
        s.decay = static_cast<T>(h[kWeightDecay]);
        s.rate1 = static_cast<T>(1.0 - h[kBeta1]);
        s.beta2 = static_cast<T>(h[kBeta2]);
        s.rate2 = static_cast<T>(1.0 - h[kBeta2]);
        s.root_correction = static_cast<T>(hat ? 1.0 : 1.0 / root_c2);
        s.eps = static_cast<T>(h[kEps]);
        s.eps_root = static_cast<T>(h[kEpsRoot]);
        s.step = static_cast<T>(hat ? h[kLr] * root_c2 / c1 : h[kLr] / c1);
        unsigned variant = 0;
        if (coupled) variant |= kCoupled;
        if (h[kAmsgrad] != 0.0) variant |= kWithMaximum;
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
        if constexpr (belief) {
            const T surprise = g - m;
            v = (s.beta2 * v + s.rate2 * (surprise * surprise)) + s.eps_root;
        } else {
            v = s.beta2 * v + s.rate2 * (g * g);
        }
        T second = v;
        if constexpr (variant & kWithMaximum) {
            second = maximum(state[kVMax], v);
            state[kVMax] = second;
        }
        const T d = square_root(second) * s.root_correction + s.eps;
        p = p - s.step * m / d;
    }
};

using Adam = AdamFamily<false>;
using AdaBelief = AdamFamily<true>;

}  // namespace fusestep
