// Adadelta: steps as large as the last ones: Zeiler 2012.
#pragma once
#include "rule.h"

namespace fusestep {

struct Adadelta : RuleDefaults {
    static constexpr const char* kName = "adadelta";

    enum : int { kLr, kRho, kEps, kWeightDecay, kDecoupled, kColumnCount };
    static constexpr Column kColumns[kColumnCount] = {
        number("lr"), fraction("rho"), positive("eps"), number("weight_decay"), flag("decoupled"),
    };

    enum : int { kV, kAccDelta, kStateCount };
    static constexpr State kStates[kStateCount] = {state("v"), state("acc_delta")};

    enum Variant : unsigned { kCoupled = 1 };
    static constexpr unsigned kVariants = 2;

    template <class T>
    struct Scalars {
        T shrink;  // 1 - lr * weight_decay when decoupled, else 1
        T decay;   // weight_decay when coupled
        T rho;
        T rate;  // 1 - rho
        T eps;
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
        const bool decoupled = h[kDecoupled] != 0.0;
        s.shrink = static_cast<T>(decoupled ? 1.0 - h[kLr] * h[kWeightDecay] : 1.0);
        s.decay = static_cast<T>(h[kWeightDecay]);
        s.rho = static_cast<T>(h[kRho]);
        s.rate = static_cast<T>(1.0 - h[kRho]);
        s.eps = static_cast<T>(h[kEps]);
        s.lr = static_cast<T>(h[kLr]);
        unsigned variant = 0;
        if (!decoupled && h[kWeightDecay] != 0.0) variant |= kCoupled;
        return variant;
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, T g, T& p, T* state) {
        T& v = state[kV];
        T& acc_delta = state[kAccDelta];
        if constexpr (variant & kCoupled) {
            g = g + s.decay * p;
        } else {
            p = p * s.shrink;
        }
        v = s.rho * v + s.rate * (g * g);
        const T delta = square_root(acc_delta + s.eps) / square_root(v + s.eps) * g;
        acc_delta = s.rho * acc_delta + s.rate * (delta * delta);
        p = p - s.lr * delta;
    }
};

}  // namespace fusestep
