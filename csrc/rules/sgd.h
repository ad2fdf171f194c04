// Stochastic gradient descent: momentum (Polyak 1964; Sutskever et al. 2013), with torch's
// conventions.
#pragma once
#include "rule.h"

namespace fusestep {

struct Sgd : RuleDefaults {
    static constexpr const char* kName = "sgd";

    enum : int { kBuffer, kStateCount };
    static constexpr State kStates[kStateCount] = {state("momentum")};

    enum : int {
        kLr,
        kMomentum,
        kDampening,
        kWeightDecay,
        kNesterov,
        kDecoupled,
        kBuffered,
        kColumnCount
    };
    static constexpr Column kColumns[kColumnCount] = {
        number("lr"),           number("momentum"), number("dampening", -kUnbounded),
        number("weight_decay"), flag("nesterov"),   flag("decoupled"),
        flag("buffered"),  // 1 when momentum is scheduled: update the buffer even at 0
    };

    enum Variant : unsigned { kWithMomentum = 1, kFirst = 2, kLookAhead = 4, kCoupled = 8 };
    static constexpr unsigned kVariants = 16;

    template <class T>
    struct Scalars {
        T shrink;    // 1 - lr * weight_decay when decoupled, else 1
        T decay;     // weight_decay when coupled
        T momentum;  // mu
        T gain;      // 1 - dampening
        T lr;
    };

    static bool has_buffer(const double* h) { return h[kMomentum] != 0.0 || h[kBuffered] != 0.0; }

    static unsigned states_used(const double* h) { return first_states(has_buffer(h) ? 1 : 0); }

    template <unsigned variant>
    static constexpr Access access() {
        return reads_and_writes(first_states((variant & kWithMomentum) ? 1 : 0));
    }

    template <class T, class Powers>
    static unsigned prepare(const double* h, long long update_number, Powers&, double* /*values*/,
                            Scalars<T>& s) {
        const bool decoupled = h[kDecoupled] != 0.0;
        s.shrink = static_cast<T>(decoupled ? 1.0 - h[kLr] * h[kWeightDecay] : 1.0);
        s.decay = static_cast<T>(h[kWeightDecay]);
        s.momentum = static_cast<T>(h[kMomentum]);
        s.gain = static_cast<T>(1.0 - h[kDampening]);
        s.lr = static_cast<T>(h[kLr]);
        unsigned variant = 0;
        if (has_buffer(h)) {
            variant |= kWithMomentum;
            if (update_number == 1) variant |= kFirst;
            if (h[kNesterov] != 0.0) variant |= kLookAhead;
        }
        if (!decoupled && h[kWeightDecay] != 0.0) variant |= kCoupled;
        return variant;
    }

    template <class T>
    static Rest rest(unsigned variant, const Scalars<T>& s) {
        if ((variant & kCoupled) || s.shrink != T(1)) return Rest::kNone;
        return (variant & kWithMomentum) ? Rest::kWithoutState : Rest::kAll;
    }

    template <unsigned variant, class T>
    FUSESTEP_INLINE void update(const Scalars<T>& s, T g, T& p, T* state) {
        if constexpr (variant & kCoupled) {
            g = g + s.decay * p;
        } else {
            p = p * s.shrink;
        }
        if constexpr (variant & kWithMomentum) {
            T& b = state[kBuffer];
            // torch's convention: the first update takes the gradient whole, without dampening
            if constexpr (variant & kFirst) {
                b = g;
            } else {
                b = s.momentum * b + s.gain * g;
            }
            if constexpr (variant & kLookAhead) {
                g = g + s.momentum * b;
            } else {
                g = b;
            }
        }
        p = p - s.lr * g;
    }
};

}  // namespace fusestep
