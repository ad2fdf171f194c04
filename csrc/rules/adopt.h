// ADOPT: Taniguchi et al. 2024, with clipping, as in the authors' code and timm.
#pragma once
#include "../portable/elementary.h"
#include "rule.h"

namespace fusestep {

struct Adopt : RuleDefaults {
    static constexpr const char* kName = "adopt";

    enum : int {
        kLr,
        kBeta1,
        kBeta2,
        kEps,
        kWeightDecay,
        kClipExp,  // below 0: no clipping
        kDecoupled,
        kColumnCount
    };
    static constexpr Column kColumns[kColumnCount] = {
        number("lr"),           fraction("beta1"),  fraction("beta2"), positive("eps"),
        number("weight_decay"), number("clip_exp"), flag("decoupled"),
    };

    enum : int { kM, kV, kStateCount };
    static constexpr State kStates[kStateCount] = {state("m"), state("v")};

    enum Variant : unsigned { kCoupled = 1, kFirst = 2 };
    static constexpr unsigned kVariants = 4;

    template <class T>
    struct Scalars {
        T shrink;  // 1 - lr * weight_decay when decoupled, else 1
        T decay;   // weight_decay when coupled
        T rate1;   // 1 - beta1
        T beta2;
        T rate2;  // 1 - beta2
        T eps;
        T limit;
        T lr;
    };

    static unsigned states_used(const double*) { return first_states(kStateCount); }

    template <unsigned variant>
    static constexpr Access access() {
        if (variant & kFirst) return {0, 1u << kV, true};
        return reads_and_writes(first_states(kStateCount));
    }

    template <class T>
    static T limit(double clip_exp, long long update_number) {
        constexpr double kLargest = sizeof(T) == sizeof(float) ? 0x1.fffffep127 : kUnbounded;
        if (clip_exp < 0.0) return static_cast<T>(kLargest);
        const double t = static_cast<double>(update_number - 1);
        const double power = power_of({t, 0.0}, {clip_exp, 0.0}).hi;
        return static_cast<T>(power < kLargest ? power : kLargest);
    }

    template <class T, class Powers>
    static unsigned prepare(const double* h, long long update_number, Powers&, double* /*values*/,
                            Scalars<T>& s) {
        const bool decoupled = h[kDecoupled] != 0.0;
        s.shrink = static_cast<T>(decoupled ? 1.0 - h[kLr] * h[kWeightDecay] : 1.0);
        s.decay = static_cast<T>(h[kWeightDecay]);
        s.rate1 = static_cast<T>(1.0 - h[kBeta1]);
        s.beta2 = static_cast<T>(h[kBeta2]);
        s.rate2 = static_cast<T>(1.0 - h[kBeta2]);
        s.eps = static_cast<T>(h[kEps]);
        s.limit = limit<T>(h[kClipExp], update_number);
        s.lr = static_cast<T>(h[kLr]);
        unsigned variant = 0;
        if (!decoupled && h[kWeightDecay] != 0.0) variant |= kCoupled;
        if (update_number == 1) variant |= kFirst;
        return variant;
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, T g, T& p, T* state) {
        T& m = state[kM];
        T& v = state[kV];
        if constexpr (variant & kCoupled) g = g + s.decay * p;
        if constexpr (variant & kFirst) {
            v = g * g;
        } else {
            if constexpr (!(variant & kCoupled)) p = p * s.shrink;
            T u = g / maximum(square_root(v), s.eps);
            u = u < -s.limit ? -s.limit : u;
            u = u > s.limit ? s.limit : u;
            m = m + s.rate1 * (u - m);
            v = s.beta2 * v + s.rate2 * (g * g);
            p = p - s.lr * m;
        }
    }
};

}  // namespace fusestep
