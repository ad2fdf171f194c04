// The Adam family. Adam: Kingma and Ba 2015; decoupled decay: Loshchilov and Hutter 2019;
// AMSGrad: Reddi et al. 2018; AdaBelief: Zhuang et al. 2020.
#pragma once
#include "rule.h"

namespace fusestep {

template <bool belief>
struct AdamFamily {
    static constexpr const char* kName = belief ? "adabelief" : "adam";
    static constexpr int kStates = 3;
    static constexpr const char* kStateNames[kStates] = {"m", "v", "v_max"};

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
        T decay;  // weight_decay when coupled, else what is left of p
        T rate1;  // 1 - beta1
        T beta2;
        T rate2;            // 1 - beta2
        T root_correction;  // 1 / sqrt(1 - beta2^t), or 1
        T eps;
        T eps_root;
        T step;
    };

    static int states_used(const double* h) { return h[kAmsgrad] != 0.0 ? 3 : 2; }

    template <unsigned variant>
    static constexpr int states_touched() {
        return (variant & kWithMaximum) ? 3 : 2;
    }

    template <class T, class Powers>
    static unsigned prepare(const double* h, long long update_number, Powers& powers,
                            Scalars<T>& s) {
        const bool decoupled = h[kDecoupled] != 0.0;
        double c1 = 1.0, root_c2 = 1.0;
        if (h[kBiasCorrection] != 0.0) {
            c1 = powers.one_minus_power(h[kBeta1], update_number);
            root_c2 = square_root(powers.one_minus_power(h[kBeta2], update_number));
        }
        // eps_mode "hat" adds eps to the uncorrected root, so the correction moves into the step
        const bool hat = h[kEpsHat] != 0.0;
        const bool coupled = !decoupled && h[kWeightDecay] != 0.0;
        s.decay = static_cast<T>(coupled     ? h[kWeightDecay]
                                 : decoupled ? 1.0 - h[kLr] * h[kWeightDecay]
                                             : 1.0);
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
        T& m = state[0];
        T& v = state[1];
        if constexpr (variant & kCoupled) {
            g = g + s.decay * p;
        } else {
            p = p * s.decay;
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
            second = maximum(state[2], v);
            state[2] = second;
        }
        const T d = square_root(second) * s.root_correction + s.eps;
        p = p - s.step * m / d;
    }
};

using Adam = AdamFamily<false>;
using AdaBelief = AdamFamily<true>;

}  // namespace fusestep
